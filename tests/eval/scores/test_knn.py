"""The nearest-neighbour search: exact, the first of equals first, whatever the chunks."""

import pytest
import torch
from torch import Tensor

from radio_eval.scores.knn import knn_votes, nearest_neighbours


def whole_numbers(rows: int, dim: int = 4, seed: int = 0) -> Tensor:
    """Features whose dot products are exact and often equal."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, 2, (rows, dim), generator=generator).float()


def plain(train: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """All similarities, sorted stably."""
    values, rows = (queries @ train.T).sort(dim=1, descending=True, stable=True)
    return values[:, :k], rows[:, :k]


class Rows:
    """Features that are asked for a part at a time, and remember how much of them was."""

    def __init__(self, features: Tensor) -> None:
        self.features = features
        self.longest = 0

    def __len__(self) -> int:
        return len(self.features)

    def read_rows(self, start: int, out: Tensor) -> None:
        self.longest = max(self.longest, len(out))
        out.copy_(self.features[start : start + len(out)])


@pytest.mark.parametrize("chunk", [1, 7, 20, 21, 64, 199, 200, 1000])
@pytest.mark.parametrize("k", [1, 5, 20])
def test_of_equally_similar_rows_the_first_count_whatever_the_chunks(k: int, chunk: int) -> None:
    train, queries = whole_numbers(200), whole_numbers(33, seed=1)
    values, rows = nearest_neighbours(train, queries, k, train_chunk=chunk)
    expected_values, expected_rows = plain(train, queries, k)
    assert torch.equal(values, expected_values)
    assert torch.equal(rows, expected_rows)


def test_features_that_are_all_the_same_have_the_first_rows_as_neighbours() -> None:
    _, rows = nearest_neighbours(torch.ones(50, 3), torch.ones(4, 3), 6, train_chunk=8)
    assert rows.tolist() == [list(range(6))] * 4


def test_more_queries_than_a_tile_and_rows_that_get_better_and_better() -> None:
    train = torch.arange(1.0, 301.0)[:, None]
    queries = torch.tensor([[1.0], [-1.0]]).repeat(600, 1)
    _, rows = nearest_neighbours(train, queries, 3, train_chunk=16)
    assert rows.unique(dim=0).tolist() == [[0, 1, 2], [299, 298, 297]]
    assert torch.equal(rows[0::2], rows[0].expand(600, 3))


def test_rows_are_read_a_chunk_at_a_time_and_half_precision_is_widened() -> None:
    train, queries = whole_numbers(100), whole_numbers(9, seed=1)
    stored = Rows(train.half())
    found = nearest_neighbours(stored, queries, 4, train_chunk=16)
    assert stored.longest == 16
    assert found[0].dtype == torch.float32
    assert torch.equal(found[1], plain(train, queries, 4)[1])


def test_fewer_rows_than_neighbours() -> None:
    values, rows = nearest_neighbours(whole_numbers(3), whole_numbers(2, seed=1), 20)
    assert values.shape == rows.shape == (2, 3)
    assert nearest_neighbours(torch.zeros(0, 4), whole_numbers(2), 20)[0].shape == (2, 0)


def test_labels_outside_the_classes_are_refused() -> None:
    features = torch.eye(3)
    with pytest.raises(ValueError, match=r"\[0, 2\)"):
        knn_votes(features, torch.tensor([0, 1, 2]), features, num_classes=2)
