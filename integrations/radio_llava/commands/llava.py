"""LLaVA-1.5 with RADIO as its vision tower: radio llava {train,chat,eval,quickstart,...} ..."""

from collections.abc import Sequence

from radio_core.cli import find_commands, summaries
from radio_core.commands import UsageError

GROUP = "radio.llava"
"""Entry point group of the actions, each called as `function(argv) -> int`."""


def main(argv: Sequence[str]) -> int:
    """Run `radio llava ACTION ...`; returns the exit code. An action is imported when it runs."""
    actions = find_commands(GROUP)
    if not argv or argv[0] in ("-h", "--help"):
        lines = summaries(actions)
        print("\n".join(["usage: radio llava ACTION [OPTIONS]", "", "actions:", *lines]))
        print("\n'radio llava ACTION --help' tells an action's options.")
        return 0 if argv else 2
    action, *rest = argv
    if action not in actions:
        raise UsageError(f"unknown action {action!r}; known: {', '.join(actions)}")
    return int(actions[action].load()(rest))
