"""Compute the teacher outputs of a recipe once and keep them on disk.

radio cache-teachers RECIPE [--yes] [--field value ...]   same fields as radio train
"""

from radio_core.commands import UsageError


def main(argv: list[str]) -> int:
    """Run `radio cache-teachers`: print the size, ask for --yes over 10 GB, fill the cache."""
    from radio_core.commands.recipe_options import (
        read_recipe,
        recipe_list,
        teachers_from_command_line,
    )

    confirmed = "--yes" in argv
    argv = [argument for argument in argv if argument != "--yes"]
    if not argv or argv[0] in ("-h", "--help"):
        print(f"{__doc__}\n{recipe_list()}")
        return 0 if argv else 2
    config = read_recipe(argv, "radio cache-teachers")
    if config.cached_views == 0:
        raise UsageError("nothing to cache: set --cached-views to the number of crops to keep")
    from rich.console import Console

    from radio_core.distill.trainer import fill_cache, open_run

    console = Console(stderr=True)
    with teachers_from_command_line():
        run = open_run(config, console, confirmed)
    assert run.cache is not None
    skipped = fill_cache(run.cache, console)
    for path, reason in sorted(set(skipped)):
        console.print(f"skipped {path}: {reason}", markup=False)
    print(f"{run.cache.count} views in {run.cache.folder}")
    return 0
