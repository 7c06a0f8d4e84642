"""Commands of `radio llava` that evaluate: the questions of a benchmark, and the quickstart."""

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from radio_core.progress import rich_progress
from radio_eval.cli.evaluate import evaluate
from radio_eval.llava_toy import CONTESTANTS, ToyLlavaSizes, prepare_toy_vqa, run_contestant
from radio_eval.report.llava import llava_page, llava_table
from radio_eval.runner import installed_versions
from radio_llava.toy import ToyTraining


@dataclass(frozen=True, kw_only=True)
class LlavaQuickstartOptions:
    """Train the same small LLaVA with RADIO's toy student, with toy-clip, and with noise to see.

    Writes OUT/results.json, OUT/report.html and the models. A run that was interrupted goes on
    after the last stage that it finished when it is started again.
    """

    out: Path = Path("runs/llava-quickstart")
    """Folder for everything that is written."""
    resolution: int = 64
    """Long edge in pixels of the images that RADIO gets."""
    sizes: ToyLlavaSizes = field(default_factory=ToyLlavaSizes)
    """How much of the toy world is seen."""
    training: ToyTraining = field(default_factory=ToyTraining)
    """Steps and rates, the same for all."""


def ask(argv: Sequence[str]) -> int:
    """Ask a LLaVA the questions of a benchmark, and score its answers: `radio eval vqa`."""
    return evaluate(["vqa", *argv])


def quickstart(options: LlavaQuickstartOptions) -> int:
    """Train toy LLaVAs with RADIO, CLIP and no eyes, and ask them about scenes they never saw."""
    console = Console()
    results: dict[str, dict[str, Any]] = {}
    with rich_progress(console) as progress:
        data = prepare_toy_vqa(options.out / "toyworld", options.sizes, progress)
    for name in CONTESTANTS:
        console.print(f"[bold]{name}[/bold]: training, then questions ...")
        start = time.perf_counter()
        work = (options.out / name, data, options.training, options.resolution)
        with rich_progress(console) as progress:
            result = run_contestant(name, *work, progress)
        seconds = round(time.perf_counter() - start, 1)
        results[name] = result | {"seconds": seconds}
        console.print(f"{name}: {result['accuracy']:.1f} % in {seconds:.0f} s")
    content = {
        "command": "radio llava quickstart",
        "results": results,
        "options": json.loads(json.dumps(dataclasses.asdict(options), default=str)),
        "threads": torch.get_num_threads(),
        "versions": installed_versions(),
    }
    file, report = options.out / "results.json", options.out / "report.html"
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    llava_page(data, options.out, content).write(report)
    console.print(*llava_table(results).terminal())
    for path in (file, report, *(options.out / name / "llava-toy" for name in results)):
        console.print(f"wrote {path}", markup=False, highlight=False)
    return 0
