"""The stream of views and pixels is the same however often a run is stopped and resumed."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from radio_core.cli.train import read_recipe
from radio_core.data.sources import ImageSource, open_source
from radio_core.data.storage import Storage
from radio_core.distill.config import DataConfig, StudentConfig, TrainConfig
from radio_core.distill.groups import GroupConfig, StageConfig, TeacherConfig
from radio_core.distill.schedule import BatchPlan, Schedule
from radio_core.distill.trainer import train
from radio_core.distill.views import Views
from radio_core.models.vit import vit_config

Make = Callable[..., Path]
MakeRun = Callable[..., TrainConfig]
Batch = tuple[tuple[int, ...], Tensor, list[tuple[str, str]]]
GROUPS = tuple(GroupConfig(teachers=("a",), batch_size=size, resolutions=(16,)) for size in (3, 5))
CONFIG = TrainConfig(
    student=StudentConfig(backbone=vit_config("tiny")),
    teachers={"a": TeacherConfig(source="a")},
    stages=(StageConfig(steps=40, groups=GROUPS),),
    data=DataConfig(crop_scale=(0.3, 0.8)),
)
KINDS = ["folder", "shards", "parquet", "mixture", "own"]
OWN = """
from PIL import Image

class Shades:
    def __len__(self):
        return 29

    def read(self, index):
        return Image.new("RGB", (20, 24), (8 * index,) * 3)
