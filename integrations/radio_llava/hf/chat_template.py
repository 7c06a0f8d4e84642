"""LLaVA-1.5's prompt as a chat template."""

# Images come first in their message, each on a line of its own, unless a text names their places.
# The answers are marked as what is to be learnt.
_V1 = """\
{%- if messages[0]['role'] != 'system' -%}
{{ "A chat between a curious user and an artificial intelligence assistant. \
The assistant gives helpful, detailed, and polite answers to the user's questions. " }}
{%- endif -%}
{%- for message in messages -%}
{%- if message['role'] != 'system' -%}{{ message['role'] | upper + ': ' }}{%- endif -%}
{%- if message['content'] is string -%}{%- set text = message['content'] -%}
{%- else -%}
{%- for part in message['content'] if part['type'] == 'image' -%}{{ 'IMAGE\\n' }}{%- endfor -%}
{%- set text = message['content'] | selectattr('type', 'equalto', 'text') | map(attribute='text') \
| join(' ') -%}
{%- endif -%}
{%- set text = text | replace('<image>', 'IMAGE') -%}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{ text + eos_token }}{%- endgeneration -%}
{%- else -%}{{ text + ' ' }}{%- endif -%}
{%- endfor -%}
{{ 'ASSISTANT:' if add_generation_prompt else '' }}"""

MARKED_IMAGE = "<im_start><image><im_end>"
"""An image for models that were trained with LLaVA's `--mm_use_im_start_end True`."""


def llava_v1(image: str = "<image>") -> str:
    """The template that makes of messages what LLaVA's conversation "v1" (Vicuna) makes of them.

    Args:
        image: what stands for an image: "<image>", or `MARKED_IMAGE`.
    """
    return _V1.replace("IMAGE", image)


LLAVA_V1 = llava_v1()
