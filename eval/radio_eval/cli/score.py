"""Score files of predictions, without a model: masks, label maps and answers to questions."""

import json
from collections.abc import Callable, Mapping, Sequence

from radio_core.cli import UsageError, parse
from radio_eval.cli.score_dense import CocoSegmOptions, SamMiouOptions, SegMiouOptions
from radio_eval.cli.score_vqa import VQA_SCORES, VqaScoreOptions

TASKS: dict[
    str, Callable[..., SamMiouOptions | CocoSegmOptions | SegMiouOptions | VqaScoreOptions]
] = {
    "sam-miou": SamMiouOptions,
    "coco-segm": CocoSegmOptions,
    "seg-miou": SegMiouOptions,
    **VQA_SCORES,
}


def main(argv: Sequence[str]) -> int:
    """Run `radio score TASK ...`; returns the exit code."""
    usage = f"radio score {{{','.join(TASKS)}}} OPTIONS [--json FILE]"
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: {usage}\n\n'radio score TASK --help' lists a task's options.")
        return 0 if argv else 2
    task, *rest = argv
    if task not in TASKS:
        raise UsageError(f"unknown task {task!r}; known: {', '.join(TASKS)}")
    options = parse(TASKS[task], rest, prog=f"radio score {task}")
    scores = options.scores()
    for name, value in scores.items():
        print(f"{name}: {_shown(value)}")
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    return 0


def _shown(value: float | int | Mapping[str, float] | Sequence[float | None] | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(part)}" for name, part in value.items())
    if isinstance(value, Sequence):
        return ", ".join(_shown(part) for part in value)
    return str(value) if isinstance(value, int) else f"{value:.4f}"
