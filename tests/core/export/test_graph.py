import pytest
import torch
import torch.nn.functional as F

from radio_core.export.graph import ExportableResize, antialiased, nearest

SIDES = [(1, 3), (4, 4), (5, 2), (7, 16), (16, 7), (3, 31), (32, 9)]


def test_nearest_by_selection_is_torchs_to_the_last_bit() -> None:
    for source in range(1, 70):
        x = torch.rand(1, 2, source, source)
        for target in range(1, 70):
            wanted = F.interpolate(x, (target, 70 - target), mode="nearest")
            assert torch.equal(nearest(x, target, 70 - target), wanted)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("rows", "cols"), SIDES)
def test_antialiasing_by_products_is_torchs(mode: str, rows: int, cols: int) -> None:
    x = torch.rand(2, 3, 13, 10)
    wanted = F.interpolate(x, (rows, cols), mode=mode, antialias=True, align_corners=False)
    torch.testing.assert_close(antialiased(x, rows, cols, mode), wanted, atol=2e-6, rtol=1e-5)


def test_resizing_to_the_same_size_changes_nothing() -> None:
    x = torch.rand(1, 3, 6, 9)
    assert torch.equal(nearest(x, 6, 9), x)
    torch.testing.assert_close(antialiased(x, 6, 9, "bicubic"), x, atol=0, rtol=0)


def test_while_active_every_way_to_resize_keeps_its_results() -> None:
    x = torch.rand(1, 2, 6, 5)
    calls = (
        lambda: F.interpolate(x, (7, 3), mode="nearest"),
        lambda: F.interpolate(x, size=4),
        lambda: F.interpolate(x, scale_factor=2),
        lambda: F.interpolate(x, size=(8, 8), mode="bilinear", align_corners=True),
        lambda: F.interpolate(x, size=(3, 3), mode="bicubic", antialias=True),
        lambda: torch.nn.Upsample(scale_factor=2)(x),
        lambda: F.interpolate(x[0], size=11),
    )
    for call in calls:
        wanted = call()
        with ExportableResize():
            found = call()
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)
