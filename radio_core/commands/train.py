"""Distil a student from several teachers, by a recipe.

radio train RECIPE [--field value ...]      radio train RECIPE --help lists the fields
"""

import sys
from typing import TYPE_CHECKING

from radio_core.config_file import to_mapping

if TYPE_CHECKING:
    from radio_core.distill.config import TrainConfig


def main(argv: list[str]) -> int:
    """Run `radio train`; exit code 0 when the run is complete or was interrupted cleanly."""
    from radio_core.commands.recipe_options import (
        read_recipe,
        recipe_list,
        teachers_from_command_line,
    )

    if not argv or argv[0] in ("-h", "--help"):
        print(f"{__doc__}\n{recipe_list()}")
        return 0 if argv else 2
    config = read_recipe(argv, "radio train")
    if config.dry_run:
        _describe(config)
        return 0

    from radio_core.distill.trainer import train

    with teachers_from_command_line():
        result = train(config)
    if result.student is not None:
        print(f"student after {result.step} steps: {result.student}")
    return 0


def _describe(config: "TrainConfig") -> None:
    """Print the resolved config and the plan of the run."""
    import yaml

    from radio_core.distill.run_folder import reusable
    from radio_core.distill.schedule import Schedule
    from radio_core.distill.views import open_source

    yaml.safe_dump(to_mapping(reusable(config)), sys.stdout, sort_keys=False)
    source = open_source(config.data, config.scenes)
    samples = Schedule(config, len(source)).samples_before(config.last_step + 1)
    print(f"# {config.last_step} of {config.total_steps} steps, {samples} views, ", end="")
    print(f"{len(source)} images in {config.data}")
