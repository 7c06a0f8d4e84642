"""Distil a student from several teachers, by a recipe.

radio train RECIPE [--field value ...]      radio train RECIPE --help lists the fields

Several processes, one a GPU (rank 0 writes; all of them end where one fails):
  torchrun --nproc-per-node N -m radio_core.cli train RECIPE ...
  accelerate launch --num_processes N -m radio_core.cli train RECIPE ...
--parallel fsdp shards the student over them, and --stages.N.groups-per-step all gives each group
of teachers its own processes. --resume goes on with any number of processes.

--dry-run prints the config and, after it, what the run needs and costs, for
  --gpus N --gpu-tflops T --mfu SHARE --gpu-hour-price P     (1, 312, 0.4, no price)
"""

import argparse
import os
import sys
from typing import TYPE_CHECKING

from radio_core.cli import UsageError
from radio_core.config_file import to_mapping

if TYPE_CHECKING:
    from radio_core.distill.config import TrainConfig


def main(argv: list[str]) -> int:
    """Run `radio train`; exit code 0 when the run is complete or was interrupted cleanly."""
    from radio_core.cli.recipe_options import (
        read_recipe,
        recipe_list,
        teachers_from_command_line,
    )

    if not argv or argv[0] in ("-h", "--help"):
        print(f"{__doc__}\n{recipe_list()}")
        return 0 if argv else 2
    machine, argv = _take_machine(argv)
    config = read_recipe(argv, "radio train")
    if config.dry_run:
        _describe(config, machine)
        return 0
    if machine:
        raise UsageError(f"{', '.join(machine)}: only for --dry-run")

    from radio_core.distill.trainer import train

    with teachers_from_command_line():
        result = train(config)
    if result.student is not None and os.environ.get("RANK", "0") == "0":
        print(f"student after {result.step} steps: {result.student}")
    return 0


def _take_machine(argv: list[str]) -> tuple[dict[str, float], list[str]]:
    """The options of the dry run's machine, and the other arguments."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--gpus", type=int)
    for option in ("--gpu-tflops", "--mfu", "--gpu-hour-price"):
        parser.add_argument(option, type=float)
    try:
        given, rest = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from error
    return {name: value for name, value in vars(given).items() if value is not None}, rest


def _describe(config: "TrainConfig", machine: "dict[str, float]") -> None:
    """Print the resolved config as YAML, and the plan of the run as comments below it."""
    import yaml

    from radio_core.distill.plan import Machine, plan_run
    from radio_core.distill.plan_table import plan_lines
    from radio_core.distill.run_folder import reusable

    try:
        planned = Machine(**machine)  # type: ignore[arg-type]
    except ValueError as error:
        raise UsageError(str(error)) from error
    yaml.safe_dump(to_mapping(reusable(config)), sys.stdout, sort_keys=False)
    for line in [*plan_lines(plan_run(config, planned)), _samples(config)]:
        print(f"# {line}")


def _samples(config: "TrainConfig") -> str:
    """How many views of how many images the run sees; data that is not there yet is no error."""
    from rich.console import Console

    from radio_core.data.order import PlainOrder, order_of
    from radio_core.distill.inputs import open_data
    from radio_core.distill.schedule import Schedule

    names = ", ".join(config.data)
    try:
        source = open_data(config, Console(stderr=True))
    except (ValueError, OSError) as error:
        samples = Schedule(config, PlainOrder(1, 0)).samples_before(config.last_step + 1)
        images = f"an unknown number of images ({' '.join(str(error).split())})"
    else:
        order = order_of(source, config.seed)
        samples = Schedule(config, order).samples_before(config.last_step + 1)
        images = f"{len(source)} images in {names}"
    return f"{config.last_step} of {config.total_steps} steps, {samples} views, {images}"
