"""Summaries on disk: computed once, continued after an interruption, never mixed up."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from radio_core.processes import Processes
from radio_eval.extraction import SummaryTask
from radio_eval.runner import Context

COLOURS = ((250, 10, 5), (10, 250, 5), (5, 10, 250))
Found = tuple[Tensor, Tensor, dict[str, str]]
Run = Callable[..., Found]


@dataclass(frozen=True, kw_only=True)
class Train(SummaryTask):
    """The summaries of the train split, and nothing more."""

    name: ClassVar[str] = "train"
    headline: ClassVar[str] = "images"
    reads: ClassVar[tuple[str, ...]] = ("train",)

    def run(self, model: Any, context: Context) -> Any:
        raise NotImplementedError

    def found(self, model: Any, context: Context | None = None) -> Found:
        """Features, labels and skipped files."""

        def represent(images: Tensor) -> Tensor:
            summary: Tensor = model(images, tuple(images.shape[-2:])).summary
            return summary

        with self.summaries(model, represent, "train", "summary", context or Context()) as stored:
            return stored.rows(0, len(stored)), stored.labels, stored.skipped


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


@pytest.fixture
def run(data: Path, tmp_path: Path) -> Run:
    def compute(model: Any, processes: Processes | None = None, **how: Any) -> Found:
        task = Train(data=data, **{"block_size": 3, "cache": tmp_path / "cache", **how})
        return task.found(model, Context(processes=processes or Processes()))

    return compute


def test_images_that_wait_for_others_of_their_shape_are_few(
    mean_colour: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "data" / "train" / "c"
    folder.mkdir(parents=True)
    for index in range(40):  # 20 shapes
        Image.new("RGB", (16 + 8 * (index % 20), 16)).save(folder / f"{index:02}.png")
    model, most = mean_colour(), 0

    def listen(what: str, done: int, total: int | None) -> None:
        nonlocal most
        most = max(most, done - model.seen)

    task = Train(data=tmp_path / "data", batch_size=2, no_cache=True)
    assert len(task.found(model, Context(progress=listen))[1]) == model.seen == 40
    assert most <= 8


def test_summaries_have_unit_length_and_unreadable_images_are_named(
    run: Run, data: Path, mean_colour: Any
) -> None:
    features, labels, skipped = run(mean_colour())
    assert features.shape == (9, 3)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(9))
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert torch.equal(features.argmax(dim=1), labels)
    assert skipped == {str(data / "train/c0/9.png"): "not an image"}


@pytest.mark.parametrize("most", [0, 4, 7, 10**9])
def test_an_interrupted_run_continues_and_nothing_is_computed_twice(
    run: Run, most: int, tmp_path: Path, mean_colour: Any
) -> None:
    model = mean_colour()
    model.most = most
    if most < 9:
        with pytest.raises(KeyboardInterrupt):
            run(model)
    else:
        run(model)
    files = list((tmp_path / "cache").glob("*/*.safetensors"))
    done = sum(len(load_file(path)["labels"]) for path in files)
    model.most, model.seen = 10**9, 0
    features, _, skipped = run(model)
    assert model.seen == 9 - done
    assert len(skipped) == 1
    assert torch.equal(features, run(mean_colour(), no_cache=True)[0])


def test_other_weights_other_settings_and_other_data_are_computed_anew(
    run: Run, data: Path, mean_colour: Any
) -> None:
    model, other = mean_colour(), mean_colour((2, 1, 1))
    run(model)
    assert not torch.equal(run(other)[0], run(model)[0])
    assert (other.seen, model.seen) == (9, 9)
    run(model, image_size=24)
    assert model.seen == 18
    run(model, cache_dtype="float16")
    assert model.seen == 27
    Image.new("RGB", (20, 20), (250, 9, 9)).save(data / "train/c0/9.png")
    assert run(model)[2] == {}
    assert model.seen == 37
    os.utime(data / "train/c1/1.png", ns=(1, 1))
    run(model)
    assert model.seen == 47


def test_without_a_cache_nothing_stays(run: Run, tmp_path: Path, mean_colour: Any) -> None:
    run(mean_colour(), no_cache=True)
    assert not (tmp_path / "cache").exists()


def test_half_precision_halves_the_files_and_hardly_changes_the_numbers(
    run: Run, mean_colour: Any
) -> None:
    exact, half = run(mean_colour())[0], run(mean_colour(), cache_dtype="float16")[0]
    assert half.dtype == torch.float32
    assert not torch.equal(exact, half)
    torch.testing.assert_close(exact, half, atol=1e-3, rtol=0)


def test_a_file_of_another_run_or_a_damaged_one_is_refused_by_name(
    run: Run, tmp_path: Path, mean_colour: Any
) -> None:
    models = [mean_colour(), mean_colour((2, 1, 1))]
    folders = []
    for model in models:
        run(model)
        folders += [path for path in (tmp_path / "cache").iterdir() if path not in folders]
    one, other = folders
    (one / "000000.safetensors").write_bytes((other / "000000.safetensors").read_bytes())
    (other / "000001.safetensors").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"000000\.safetensors was computed with other weights"):
        run(models[0])
    with pytest.raises(ValueError, match=r"000001\.safetensors is damaged .*remove it, and run"):
        run(models[1])
    (one / "identity.json").write_text('{"model": "another"}')
    with pytest.raises(ValueError, match=r"other weights.*model: another, now mean colour"):
        run(models[0])


def test_rows_are_read_across_the_files(data: Path, mean_colour: Any) -> None:
    task = Train(data=data, block_size=2, no_cache=True)
    model = mean_colour()

    def represent(images: Tensor) -> Tensor:
        summary: Tensor = model(images, tuple(images.shape[-2:])).summary
        return summary

    with task.summaries(model, represent, "train", "summary", Context()) as stored:
        whole = stored.rows(0, 9)
        for start in range(9):
            for stop in range(start + 1, 10):
                assert torch.equal(stored.rows(start, stop), whole[start:stop])
        names = [Path(stored.name(row)).stem for row in range(9)]
    assert names == ["0", "3", "6", "1", "4", "7", "2", "5", "8"]


def test_processes_share_the_blocks_and_the_files_are_the_same(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mean_colour: Any
) -> None:
    whole = run(mean_colour(), cache=tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(self: Processes, value: object, patient: bool = False) -> list[object]:
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Processes, "gather", stop)
        patch.setattr(Processes, "broadcast", lambda self, value: [0, 1, 2, 3])
        seen = []
        for rank in (0, 1):
            model = mean_colour()
            with pytest.raises(Stop):
                run(model, Processes(rank, 2))
            seen.append(model.seen)
    assert seen == [6, 3]
    model = mean_colour()
    assert torch.equal(run(model)[0], whole[0])
    assert model.seen == 0


def test_summaries_that_are_not_finite_name_the_image(run: Run, mean_colour: Any) -> None:
    with pytest.raises(ValueError, match=r"not finite for .*0\.png"):
        run(mean_colour((float("nan"), 1, 1)))


def test_a_line_of_pixels_does_not_fill_the_memory(run: Run, data: Path, mean_colour: Any) -> None:
    Image.new("RGB", (5000, 1)).save(data / "train/c0/9.png")
    skipped = run(mean_colour())[2]
    assert skipped[str(data / "train/c0/9.png")].startswith("too large: 5000 x 1 pixels")
