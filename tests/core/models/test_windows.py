import json
from pathlib import Path

import pytest
import torch

from radio_core.models import VisionTransformer, vit_config
from radio_core.models.block import WindowGrid, window_schedule


def letters(depth: int, num_windowed: int | None = None, num_global: int | None = None) -> str:
    return "".join("GW"[w] for w in window_schedule(depth, num_windowed, num_global))


@pytest.mark.parametrize(
    ("depth", "num_windowed", "num_global", "wanted"),
    [
        (12, None, 4, "WWG" * 4),
        (24, None, 4, "WWWWWG" * 4),
        (32, None, None, "WWWWWWWG" * 4),
        (32, 5, None, "WWWWWG" * 5 + "WG"),
        (32, 5, 4, "WWWWWG" * 5 + "WG"),
        (40, None, 8, "WWWWG" * 8),
        (27, None, None, "WWWWWG" * 4 + "WWG"),
        (13, 2, None, "WWG" * 4 + "G"),
        (8, 2, None, "WWGWWGWG"),
        (4, None, None, "GGGG"),
        (5, 0, None, "GGGGG"),
        (1, 2, None, "G"),
    ],
)
def test_schedule(
    depth: int, num_windowed: int | None, num_global: int | None, wanted: str
) -> None:
    assert letters(depth, num_windowed, num_global) == wanted


def test_schedule_matches_the_golden_table(shared: Path) -> None:
    case = json.loads((shared / "reference/golden/b_vitdet/case.json").read_text())
    for name, wanted in case["schedules"].items():
        depth, windowed, globally = (part.lstrip("depthnwg") for part in name.split("_"))
        numbers = [None if n == "None" else int(n) for n in (windowed, globally)]
        assert letters(int(depth), *numbers) == wanted, name


def test_window_order_groups_squares_and_is_undone() -> None:
    grid = WindowGrid(4, 6, 2)
    patches = torch.arange(24.0).reshape(1, 24, 1).expand(3, -1, 5)
    ordered = grid.to_window_order(patches)
    windows = grid.cut(ordered)
    assert windows[:2, :, 0].tolist() == [[0, 1, 6, 7], [2, 3, 8, 9]]
    assert windows.shape == (3 * 6, 4, 5)
    torch.testing.assert_close(grid.join(windows), ordered)
    torch.testing.assert_close(grid.to_row_major(ordered), patches)


def vit(**overrides: object) -> VisionTransformer:
    torch.manual_seed(0)
    values = {"embed_dim": 16, "depth": 6, "num_heads": 2, "stem": "patch", "num_windowed": 2}
    return VisionTransformer(vit_config("tiny", **{**values, **overrides})).eval()


def test_a_model_of_global_layers_does_not_care_about_the_order() -> None:
    model, images = vit(num_windowed=0), torch.rand(2, 3, 32, 64)
    for windowed, plain in zip(model(images, window_size=2), model(images), strict=True):
        torch.testing.assert_close(windowed, plain)


def test_one_window_of_the_whole_image_without_prefix_is_global_attention() -> None:
    model, images = vit(summary="avg", num_registers=0), torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(model(images, window_size=4).features, model(images).features)


def test_windows_do_not_see_each_other_nor_the_prefix() -> None:
    model, images = vit(depth=3), torch.rand(1, 3, 32, 64)
    changed = images.clone()
    changed[..., 32:] = 0  # the right half: other windows of side 4
    before, after = (
        model.run_blocks(x, 4, collect=[1], depth=2).collected[0] for x in (images, changed)
    )
    prefix = model.num_prefix_tokens
    left = torch.arange(4 * 8).reshape(4, 8)[:, :4].flatten() + prefix
    torch.testing.assert_close(before[:, left], after[:, left])
    start = model.patch_generator(images)
    torch.testing.assert_close(before[:, :prefix], start[:, :prefix])
    assert not torch.allclose(model(images, window_size=4).features, model(images).features)


def test_collected_tokens_are_row_major_in_the_middle_of_a_windowed_run() -> None:
    model, images = vit(), torch.rand(1, 3, 32, 64)
    states = model.run_blocks(images, 2, collect=[0, 2, 5])
    for depth, tokens in zip((1, 3, 6), states.collected, strict=True):
        again = model.run_blocks(images, 2, depth=depth).final
        torch.testing.assert_close(tokens, again)
    torch.testing.assert_close(states.collected[-1], states.final)