"""


@pytest.fixture
def open_kind(
    make_folder: Make,
    make_shard: Make,
    make_parquet: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str], ImageSource]:
    """Opens a source anew, with unreadable samples in it, as a started process does."""
    photos = make_folder(tmp_path / "photos", range(31))
    (photos / "1/13.png").write_bytes(b"no picture")
    for number in range(4):
        make_shard(tmp_path / f"s-{number}.tar", range(40 + 9 * number, 49 + 9 * number))
    damaged = bytearray((tmp_path / "s-1.tar").read_bytes())
    damaged[512:600] = bytes(88)
    (tmp_path / "s-1.tar").write_bytes(damaged)
    make_parquet(tmp_path / "t.parquet", range(100, 127))
    names = {
        "folder": [str(photos)],
        "shards": [f"shards:{tmp_path}/s-*.tar"],
        "parquet": [f"parquet:{tmp_path}/t.parquet"],
    }
    names["mixture"] = [name for (name,) in names.values()]
    (tmp_path / "own_shades.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    names["own"] = ["own_shades:Shades"]

    def make(kind: str) -> ImageSource:
        if kind in ("parquet", "mixture"):
            pytest.importorskip(
                "datasets", reason="needs the extra 'train'"
            ).disable_progress_bars()
        weights = (0.6, 0.3, 0.1) if kind == "mixture" else ()
        return open_source(names[kind], weights, storage=Storage(tmp_path / "storage"))

    return make


def stream(source: ImageSource, first: int, workers: int) -> Iterator[Batch]:
    """The batches from step `first` on, as the trainer reads them."""
    views = Views(source, CONFIG.data.crop_scale, CONFIG.run.seed)
    schedule = Schedule(CONFIG, views.order)

    def steps() -> Iterator[tuple[BatchPlan, tuple[int, int]]]:
        for number in range(first, CONFIG.total_steps + 1):
            for batch in schedule.batches(number):
                yield batch, (16, 16)

    for batch in views.loader(steps(), workers):
        yield batch.plan.views, batch.images, batch.skipped


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_and_resumed_with_other_workers_gives_the_same_stream(
    kind: str, open_kind: Callable[[str], ImageSource]
) -> None:
    whole = list(stream(open_kind(kind), 1, 0))
    assert sum(len(views) for views, _, _ in whole) > 120  # several epochs
    assert len({view for views, _, _ in whole for view in views}) > 120
    if kind in ("folder", "shards"):
        assert any(skipped for _, _, skipped in whole)
    stops = sorted(np.random.default_rng(len(kind)).choice(np.arange(2, 40), 3, replace=False))
    resumed: list[Batch] = []
    for number, stop in enumerate([*stops, 41]):
        workers = (2, 0, 1, 2)[number]
        batches = stream(open_kind(kind), len(resumed) + 1, workers)
        while len(resumed) + 1 < stop:
            resumed.append(next(batches))
        batches.close()
    for one, other in zip(whole, resumed, strict=True):
        assert one[0] == other[0]
        assert torch.equal(one[1], other[1])
        assert one[2] == other[2]


def test_sources_of_a_mixture_have_their_shares_of_the_stream(
    open_kind: Callable[[str], ImageSource],
) -> None:
    batches = stream(open_kind("mixture"), 1, 0)
    shades = np.concatenate([images[:, 0, 8, 8].numpy() for _, images, _ in batches])
    shares = [np.mean(shades < 40), np.mean((shades >= 40) & (shades < 100)), np.mean(shades > 99)]
    assert shares == pytest.approx([0.6, 0.3, 0.1], abs=0.12)


def test_a_run_over_shards_resumes_bit_for_bit(
    tiny_run: MakeRun, make_shard: Make, make_folder: Make, tmp_path: Path
) -> None:
    for number in range(3):
        make_shard(tmp_path / f"s-{number}.tar", range(9 * number, 9 * number + 9))
    data = (f"shards:{tmp_path}/s-*.tar", str(make_folder(tmp_path / "photos", range(20))))
    cache = tmp_path / "storage"
    config = tiny_run(sources=data, weights=(0.75, 0.25), cache=cache, max_steps=8)
    quiet = Console(quiet=True)
    train(config.changed(run={"max_steps": 5}, engine={"workers": 1}), quiet)
    train(config.changed(run={"resume": True}, engine={"workers": 2}), quiet)
    train(config.changed(run={"out": tmp_path / "whole"}), quiet)
    names = ["metrics.jsonl", "checkpoints/step-00000008/model.safetensors", "data.json"]
    for name in names:
        assert (config.run.out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_resuming_over_other_data_is_refused(
    tiny_run: MakeRun, make_folder: Make, tmp_path: Path
) -> None:
    photos = make_folder(tmp_path / "photos", range(20))
    config, quiet = tiny_run(sources=(str(photos),), max_steps=3), Console(quiet=True)
    train(config, quiet)
    make_folder(photos, [30])
    changed = config.changed(run={"resume": True, "max_steps": 4})
    with pytest.raises(
        ValueError, match=r"other training data: 20 images then, 21 now.*--override"
    ):
        train(changed, quiet)
    assert train(changed.changed(run={"override": True}), quiet).step == 4
    assert (
        train(changed.changed(run={"max_steps": 5}), quiet).step == 5
    )  # that is now the run's data


def test_sources_and_weights_on_the_command_line(tmp_path: Path) -> None:
    flags = ["--data.sources", "shards:/a/{0..9}.tar", "toyworld", "--data.weights", "0.95", "0.05"]
    config = read_recipe(["toy", *flags], "radio train")
    assert config.data.sources == ("shards:/a/{0..9}.tar", "toyworld")
    assert config.data.weights == (0.95, 0.05)
    assert read_recipe(["toy", "--data.sources", "photos"], "radio train").data.sources == (
        "photos",
    )
    (tmp_path / "run.yaml").write_text("data:\n  sources: [a, b]\n  weights: [3, 1]\n")
    config = read_recipe(["toy", "--config", str(tmp_path / "run.yaml")], "radio train")
    assert (config.data.sources, config.data.weights) == (("a", "b"), (3.0, 1.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": "photos"}, "data sources must be one or more names"),
        ({"sources": ()}, "data sources must be one or more names"),
        ({"sources": ("a", "b"), "weights": (1.0,)}, r"1 data weights for 2 sources.*\(a, b\)"),
        ({"sources": ("a", "b"), "weights": (1.0, 0.0)}, "must be positive numbers"),
        ({"weights": (float("inf"),)}, "must be positive numbers"),
        ({"cache_gb": 0.0}, "cache_gb must be positive"),
        ({"crop_scale": (0.5, 0.2)}, "crop_scale"),
    ],
)
def test_fields_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CONFIG.changed(data=changes)
