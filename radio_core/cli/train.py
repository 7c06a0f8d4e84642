"""Commands that take a recipe and its fields: training, caching, timing a training step."""

import argparse
import dataclasses
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radio_core.cli import UsageError, parse, write_json
from radio_core.config_file import to_mapping

if TYPE_CHECKING:
    from radio_core.distill.config import TrainConfig


def train(argv: Sequence[str]) -> int:
    """Distil a student from several teachers, by a recipe.

    radio train RECIPE [--field value ...]      radio train RECIPE --help lists the fields

    A recipe, the source of a teacher, a loss, a balancer and data can be code of your own, as
    MODULE:ATTRIBUTE of a file on PYTHONPATH; so can --student MODULE:CLASS, which takes the place
    of the recipe's student.

    Several processes, one a GPU (rank 0 writes; all of them end where one fails):
      torchrun --nproc-per-node N -m radio_core.cli train RECIPE ...
      accelerate launch --num_processes N -m radio_core.cli train RECIPE ...
    --engine.parallel fsdp shards the student over them, and --stages.N.groups-per-step all gives
    each group of teachers its own processes. --resume goes on with any number of processes.

    --dry-run prints the config and, after it, what the run needs and costs, for
      --gpus N --gpu-tflops T --mfu SHARE --gpu-hour-price P     (1, 312, 0.4, no price)
    """
    if _asks_for_help(train, argv):
        return 0 if argv else 2
    options = {"--gpus": int, "--gpu-tflops": float, "--mfu": float, "--gpu-hour-price": float}
    machine, argv = _take(argv, **{name: {"type": kind} for name, kind in options.items()})
    config = read_recipe(argv, "radio train")
    if config.run.dry_run:
        _describe(config, machine)
        return 0
    if machine:
        raise UsageError(f"{', '.join(machine)}: only for --dry-run")

    from radio_core.distill.trainer import train as run
    from radio_core.processes import Processes

    result = run(config)
    if result.student is not None and Processes.launched().first:
        print(f"student after {result.step} steps: {result.student}")
    return 0


def cache_teachers(argv: Sequence[str]) -> int:
    """Compute the teacher outputs of a recipe once and keep them on disk.

    radio cache-teachers RECIPE [--yes] [--part R/N] [--field value ...]

    The fields are those of radio train; caches of more than 10 GB need --yes. --part fills every
    N-th shard from shard R (0 … N - 1) on, so that N processes or machines fill one cache together;
    under torchrun that is the default. What is on disk stays: the same command goes on where an
    earlier one stopped.
    """
    if _asks_for_help(cache_teachers, argv):
        return 0 if argv else 2
    from rich.console import Console

    from radio_core.distill.targets import open_targets
    from radio_core.distill.views import open_views
    from radio_core.processes import Processes

    taken, argv = _take(argv, **{"--yes": {"action": "store_true"}, "--part": {"type": str}})
    place = Processes.launched()
    part, given = (place.rank, place.size), taken.get("part")
    if given is not None:
        number, _, count = given.partition("/")
        if not (number.isdigit() and count.isdigit() and int(number) < int(count)):
            raise UsageError(f"--part must be R/N with R from 0 to N - 1, e.g. 0/4, not {given!r}")
        part = int(number), int(count)
    config = read_recipe(argv, "radio cache-teachers")
    if config.targets.cached_views == 0:
        raise UsageError(
            "nothing to cache: set --targets.cached-views to the number of crops to keep"
        )
    console = Console(stderr=True)
    views = open_views(config.data, config.run.seed, console)
    targets = open_targets(config, views, console, confirmed=bool(taken.get("yes")))
    assert targets.cache is not None
    for path, reason in sorted(set(targets.fill_cache(console, part))):
        console.print(f"skipped {path}: {reason}", markup=False)
    print(f"{targets.cache.done} of {targets.cache.count} views in {targets.cache.folder}")
    return 0


def bench_train_step(argv: Sequence[str]) -> int:
    """Time a training step and its parts, or with and without a teacher cache.

    radio bench train-step [RECIPE] [--cached] [--repeats N] [--json FILE] [--field value ...]

    --cached compares steps from the teacher cache with steps whose teachers run, both with their
    data loading; without a RECIPE for a ViT-S with random teachers of the size of a ViT-B/14 and a
    ViT-L/14.
    """
    if argv and _asks_for_help(bench_train_step, argv):
        return 0
    import torch
    from rich.console import Console

    from radio_core.distill.benchmark import bench_cached, cached_setting
    from radio_core.distill.benchmark import bench_train_step as bench
    from radio_core.distill.config import TrainConfig

    prog = "radio bench train-step"
    named, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else (None, argv)
    options = {"--cached": {"action": "store_true"}, "--repeats": {"type": int}, "--json": {}}
    taken, rest = _take(rest, **options)
    repeats, cached = taken.get("repeats", 15), bool(taken.get("cached"))
    if repeats < 2:
        raise UsageError(f"--repeats must be a number of at least 2, not {repeats}")
    if cached and named is None:
        default, teachers = cached_setting()
        config = parse(TrainConfig, rest, prog=f"{prog} --cached", default=default)
        rows = [row.as_json() for row in bench_cached(config, repeats, teachers)]
    else:
        config = read_recipe([named or "toy", *rest], prog)
        times = bench_cached(config, repeats) if cached else bench(config, repeats)
        rows = [row.as_json() for row in times]
    result = {
        "recipe": config.recipe,
        "repeats": repeats,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "groups": rows,
    }
    write_json(Path(taken["json"]) if "json" in taken else None, result)
    Console().print(_times_table(rows, cached))
    return 0


