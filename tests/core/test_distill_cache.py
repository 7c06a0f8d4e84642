"""Teacher outputs on disk: equal to fresh ones, continued after an interruption, keyed by all."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from radio_core.data.folder import ImageFiles
from radio_core.data.toyworld import ToyWorldImages
from radio_core.distill.cache import CacheLayout, TeacherCache
from radio_core.distill.views import Views, to_unit
from radio_core.models.fingerprint import weights_fingerprint
from radio_core.teachers import Teacher, TeacherOutput, TeacherSpec

SPEC = TeacherSpec(
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

    def __init__(self, spec: TeacherSpec = SPEC, seed: int = 0, factor: float = 1.0) -> None:
        super().__init__(spec)
        torch.manual_seed(seed)
        self.layer = torch.nn.Conv2d(3, spec.feature_dim, spec.patch_size, spec.patch_size)
        self.projection = torch.nn.Linear(spec.feature_dim, spec.summary_dim or 1)
        self.factor = factor
        self.freeze()

    def extract(self, images: torch.Tensor) -> TeacherOutput:
        features = self.layer(images) * self.factor
        summary = self.projection(features.mean(dim=(2, 3)))
        return TeacherOutput(summary if self.spec.summary_dim else None, features)


def make(folder: Path, count: int = 150, seed: int = 0, **changes: object) -> TeacherCache:
    teachers: dict[str, Teacher] = {
        "a": ConvTeacher(),
        "b": ConvTeacher(replace(SPEC, summary_dim=None, input_size=24), seed=1),
    }
    views = Views(ToyWorldImages(40), (0.4, 1.0), seed)
    arguments = {"teachers": teachers, "size": 24, "identity": "toy", **changes}
    return TeacherCache(folder, views=views, count=count, **arguments)  # type: ignore[arg-type]


def files(cache: TeacherCache) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in cache.folder.glob("*.npy")}


def test_cached_outputs_are_the_teachers_own_rounded_to_float16(tmp_path: Path) -> None:
    cache = make(tmp_path)
    assert cache.fill() == []
    views = (149, 3, 3, 70)
    images = torch.stack([cache.views[(view, 24)][0] for view in views])
    assert torch.equal(cache.images(views), images)
    outputs = cache.outputs(views, ("b", "a"))
    assert list(outputs) == ["b", "a"]
    for name, output in outputs.items():
        fresh = cache.teachers[name](to_unit(images))
        assert output.features.dtype == torch.float32
        torch.testing.assert_close(output.features, fresh.features, rtol=1e-3, atol=1e-4)
        assert torch.equal(output.features, output.features.half().float())
    torch.testing.assert_close(
        outputs["a"].summary, cache.teachers["a"](to_unit(images)).summary, rtol=1e-3, atol=1e-4
    )
    assert outputs["b"].summary is None


def test_an_interrupted_fill_goes_on_and_ends_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = make(tmp_path / "whole"), make(tmp_path / "broken")
    whole.fill()
    store = TeacherCache._store

    def stop(self: TeacherCache, name: str, first: int, last: int, output: TeacherOutput) -> None:
        store(self, name, first, last, output)
        if (name, first) == ("a", 64):
            raise KeyboardInterrupt

    monkeypatch.setattr(TeacherCache, "_store", stop)
    with pytest.raises(KeyboardInterrupt):
        broken.fill()
    monkeypatch.undo()
    again = make(tmp_path / "broken")
    assert (broken.done, again.done) == (64, 64)
    reports: list[tuple[int, int]] = []
    again.fill(lambda done, count: reports.append((done, count)))
    assert reports == [(128, 150), (150, 150)]
    assert files(again) == files(whole)
    reports.clear()
    make(tmp_path / "broken").fill(lambda done, count: reports.append((done, count)))
    assert reports == []


def test_unreadable_files_are_remembered_by_the_cache(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (30, 30), "red").save(photos / "good.png")
    (photos / "bad.png").write_bytes(b"")
    views = Views(ImageFiles(photos), (0.4, 1.0), 0)
    teachers: dict[str, Teacher] = {"a": ConvTeacher()}
    for _ in range(2):  # the second finds everything done
        cache = TeacherCache(tmp_path / "cache", teachers, views, 130, 24, "photos")
        assert cache.fill() == [(str(photos / "bad.png"), "empty file")]


def test_whatever_changes_the_content_changes_the_folder(tmp_path: Path) -> None:
    base = make(tmp_path)
    assert make(tmp_path).folder == base.folder
    one = base.teachers["a"]
    others = [
        make(tmp_path, seed=1),
        make(tmp_path, count=151),
        make(tmp_path, size=32),
        make(tmp_path, identity="other"),
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
    twin.layer.bias[2] += 1e-6
    assert weights_fingerprint(layer) != weights_fingerprint(twin)
    half = ConvTeacher().half()
    assert weights_fingerprint(half) != weights_fingerprint(layer)


def test_layout_and_size_on_disk(tmp_path: Path) -> None:
    cache = make(tmp_path, count=20)
    wanted = 20 * (3 * 24 * 24 + 2 * 5 * 4 * 4 + 2 * 6 + 2 * 5 * 6 * 6)
    assert cache.layout.num_bytes == wanted
    cache.fill()
    arrays = {path.stem: np.load(path, mmap_mode="r") for path in cache.folder.glob("*.npy")}
    assert {name: (array.dtype.type, array.shape) for name, array in arrays.items()} == (
        CacheLayout.of(cache.teachers, 20, 24).arrays
    )
    assert sum(array.nbytes for array in arrays.values()) == wanted
    key = json.loads((cache.folder / "key.json").read_text())
    assert key["teachers"]["a"]["name"] == "conv"


def test_what_float16_cannot_hold_is_refused(tmp_path: Path) -> None:
    cache = make(tmp_path, teachers={"a": ConvTeacher(factor=1e6)}, count=4)
    with pytest.raises(ValueError, match="teacher a: features that float16 cannot hold"):
        cache.fill()
    assert cache.done == 0
