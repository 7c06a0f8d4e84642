"""Teacher outputs on disk: as exact as promised, continued after an interruption, keyed by all."""

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from radio_core.data.folder import ImageFiles
from radio_core.data.toyworld import ToyWorldImages
from radio_core.distill.cache import TeacherCache, decode, downsample, encode
from radio_core.distill.config import TargetsConfig
from radio_core.distill.views import Views, to_unit
from radio_core.models.fingerprint import weights_fingerprint
from radio_core.teachers import Teacher
from radio_core.vision import ModelSpec, Output

SPEC = ModelSpec(
    name="conv",
    input_size=16,
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
    patch_size=4,
    summary_dim=6,
    feature_dim=5,
    licence="",
)


class ConvTeacher(Teacher):
    """One convolution; without a summary where its spec has none."""

    def __init__(self, spec: ModelSpec = SPEC, seed: int = 0, factor: float = 1.0) -> None:
        super().__init__(spec)
        torch.manual_seed(seed)
        self.layer = torch.nn.Conv2d(3, spec.feature_dim, spec.patch_size, spec.patch_size)
        self.projection = torch.nn.Linear(spec.feature_dim, spec.summary_dim or 1)
        self.factor = factor
        self.freeze()

    def extract(self, images: torch.Tensor) -> Output:
        features = self.layer(images) * self.factor
        summary = self.projection(features.mean(dim=(2, 3)))
        return Output(summary if self.spec.summary_dim else None, features)


def make(
    folder: Path,
    count: int = 50,
    seed: int = 0,
    *,
    dtype: str = "float16",
    downsample: int = 1,
    teachers: dict[str, Teacher] | None = None,
    size: int = 24,
    image_size: int = 24,
    scenes: int = 40,
) -> TeacherCache:
    config = TargetsConfig(
        cached_views=count,
        cache_dtype=dtype,  # type: ignore[arg-type]
        cache_downsample=downsample,
    )
    teachers = teachers or {
        "a": ConvTeacher(),
        "b": ConvTeacher(replace(SPEC, summary_dim=None, input_size=24), seed=1),
    }
    views = Views(ToyWorldImages(scenes), (0.4, 1.0), seed)
    return TeacherCache(folder, config, teachers, views, size, image_size)


