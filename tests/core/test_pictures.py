"""Feature maps as colours, similarities as heat, contact sheets."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image

from radio_core.pictures import (
    Pair,
    contact_sheet,
    fit_pca,
    foreground,
    heat_map,
    patch_similarity,
    pca_rgb,
    shown_features,
)


def test_equal_features_get_equal_colours_across_maps() -> None:
    generator = torch.Generator().manual_seed(0)
    palette = torch.randn(4, 16, generator=generator)
    first, second = torch.tensor([[0, 1], [2, 3]]), torch.tensor([[3, 3], [0, 1]])
    maps = torch.stack([palette[first], palette[second]]).permute(0, 3, 1, 2)
    pictures = pca_rgb(maps)
    assert pictures.shape == (2, 2, 2, 3)
    assert pictures.dtype == np.uint8
    assert np.array_equal(pictures[0, 0], pictures[1, 1])
    assert len({tuple(p) for p in pictures.reshape(-1, 3).tolist()}) == 4
    assert np.array_equal(pca_rgb(maps), pictures)


def test_the_axes_of_largest_variance_become_red_green_blue() -> None:
    maps = torch.zeros(1, 5, 30, 30)
    for channel, scale in ((4, 9.0), (1, 4.0), (2, 1.0)):
        maps[0, channel] = scale * torch.randn(
            30, 30, generator=torch.Generator().manual_seed(channel)
        )
    strongest = fit_pca(list(maps)).components.abs().argmax(dim=0)
    assert strongest.tolist() == [4, 1, 2]


@pytest.mark.parametrize("channels", [1, 2])
def test_few_channels_and_flat_maps(channels: int) -> None:
    assert pca_rgb(torch.rand(1, channels, 3, 4), size=(9, 12)).shape == (1, 9, 12, 3)
    assert set(pca_rgb(torch.ones(1, channels, 2, 2)).flatten().tolist()) <= {127, 128}


@pytest.mark.parametrize(
    "maps", [[], [torch.rand(2, 1, 1), torch.rand(3, 1, 1)], [torch.full((2, 1, 1), torch.nan)]]
)
def test_impossible_maps_are_refused(maps: list[torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="PCA needs"):
        fit_pca(maps)


def test_projections_of_unlike_features_can_be_turned_to_like_colours() -> None:
    generator = torch.Generator().manual_seed(3)
    scene = torch.rand(3, 12, 16, generator=generator)
    first, second = (torch.randn(n, 3, generator=generator) for n in (8, 20))
    one = torch.einsum("cd,dhw->chw", first, scene)
    other = torch.einsum("cd,dhw->chw", torch.linalg.qr(second)[0], scene)
    wanted = fit_pca([one]).project(one)
    plain = fit_pca([other])
    turned = plain.resembling(other, wanted)

    def correlation(colours: torch.Tensor) -> float:
        pairs = zip(colours.flatten(1), wanted.flatten(1), strict=True)
        return min(float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in pairs)

    assert correlation(turned.project(other)) > max(0.7, correlation(plain.project(other)) + 0.1)
    identity = turned.components.T @ turned.components
    assert torch.allclose(identity, torch.eye(3, dtype=torch.float64), atol=1e-9)
    smaller = torch.nn.functional.avg_pool2d(wanted[None], 4)[0]
    assert plain.resembling(other, smaller).render(other).shape == (12, 16, 3)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_foreground_is_what_stands_apart_from_the_border(sign: int) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = 0.1 * torch.randn(6, 9, 12, generator=generator)
    maps[2, 3:7, 4:8] += sign * 5
    mask = foreground(maps)
    assert mask.sum() == 16
    assert bool(mask[3:7, 4:8].all())


def test_a_map_without_variance_is_all_foreground() -> None:
    assert bool(foreground(torch.ones(4, 3, 5)).all())
    assert bool(foreground(torch.ones(4, 1, 1)).all())


def test_a_cell_is_like_itself_and_unlike_its_opposite() -> None:
    features = torch.zeros(2, 2, 3)
    features[:, 0, 0] = torch.tensor([3.0, 0.0])
    features[:, 0, 1] = torch.tensor([0.0, 2.0])
    features[:, 1, 2] = torch.tensor([-1.0, 0.0])
    similarity = patch_similarity(features, 0, 0)
    assert similarity.tolist() == [[1, 0, 0], [0, 0, -1]]


@pytest.mark.parametrize(("row", "column"), [(2, 0), (0, 3), (-1, 0)])
def test_a_cell_outside_of_the_map_is_refused(row: int, column: int) -> None:
    with pytest.raises(ValueError, match="outside of a map of 2 x 3"):
        patch_similarity(torch.ones(4, 2, 3), row, column)


def test_higher_values_are_brighter() -> None:
    picture = heat_map(torch.linspace(-1, 1, 50)[None])
    assert picture.shape == (1, 50, 3)
    brightness = picture[0].astype(float) @ np.array([0.2126, 0.7152, 0.0722])
    assert bool((np.diff(brightness) >= 0).all())


def test_the_range_can_be_given_and_the_size_too() -> None:
    values = torch.tensor([[0.0, 0.5]])
    assert np.array_equal(heat_map(values, low=0, high=1)[0, 0], heat_map(values)[0, 0])
    assert not np.array_equal(heat_map(values, low=0, high=1)[0, 1], heat_map(values)[0, 1])
    assert heat_map(values, size=(7, 9)).shape == (7, 9, 3)


def test_a_flat_map_is_dark() -> None:
    assert len(np.unique(heat_map(torch.ones(3, 3)).reshape(-1, 3), axis=0)) == 1


def pairs(sizes: Sequence[tuple[int, int]]) -> list[Pair]:
    torch.manual_seed(0)
    return [Pair(Image.new("RGB", (w, h)), torch.rand(8, 4, 6)) for h, w in sizes]


def test_contact_sheets_are_bounded() -> None:
    assert contact_sheet(pairs([(30, 20)])).size == (40, 30)
    assert contact_sheet(pairs([(30, 20), (10, 40)])).size == (80, 60)
    sheet = contact_sheet(pairs([(2048, 1024)] * 24))
    assert max(sheet.size) <= 8192
    assert min(sheet.size) > 3000
    maps = torch.rand(4, 128, 64)
    assert torch.equal(shown_features(maps, 1), maps)
    small = shown_features(maps, 24)
    assert small.shape[1] * small.shape[2] * 24 <= 32768
    torch.testing.assert_close(small.mean(), maps.mean(), atol=1e-2, rtol=0)
