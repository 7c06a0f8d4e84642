"""Summaries on disk: computed once, continued after an interruption, never mixed up."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from radio_eval.contract import run_evaluator
from radio_eval.data import read_classification
from radio_eval.eval_model import EvalModel
from radio_eval.knn import KnnEvaluator, KnnParameters
from radio_eval.processes import Processes
from radio_eval.progress import silent
from radio_eval.summaries.extract import Encoder, Extraction, summaries

COLOURS = ((250, 10, 5), (10, 250, 5), (5, 10, 250))


class Means(nn.Module):
    """The mean colour, weighted; counts the images that it sees and can be made to stop."""

    def __init__(self, weights: tuple[float, float, float] = (1, 1, 1)) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights), requires_grad=False)
        self.seen = 0
        self.most = 10**9

    def forward(self, images: Tensor) -> Tensor:
        if self.seen + len(images) > self.most:
            raise KeyboardInterrupt
        self.seen += len(images)
        return images.mean(dim=(2, 3)) * self.weights


def model_of(network: Means, **changes: object) -> EvalModel:
    return EvalModel(
        **{
            "name": "mean colour",
            "image_size": 16,
            "resize_step": 8,
            "summary": network,
            "module": network,
            **changes,
        }
    )


def test_images_that_wait_for_others_of_their_shape_are_few(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "train" / "c"
    folder.mkdir(parents=True)
    for index in range(40):  # 20 shapes
        Image.new("RGB", (16 + 8 * (index % 20), 16)).save(folder / f"{index:02}.png")
    waiting, most = [0], [0]

    class Counts(Means):
        def forward(self, images: Tensor) -> Tensor:
            waiting[0] -= len(images)
            return super().forward(images)

    def read(what: str, done: int, total: int) -> None:
        waiting[0] += 1
        most[0] = max(most[0], waiting[0])

    network = Counts()
    model = model_of(network)
    encoder = Encoder(function=network, model=model, output="summary")
    data = read_classification(tmp_path / "data", "train")
    with summaries(encoder, data, Extraction(batch_size=2), read, "train") as stored:
        assert len(stored) == 40
    assert network.seen == 40
    assert most[0] <= 8


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten images of several shapes in three classes; one of them is broken."""
    for index in range(10):
        path = tmp_path / "data" / "train" / f"c{index % 3}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (20 + index % 2 * 12, 20)
        Image.new("RGB", size, tuple(c ^ index for c in COLOURS[index % 3])).save(path)
    (tmp_path / "data/train/c0/9.png").write_bytes(b"broken")
    return tmp_path / "data"


Run = Callable[..., tuple[Tensor, Tensor, dict[str, str]]]


@pytest.fixture
def run(data: Path, tmp_path: Path) -> Run:
    """Features, labels and skipped files of the split, for a model and an extraction."""

    def compute(model: EvalModel, **how: object) -> tuple[Tensor, Tensor, dict[str, str]]:
        extraction = Extraction(**{"block_size": 3, "cache": tmp_path / "cache", **how})
        assert model.summary is not None
        encoder = Encoder(function=model.summary, model=model, output="summary")
        split = read_classification(data, "train")
        with summaries(encoder, split, extraction, silent, "train") as stored:
            return stored.rows(0, len(stored)), stored.labels, stored.skipped

    return compute


def test_summaries_have_unit_length_and_unreadable_images_are_named(run: Run, data: Path) -> None:
    features, labels, skipped = run(model_of(Means()))
    assert features.shape == (9, 3)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(9))
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert torch.equal(features.argmax(dim=1), labels)
    assert skipped == {str(data / "train/c0/9.png"): "not an image"}


def test_nothing_is_computed_twice(run: Run) -> None:
    network = Means()
    first = run(model_of(network))
    assert network.seen == 9
    again = run(model_of(network))
    assert network.seen == 9
    assert torch.equal(first[0], again[0])
    assert first[2] == again[2]


@pytest.mark.parametrize("most", [0, 4, 7])
def test_an_interrupted_run_continues_and_gives_the_same(
    run: Run, most: int, tmp_path: Path
) -> None:
    network = Means()
    network.most = most
    with pytest.raises(KeyboardInterrupt):
        run(model_of(network))
    whole_blocks = len(list((tmp_path / "cache").glob("*/*.safetensors")))
    network.most, network.seen = 10**9, 0
    features, _, _ = run(model_of(network))
    assert network.seen < 9 if whole_blocks else network.seen == 9
    assert torch.equal(features, run(model_of(Means()), cache=None)[0])


