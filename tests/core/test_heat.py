"""Similarities as heat maps."""

import numpy as np
import pytest
import torch

from radio_core.heat import heat_map, patch_similarity


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