def files(cache: TeacherCache) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(cache.folder.glob("shard-*"))}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of 16 views, so that few views make several."""
    monkeypatch.setattr("radio_core.distill.cache._MAX_SHARD_VIEWS", 16)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_stored_outputs_are_the_teachers_own_within_the_rounding(
    tmp_path: Path, dtype: str
) -> None:
    cache = make(tmp_path, dtype=dtype)
    assert cache.fill() == []
    assert sorted(files(cache)) == [f"shard-{i:06d}.safetensors" for i in range(4)]
    views = (49, 3, 3, 20, 47)
    images = torch.stack([cache.views[(view, (24, 24))][0] for view in views])
    assert torch.equal(cache.images(views), images)
    outputs = cache.outputs(views, ("b", "a"))
    assert list(outputs) == ["b", "a"]
    for name, output in outputs.items():
        fresh = cache.teachers[name](to_unit(images)).features
        spread = fresh.amax((2, 3), keepdim=True) - fresh.amin((2, 3), keepdim=True)
        bound = {"float32": 1e-5, "float16": fresh.abs() * 2**-11 + 1e-5, "int8": spread / 508}
        assert output.features.dtype == torch.float32
        assert ((output.features - fresh).abs() <= bound[dtype] + 1e-5).all()
    wanted = cache.teachers["a"](to_unit(images)).summary
    torch.testing.assert_close(outputs["a"].summary, wanted, rtol=1e-3, atol=1e-4)
    assert outputs["b"].summary is None


def test_the_error_of_what_is_stored_is_measured_and_kept(tmp_path: Path) -> None:
    rms = {}
    for dtype in ("float32", "float16", "int8"):
        cache = make(tmp_path, dtype=dtype)
        cache.fill()
        errors = make(tmp_path, dtype=dtype).errors()
        assert list(errors) == ["a", "b"]
        assert errors["a"].worst >= errors["a"].rms
        rms[dtype] = errors["a"].rms
        ids = range(50)
        images = torch.stack([cache.views[(view, (24, 24))][0] for view in ids])
        fresh = cache.teachers["a"](to_unit(images)).features
        restored = cache.outputs(ids, ["a"])["a"].features
        spread = (fresh - fresh.mean((0, 2, 3), keepdim=True)).square().sum((0, 2, 3))
        ratio = ((restored - fresh).square().sum((0, 2, 3)) / spread).mean().sqrt()
        assert errors["a"].rms == pytest.approx(float(ratio), rel=0.3, abs=1e-7)
    assert rms["float32"] == 0 < rms["float16"] < 1e-3 < rms["int8"] < 1e-2
    coarse = make(tmp_path, downsample=2)
    coarse.fill()
    assert coarse.errors()["a"].rms > 0.1  # what averaging loses counts too


def test_int8_is_exact_to_half_a_level_even_beside_a_large_mean() -> None:
    torch.manual_seed(0)
    features = torch.randn(3, 4, 6, 6) * torch.tensor([1e-3, 1, 50, 0])[:, None, None]
    features += torch.tensor([0, 40.0, -300, 7])[:, None, None]
    stored = encode(features, "int8")
    assert stored[""].dtype == torch.int8
    spread = features.amax((2, 3), keepdim=True) - features.amin((2, 3), keepdim=True)
    rounding = features.abs() * 1e-6
    assert ((decode(stored) - features).abs() <= spread / 508 + rounding).all()


def test_downsampling_averages_squares_of_cells() -> None:
    features = torch.arange(36.0).reshape(1, 1, 6, 6)
    assert downsample(features, 2)[0, 0, 0, 0] == (0 + 1 + 6 + 7) / 4
    assert downsample(features, 1) is features
    assert downsample(torch.rand(2, 3, 5, 7), 2).shape == (2, 3, 3, 4)


def test_images_are_kept_at_the_students_size(tmp_path: Path) -> None:
    cache = make(tmp_path, image_size=8, count=3)
    cache.fill()
    wanted = to_unit(torch.stack([cache.views[(view, (24, 24))][0] for view in range(3)]), (8, 8))
    assert cache.images(range(3)).shape == (3, 3, 8, 8)
    assert (cache.images(range(3)).float() / 255 - wanted).abs().max() <= 0.5001 / 255
    whole = make(tmp_path, count=3)
    whole.fill()
    torch.testing.assert_close(
        cache.outputs([1], ["b"])["b"].features, whole.outputs([1], ["b"])["b"].features
    )


def test_an_interrupted_fill_goes_on_and_ends_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = make(tmp_path / "whole"), make(tmp_path / "broken")
    whole.fill()

    def stop(tensors: object, path: Path, **options: object) -> None:
        if "shard-000002" in path.name:
            raise KeyboardInterrupt
        save_file(tensors, path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("radio_core.distill.cache.save_file", stop)
    with pytest.raises(KeyboardInterrupt):
        broken.fill()
    monkeypatch.undo()
    monkeypatch.setattr("radio_core.distill.cache._MAX_SHARD_VIEWS", 16)
    again = make(tmp_path / "broken")
    assert (broken.done, again.done) == (32, 32)
    reports: list[int] = []
    again.fill(lambda what, done, count: reports.append(done))
    assert reports == [32, 48, 50]
    assert files(again) == files(whole)
    reports.clear()
    make(tmp_path / "broken").fill(lambda what, done, count: reports.append(done))
    assert reports == [50]


def test_what_a_killed_process_left_is_cleaned_up(tmp_path: Path) -> None:
    cache = make(tmp_path, count=4)
    cache.folder.mkdir()
    old, young = cache.folder / ".shard-000000.safetensors.a.tmp", cache.folder / ".b.tmp"
    for path in (old, young):
        path.touch()
    os.utime(old, (0, 0))
    cache.fill()
    assert young.exists()
    assert not old.exists()


def test_several_fillers_share_one_cache(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole")
    whole.fill()
    parts = [make(tmp_path / "parts") for _ in range(3)]
    fillers = [
        threading.Thread(target=part.fill, kwargs={"part": (number, 3)})
        for number, part in enumerate(parts)
    ]
    for filler in fillers:
        filler.start()
    for filler in fillers:
        filler.join()
    assert files(parts[0]) == files(whole)
    assert parts[0].done == 50


def test_a_part_fills_every_nth_shard(tmp_path: Path) -> None:
    cache = make(tmp_path)
    cache.fill(part=(1, 2))
    assert sorted(files(cache)) == ["shard-000001.safetensors", "shard-000003.safetensors"]
    with pytest.raises(FileNotFoundError, match=r"no .*shard-000000.*fill it with radio cache-te"):
        cache.images([0])


def test_workers_change_nothing(tmp_path: Path) -> None:
    alone, helped = make(tmp_path / "alone"), make(tmp_path / "helped")
    alone.fill()
    helped.fill(workers=1)
    assert files(alone) == files(helped)


@pytest.mark.parametrize("damage", ["truncate", "empty", "text", "other"])
def test_a_damaged_shard_is_named_with_the_fix(tmp_path: Path, damage: str) -> None:
    cache = make(tmp_path)
    cache.fill()
    path = cache.folder / "shard-000001.safetensors"
    content = path.read_bytes()
    other = (cache.folder / "shard-000003.safetensors").read_bytes()
    broken = {"truncate": content[:-100], "empty": b"", "text": b"no shard " * 99, "other": other}
    path.write_bytes(broken[damage])
    again = make(tmp_path)
    for use in (lambda: again.images([17]), again.fill, again.errors):
        with pytest.raises(ValueError, match=r"shard-000001\.safetensors .*delete it and run"):
            use()
    again.images([1])  # the others still serve
    path.unlink()
    again.fill()
    assert path.read_bytes() == content


def test_a_full_disk_leaves_the_complete_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make(tmp_path)

    def full(tensors: object, path: Path, **options: object) -> None:
        if "000001" in path.name:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save_file(tensors, path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("radio_core.distill.cache.save_file", full)
    with pytest.raises(OSError, match=r"cannot write .*No space left.*make room and run the same"):
        cache.fill()
    assert sorted(path.name for path in cache.folder.iterdir()) == [
        "key.json",
        "shard-000000.safetensors",
    ]


def test_unreadable_files_are_remembered_by_the_cache(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (30, 30), "red").save(photos / "good.png")
    (photos / "bad.png").write_bytes(b"")
    views = Views(ImageFiles(photos), (0.4, 1.0), 0)
    teachers: dict[str, Teacher] = {"a": ConvTeacher()}
    for _ in range(2):  # the second finds everything done
        cache = TeacherCache(
            tmp_path / "cache", TargetsConfig(cached_views=40), teachers, views, 24, 24
        )
        assert cache.fill() == [(str(photos / "bad.png"), "empty file")]


def test_whatever_changes_the_content_changes_the_folder(tmp_path: Path) -> None:
    base = make(tmp_path)
    assert make(tmp_path).folder == base.folder
    one = base.teachers["a"]
    others = [
        make(tmp_path, seed=1),
        make(tmp_path, count=51),
        make(tmp_path, size=32),
        make(tmp_path, image_size=16),
        make(tmp_path, dtype="int8"),
        make(tmp_path, downsample=2),
        make(tmp_path, scenes=41),
        make(tmp_path, teachers={"a": one}),
        make(tmp_path, teachers={"a": one, "b": ConvTeacher(seed=7)}),
        make(tmp_path, teachers={"a": one, "b": one}),
        make(tmp_path, teachers={"a": one, "b": ConvTeacher(replace(SPEC, mean=(0, 0, 0)))}),
        make(tmp_path, teachers={"a": one, "b": ConvTeacher(replace(SPEC, input_size=32))}),
    ]
    assert len({base.folder, *(other.folder for other in others)}) == 1 + len(others)
    assert list(tmp_path.iterdir()) == []  # nothing is written before the cache is filled


def test_weights_fingerprint_sees_every_weight_and_its_name() -> None:
    layer, twin = ConvTeacher(), ConvTeacher()
    assert weights_fingerprint(layer) == weights_fingerprint(twin)
    twin.layer.weight[2] += 1e-6
    assert weights_fingerprint(layer) != weights_fingerprint(twin)
    half = ConvTeacher().half()
    assert weights_fingerprint(half) != weights_fingerprint(layer)


@pytest.mark.parametrize(
    ("dtype", "factor", "view_bytes"),
    [
        ("float16", 1, 3 * 24 * 24 + 2 * 5 * 4 * 4 + 2 * 6 + 2 * 5 * 6 * 6),
        ("float32", 1, 3 * 24 * 24 + 4 * 5 * 4 * 4 + 4 * 6 + 4 * 5 * 6 * 6),
        ("int8", 2, 3 * 24 * 24 + 5 * 2 * 2 + 5 * 8 + 2 * 6 + 5 * 3 * 3 + 5 * 8),
    ],
)
def test_the_size_on_disk_is_known_beforehand(
    tmp_path: Path, dtype: str, factor: int, view_bytes: int
) -> None:
    cache = make(tmp_path, count=20, dtype=dtype, downsample=factor)
    assert cache.num_bytes == 20 * view_bytes
    cache.fill()
    size = sum(len(content) for content in files(cache).values())
    headers = 2 * 2000
    assert cache.num_bytes < size < cache.num_bytes + headers
    key = json.loads((cache.folder / "key.json").read_text())
    assert key["teachers"]["a"]["name"] == "conv"


def test_what_a_type_cannot_hold_is_refused(tmp_path: Path) -> None:
    cache = make(tmp_path, teachers={"a": ConvTeacher(factor=1e6)}, count=4)
    with pytest.raises(ValueError, match="teacher a: features that float16 cannot hold"):
        cache.fill()
    assert cache.done == 0
    teachers = {"a": ConvTeacher(replace(SPEC, summary_dim=None), factor=1e6)}
    wide = make(tmp_path, teachers=teachers, count=4, dtype="int8")
    wide.fill()
    assert wide.errors()["a"].rms < 0.01