def test_other_weights_other_settings_and_other_data_are_computed_anew(
    run: Run, data: Path
) -> None:
    network = Means()
    run(model_of(network))
    other = Means((2, 1, 1))
    assert not torch.equal(run(model_of(other))[0], run(model_of(network))[0])
    assert (other.seen, network.seen) == (9, 9)
    run(model_of(network, image_size=24))
    assert network.seen == 18
    run(model_of(network), stored_dtype="float16")
    assert network.seen == 27
    Image.new("RGB", (20, 20), (250, 9, 9)).save(data / "train/c0/9.png")
    assert run(model_of(network))[2] == {}
    assert network.seen == 37
    os.utime(data / "train/c1/1.png", ns=(1, 1))
    run(model_of(network))
    assert network.seen == 47


def test_without_a_cache_nothing_stays(run: Run, tmp_path: Path) -> None:
    run(model_of(Means()), cache=None)
    run(model_of(Means(), module=None))  # weights that nobody can tell from others
    assert not (tmp_path / "cache").exists()


def test_half_precision_halves_the_files_and_hardly_changes_the_numbers(run: Run) -> None:
    exact, half = run(model_of(Means()))[0], run(model_of(Means()), stored_dtype="float16")[0]
    assert half.dtype == torch.float32
    assert not torch.equal(exact, half)
    torch.testing.assert_close(exact, half, atol=1e-3, rtol=0)


def test_a_file_of_another_run_or_a_damaged_one_is_refused_by_name(
    run: Run, tmp_path: Path
) -> None:
    run(model_of(Means()))
    run(model_of(Means((2, 1, 1))))
    one, other = sorted((tmp_path / "cache").iterdir())
    (one / "000000.safetensors").write_bytes((other / "000000.safetensors").read_bytes())
    (other / "000001.safetensors").write_bytes(b"short")
    problems = []
    for weights in ((1, 1, 1), (2, 1, 1)):
        with pytest.raises(ValueError, match=r"remove it, and run again") as caught:
            run(model_of(Means(weights)))
        problems.append(str(caught.value))
    assert any("000000.safetensors was computed with other weights" in text for text in problems)
    assert any("000001.safetensors is damaged" in text for text in problems)
    for folder in (one, other):
        (folder / "identity.json").write_text("{}")
    with pytest.raises(ValueError, match=r"identity\.json belongs to other weights"):
        run(model_of(Means()))


def test_rows_are_read_across_the_files(data: Path, tmp_path: Path) -> None:
    network = Means()
    encoder = Encoder(function=network, model=model_of(network), output="summary")
    how, split = Extraction(block_size=2), read_classification(data, "train")
    with summaries(encoder, split, how, silent, "train") as stored:
        whole = stored.rows(0, 9)
        for start in range(9):
            for stop in range(start + 1, 10):
                assert torch.equal(stored.rows(start, stop), whole[start:stop])
        names = [Path(stored.name(row)).name for row in range(9)]
    assert names == [
        "0.png",
        "3.png",
        "6.png",
        "1.png",
        "4.png",
        "7.png",
        "2.png",
        "5.png",
        "8.png",
    ]


def test_processes_share_the_blocks_and_the_files_are_the_same(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(model_of(Means()), cache=tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(self: Processes) -> None:
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Processes, "wait", stop)
        patch.setattr(Processes, "from_first", lambda self, value: [0, 1, 2, 3])
        seen = []
        for rank in (0, 1):
            network = Means()
            with pytest.raises(Stop):
                run(model_of(network), processes=Processes(rank=rank, count=2))
            seen.append(network.seen)
    assert seen == [6, 3]
    network = Means()
    assert torch.equal(run(model_of(network))[0], whole[0])
    assert network.seen == 0


def test_summaries_that_are_not_finite_name_the_image(run: Run) -> None:
    with pytest.raises(ValueError, match=r"not finite for .*0\.png"):
        run(model_of(Means((float("nan"), 1, 1))))


def test_a_line_of_pixels_does_not_fill_the_memory(run: Run, data: Path) -> None:
    Image.new("RGB", (5000, 1)).save(data / "train/c0/9.png")
    skipped = run(model_of(Means()))[2]
    assert skipped[str(data / "train/c0/9.png")].startswith("too large: 5000 x 1 pixels")


def test_the_evaluator_uses_the_cache_for_both_splits(data: Path, tmp_path: Path) -> None:
    (data / "val").symlink_to(data / "train")
    train, val = (read_classification(data, split) for split in ("train", "val"))
    evaluator = KnnEvaluator(
        train=train,
        val=val,
        parameters=KnnParameters(k=3),
        extraction=Extraction(cache=tmp_path / "cache"),
    )
    network = Means()
    results = [run_evaluator(evaluator, model_of(network)) for _ in range(2)]
    assert network.seen == 18
    assert results[0].metrics == results[1].metrics
    assert results[0].value == 100.0
    assert [len(evaluator.skipped[what]) for what in ("train images", "val images")] == [1, 1]
    assert dataclasses.asdict(evaluator.parameters) == results[0].parameters
