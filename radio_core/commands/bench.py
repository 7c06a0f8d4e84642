"""Measure speed: radio bench {throughput,sam,load,train-step,knn} ..."""

from collections.abc import Sequence

from radio_core.cli import find_commands, summaries
from radio_core.commands import UsageError

GROUP = "radio.bench"
"""Entry point group of the benchmarks, each called as `function(argv) -> int`."""


def main(argv: Sequence[str]) -> int:
    """Run `radio bench NAME ...`; returns the exit code. A benchmark is imported when it runs."""
    benchmarks = find_commands(GROUP)
    if not argv or argv[0] in ("-h", "--help"):
        lines = summaries(benchmarks)
        print("\n".join(["usage: radio bench NAME [OPTIONS]", "", "benchmarks:", *lines]))
        print("\n'radio bench NAME --help' tells a benchmark's options.")
        return 0 if argv else 2
    name, *rest = argv
    if name not in benchmarks:
        raise UsageError(f"unknown benchmark {name!r}; known: {', '.join(benchmarks)}")
    return int(benchmarks[name].load()(rest))