def _asks_for_help(command: Callable[..., int], argv: Sequence[str]) -> bool:
    """Print what a command does and the recipes, where that is asked for or nothing is named."""
    from radio_core.distill.recipes import recipe_list

    if argv and argv[0] not in ("-h", "--help"):
        return False
    print(f"{inspect.getdoc(command)}\n\n{recipe_list()}")
    return True


def _take(argv: Sequence[str], **options: Any) -> tuple[dict[str, Any], list[str]]:
    """The values of options that are no fields of a recipe, and the other arguments."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name, how in options.items():
        parser.add_argument(name, **how)
    try:
        given, rest = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from error
    taken = {
        n: value for n, value in vars(given).items() if value is not None and value is not False
    }
    return taken, rest


def read_recipe(argv: Sequence[str], prog: str) -> "TrainConfig":
    """The recipe named first, with the fields that the other arguments change.

    Raises:
        UsageError: an unknown field; the known ones are listed.
        UnknownName: an unknown recipe or student.
    """
    from radio_core.distill.config import TrainConfig
    from radio_core.distill.recipes import get_recipe
    from radio_core.distill.recipes.small import with_student
    from radio_core.models.backbone import STUDENTS, student_class

    name, *rest = argv
    default = get_recipe(name)
    taken, rest = _take(rest, **{"--student": {}})
    if "student" in taken:
        try:
            default = with_student(default, student_class(taken["student"])())
        except TypeError as error:  # a field without a default
            raise UsageError(
                f"--student {taken['student']}: {error}; write a recipe that gives it"
            ) from error
    if not any(argument.partition("=")[0] == "--config" for argument in rest):
        own = default.student.backbone
        fields = {
            kind: {field.name for field in dataclasses.fields(STUDENTS.load(kind))}  # type: ignore[arg-type]
            for kind in STUDENTS.entries
        }
        for argument in rest:
            flag = argument.partition("=")[0]
            field = flag.removeprefix("--student.backbone.").replace("-", "_")
            kinds = [kind for kind, names in fields.items() if field in names]
            if flag.startswith("--student.backbone.") and kinds and not hasattr(own, field):
                raise UsageError(
                    f"{flag} is a field of {' and '.join(kinds)} students, and this recipe's is a "
                    f"{own.type}; for another kind take its recipe (timm:NAME, e-radio-b), or give "
                    "`backbone:` with its `type:` in --config FILE.yaml"
                )
    return parse(TrainConfig, rest, prog=f"{prog} {name}", default=default)


def _describe(config: "TrainConfig", machine: dict[str, Any]) -> None:
    """Print the resolved config as YAML, and the plan of the run as comments below it."""
    import yaml
    from rich.console import Console

    from radio_core.data.order import PlainOrder
    from radio_core.distill.plan import Machine, plan_run
    from radio_core.distill.run_folder import reusable
    from radio_core.distill.schedule import Schedule
    from radio_core.distill.views import open_views

    try:
        planned = Machine(**machine)
    except ValueError as error:
        raise UsageError(str(error)) from error
    yaml.safe_dump(to_mapping(reusable(config)), sys.stdout, sort_keys=False)
    for line in plan_run(config, planned).lines():
        print(f"# {line}")
    try:
        views = open_views(config.data, config.run.seed, Console(stderr=True))
    except (ValueError, OSError) as error:  # data that is not there yet is no mistake here
        schedule = Schedule(config, PlainOrder(1, 0))
        images = f"an unknown number of images ({' '.join(str(error).split())})"
    else:
        schedule = Schedule(config, views.order)
        images = f"{len(views.source)} images in {', '.join(config.data.sources)}"
    samples = schedule.samples_before(config.last_step + 1)
    print(f"# {config.last_step} of {config.total_steps} steps, {samples} views, {images}")


def _times_table(rows: list[dict[str, Any]], cached: bool) -> Any:
    from rich.table import Table

    names = ("online", "cached") if cached else ("data", "teachers", "student", "optimizer", "step")
    unit = "images_per_second" if cached else "ms"
    ends = (
        {"speedup": "ratio"}
        if cached
        else {"ratio": "step / parts", "images_per_second": "images/s"}
    )
    what = "images a second with data loading" if cached else "one training step, medians in ms"
    table = Table(title=f"{what} (spread: half the quartile distance)")
    titles = {"online": "teachers online", "cached": "from the cache"}
    for column in ("group", "batch", *(titles.get(name, name) for name in names), *ends.values()):
        table.add_column(column)
    for row in rows:
        times = [f"{row[f'{name}_{unit}']} ±{row[f'{name}_spread_percent']}%" for name in names]
        table.add_row(
            row["group"], str(row["batch_size"]), *times, *(str(row[end]) for end in ends)
        )
    return table
