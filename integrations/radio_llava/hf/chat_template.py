"""LLaVA-1.5's prompt as a chat template."""

# What LLaVA's conversation "v1" (Vicuna) makes of the same messages; images come first in their
# message, each on a line of its own. The answers are marked as what is to be learnt.
LLAVA_V1 = """\
{%- if messages[0]['role'] != 'system' -%}
{{ "A chat between a curious user and an artificial intelligence assistant. \
The assistant gives helpful, detailed, and polite answers to the user's questions. " }}
{%- endif -%}
{%- for message in messages -%}
{%- if message['role'] != 'system' -%}{{ message['role'] | upper + ': ' }}{%- endif -%}
{%- if message['content'] is string -%}{%- set text = message['content'] -%}
{%- else -%}
{%- for part in message['content'] if part['type'] == 'image' -%}{{ '<image>\\n' }}{%- endfor -%}
{%- set text = message['content'] | selectattr('type', 'equalto', 'text') | map(attribute='text') \
| join(' ') -%}
{%- endif -%}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{ text + eos_token }}{%- endgeneration -%}
{%- else -%}{{ text + ' ' }}{%- endif -%}
{%- endfor -%}
{{ 'ASSISTANT:' if add_generation_prompt else '' }}"""
