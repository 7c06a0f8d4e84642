"""Views: crops that depend on seed and number alone, and that student and teachers share."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from radio_core.data.folder import ImageFiles
from radio_core.data.toyworld import ToyWorldImages
from radio_core.distill.groups import GroupConfig
from radio_core.distill.schedule import BatchPlan
from radio_core.distill.views import (
    Batch,
    Views,
    to_unit,
)

GROUP = GroupConfig(teachers=("a",), batch_size=3, resolutions=(32,))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six photos of one colour each, their number; 1 is truncated, 4 is no picture."""
    rng = np.random.default_rng(0)
    for number in range(6):
        pixels = np.full((40, 60, 3), 40 * number, np.uint8)
        pixels[:, :20] = rng.integers(0, 256, (40, 20, 3))
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    content = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "4.png").write_bytes(b"no picture")
    return tmp_path


def toy(count: int = 20, seed: int = 0) -> Views:
    return Views(ToyWorldImages(count), (0.4, 1.0), seed)


def load(views: Views, numbers: list[list[int]], workers: int, size: int = 32) -> list[Batch]:
    steps = [BatchPlan(i, GROUP, tuple(batch)) for i, batch in enumerate(numbers, start=1)]
    return list(views.loader(((step, (size, size)) for step in steps), workers))


def test_a_view_is_always_the_same_pixels() -> None:
    first, second = toy(), toy()
    for view in (0, 7, 19, 20, 1234):
        image, skipped = first[(view, (48, 48))]
        assert image.shape == (3, 48, 48)
        assert image.dtype == torch.uint8
        assert skipped == []
        assert torch.equal(image, second[(view, (48, 48))][0])
    assert not torch.equal(first[(3, (48, 48))][0], toy(seed=1)[(3, (48, 48))][0])


def test_later_epochs_show_the_same_image_in_another_crop() -> None:
    views = Views(ToyWorldImages(1), (0.2, 0.5), 0)
    crops = [views[(view, (32, 32))][0].float() for view in range(6)]
    assert all((one - other).abs().mean() > 1 for one, other in pairwise(crops))


@pytest.mark.parametrize("view", range(6))
def test_all_sizes_share_one_crop(view: int) -> None:
    views = toy()
    large = to_unit(views[(view, (128, 128))][0][None])
    for size in (96, 64, 48):
        small = to_unit(views[(view, (size, size))][0][None])
        resized = F.interpolate(large, (size, size), mode="bilinear", antialias=True)
        assert (small - resized).abs().mean() < 0.02
        other = to_unit(views[(view + 20, (size, size))][0][None])  # the same image, another crop
        assert (small - other).abs().mean() > 0.03


def test_every_image_is_seen_once_an_epoch_in_no_order_of_classes(photos: Path) -> None:
    (photos / "1.png").unlink()
    (photos / "4.png").unlink()
    views = Views(ImageFiles(photos), (1.0, 1.0), 0)
    shades = [int(views[(view, (20, 20))][0][0, 10, -1]) for view in range(8)]
    assert sorted(shades[:4]) == sorted(shades[4:]) == [0, 80, 120, 200]
    assert shades[:4] == shades[4:] != sorted(shades[:4])


def test_unreadable_files_are_replaced_and_handed_back(photos: Path) -> None:
    views = Views(ImageFiles(photos), (0.4, 1.0), 0)
    skipped = {}
    for view in range(6):
        image, entries = views[(view, (16, 16))]
        assert image.shape == (3, 16, 16)
        skipped |= dict(entries)
    assert {Path(path).name for path in skipped} == {"1.png", "4.png"}
    assert skipped[str(photos / "4.png")] == "not an image"
    assert skipped[str(photos / "1.png")].startswith("truncated")


def test_when_every_file_has_broken_the_error_says_so(photos: Path) -> None:
    views = Views(ImageFiles(photos), (0.4, 1.0), 0)
    for path in photos.iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"can be read any more.*\.png: empty file"):
        views[(0, (16, 16))]


def test_worker_processes_give_the_same_batches_in_the_same_order(photos: Path) -> None:
    views = Views(ImageFiles(photos), (0.4, 1.0), 0)
    numbers = [[0, 1, 2], [5, 4, 3], [9], [2, 2, 8, 11], [100, 7]]
    plain, fetched = load(views, numbers, 0), load(views, numbers, 2)
    assert [batch.plan.number for batch in fetched] == [1, 2, 3, 4, 5]
    for one, other in zip(plain, fetched, strict=True):
        assert one.plan == other.plan
        assert torch.equal(one.images, other.images)
        assert one.skipped == other.skipped
        assert len(one.images) == len(one.plan.views)
    assert any(batch.skipped for batch in fetched)


def test_the_plan_is_read_step_by_step() -> None:
    asked = []

    def steps():  # type: ignore[no-untyped-def]
        for number in range(1, 10**9):
            asked.append(number)
            yield BatchPlan(number, GROUP, (number,)), (16, 16)

    batches = toy().loader(steps(), 0)
    assert [next(batches).plan.views for _ in range(3)] == [(1,), (2,), (3,)]
    assert len(asked) < 10


def test_the_loader_leaves_the_global_random_state_to_the_steps() -> None:
    views = toy()
    random_numbers = []
    for batch in views.loader(((BatchPlan(i, GROUP, (i,)), (16, 16)) for i in range(3)), 0):
        torch.manual_seed(batch.plan.number)
        random_numbers.append(torch.rand(1).item())
    torch.manual_seed(2)
    assert random_numbers[2] == torch.rand(1).item()


def test_to_unit_scales_and_resizes() -> None:
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    unit = to_unit(images)
    assert torch.equal(to_unit(images, (32, 32)), unit)
    assert unit.dtype == torch.float32
    torch.testing.assert_close(unit * 255, images.float())
    small = to_unit(images, (16, 16))
    wanted = F.interpolate(unit, (16, 16), mode="bilinear", antialias=True)
    torch.testing.assert_close(small, wanted.clamp(0, 1))


class Coordinates:
    """Pictures whose red is x and whose green is y, each from 0 to 1."""

    def __len__(self) -> int:
        return 50

    def read(self, index: int) -> Image.Image:
        ramp = np.linspace(0, 255, 200).astype(np.uint8)
        x, y = np.meshgrid(ramp, ramp)
        return Image.fromarray(np.stack([x, y, 0 * x], axis=2))


@pytest.mark.parametrize(("height", "width"), [(48, 96), (96, 48), (64, 64)])
def test_the_crop_behind_a_view_has_its_aspect(height: int, width: int) -> None:
    views = Views(Coordinates(), (0.05, 0.2), 0)
    aspects = []
    for view in range(50):
        image = to_unit(views[(view, (height, width))][0][None])[0]
        assert image.shape == (3, height, width)
        extent_x = (image[0, 0, -1] - image[0, 0, 0]) * width / (width - 1)
        extent_y = (image[1, -1, 0] - image[1, 0, 0]) * height / (height - 1)
        aspects.append(math.log(extent_x / extent_y * height / width))
    assert max(map(abs, aspects)) < math.log(4 / 3) + 0.1
    assert abs(sum(aspects) / len(aspects)) < 0.1
