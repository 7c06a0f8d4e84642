"""Compute the teacher outputs of a recipe once and keep them on disk.

radio cache-teachers RECIPE [--yes] [--field value ...]   same fields as radio train
"""

from radio_core.commands import UsageError, parse


def main(argv: list[str]) -> int:
    """Run `radio cache-teachers`: print the size, ask for --yes over 10 GB, fill the cache."""
    from radio_core.distill.config import TrainConfig
    from radio_core.distill.recipes import RECIPES, get_recipe

    confirmed = "--yes" in argv
    argv = [argument for argument in argv if argument != "--yes"]
    if not argv or argv[0] in ("-h", "--help"):
        print(f"{__doc__}\nrecipes: {', '.join(RECIPES)}")
        return 0 if argv else 2
    try:
        default = get_recipe(argv[0])
    except ValueError as error:
        raise UsageError(str(error)) from error
    prog = f"radio cache-teachers {argv[0]}"
    config = parse(TrainConfig, argv[1:], prog=prog, default=default)
    if config.cached_views == 0:
        raise UsageError("nothing to cache: set --cached-views to the number of crops to keep")
    from rich.console import Console

    from radio_core.distill.trainer import fill_cache, open_run
    from radio_core.teachers import UnknownTeacher

    console = Console(stderr=True)
    try:
        run = open_run(config, console, confirmed)
    except UnknownTeacher as error:
        raise UsageError(str(error)) from error
    assert run.cache is not None
    skipped = fill_cache(run.cache, console)
    for path, reason in sorted(set(skipped)):
        console.print(f"skipped {path}: {reason}", markup=False)
    print(f"{run.cache.count} views in {run.cache.folder}")
    return 0
