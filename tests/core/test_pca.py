"""Feature maps as colours."""

import numpy as np
import pytest
import torch

from radio_core.pca import fit_pca, pca_rgb


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
