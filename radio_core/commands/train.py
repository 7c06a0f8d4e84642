"""Distil a student from several teachers, by a recipe.

radio train RECIPE [--field value ...]      radio train RECIPE --help lists the fields
"""

import sys

from radio_core.commands import UsageError, parse
from radio_core.config_file import to_mapping


def main(argv: list[str]) -> int:
    """Run `radio train`; exit code 0 when the run is complete or was interrupted cleanly."""
    from radio_core.distill.config import TrainConfig
    from radio_core.distill.recipes import RECIPES, get_recipe

    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        print("recipes:")
        for name, recipe in RECIPES.items():
            print(f"  {name:<12}{(recipe.__doc__ or '').splitlines()[0]}")
        return 0 if argv else 2
    try:
        default = get_recipe(argv[0])
    except ValueError as error:
        raise UsageError(str(error)) from error
    config = parse(TrainConfig, argv[1:], prog=f"radio train {argv[0]}", default=default)
    if config.dry_run:
        _describe(config)
        return 0

    from radio_core.distill.trainer import train
    from radio_core.teachers import UnknownTeacher

    try:
        result = train(config)
    except UnknownTeacher as error:
        raise UsageError(str(error)) from error
    if result.student is not None:
        print(f"student after {result.step} steps: {result.student}")
    return 0


def _describe(config: object) -> None:
    """Print the resolved config and the plan of the run."""
    import yaml

    from radio_core.distill.config import TrainConfig
    from radio_core.distill.run_folder import reusable
    from radio_core.distill.schedule import Schedule
    from radio_core.distill.views import open_source

    assert isinstance(config, TrainConfig)
    yaml.safe_dump(to_mapping(reusable(config)), sys.stdout, sort_keys=False)
    source = open_source(config.data, config.scenes)
    samples = Schedule(config, len(source)).samples_before(config.last_step + 1)
    print(f"# {config.last_step} of {config.total_steps} steps, {samples} views, ", end="")
    print(f"{len(source)} images in {config.data}")
