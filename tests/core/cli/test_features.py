"""The command `radio features`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from radio_core import load_model
from radio_core.cli import UsageError, parse
from radio_core.cli.features import FeatureFile, FeatureOptions, _batches, _Seen, features
from radio_core.data.images import load_rgb
from radio_core.data.transforms import to_tensor
from radio_core.models import AdaptorConfig, HeadConfig, RadioConfig, RadioModel, vit_config


def main(argv: list[str]) -> int:
    return features(parse(FeatureOptions, argv, prog="radio features"))


@pytest.fixture
def model(tmp_path: Path) -> str:
    torch.manual_seed(0)
    sam = AdaptorConfig(name="sam", features=HeadConfig(out_dim=10, hidden_dim=8))
    config = RadioConfig(
        name="tiny",
        backbone=vit_config("tiny", embed_dim=16, depth=2, num_windowed=1),
        adaptors=(sam,),
        preferred_resolution=(32, 32),
        max_resolution=128,
    )
    RadioModel(config).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def write_images(folder: Path, sizes: dict[str, tuple[int, int]]) -> list[str]:
    """Random images, name -> (height, width); returns their paths."""
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for name, size in sizes.items():
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / name)
    return [str(folder / name) for name in sizes]


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """Two images, one with a name that is long in JSON."""
    odd = "ü\"'\n" * 30 + ".jpg"
    return write_images(tmp_path / ("é" * 90), {"a.png": (40, 40), odd: (40, 80)})


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of what the model is given, in order."""
    shapes: list[tuple[int, ...]] = []
    forward = RadioModel.forward_all

    def watched(self: RadioModel, images: torch.Tensor, *rest: Any) -> Any:
        shapes.append(tuple(images.shape))
        return forward(self, images, *rest)

    monkeypatch.setattr(RadioModel, "forward_all", watched)
    return shapes


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        found: dict[str, str] = file.metadata()
    return found


def test_files_and_picture(model: str, images: list[str], tmp_path: Path) -> None:
    out, pca = tmp_path / "new" / "f.safetensors", tmp_path / "new" / "pca.png"
    assert main([*images, "--model", model, "--out", str(out), "--pca", str(pca)]) == 0
    tensors = load_file(out)
    assert tensors["0.summary"].shape == (16,)
    assert tensors["0.features"].shape == (16, 4, 4)
    assert tensors["1.features"].shape == (16, 4, 8)
    assert metadata(out) == {
        "model": model,
        "adaptor": "backbone",
        "0": images[0],
        "0.size": "32x32",
        "1": images[1],
        "1.size": "32x64",
    }
    assert sorted(path.name for path in out.parent.iterdir()) == ["f.safetensors", "pca.png"]
    picture = np.asarray(Image.open(pca))
    assert picture.shape == (64, 128, 3)
    assert len(np.unique(picture[32:, 64:].reshape(-1, 3), axis=0)) > 16


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ([], ["32x32", "32x64"]),
        (["--resolution", "56"], ["56x56", "56x112"]),
        (["--resolution", "48x24"], ["48x24", "48x24"]),
        (["--resolution", "native"], ["40x40", "40x80"]),
        (["--resolution", "native", "--window-size", "3"], ["48x48", "48x72"]),
        (["--adaptor", "sam", "--resolution", "64"], ["64x64", "64x128"]),
    ],
)
def test_sizes_and_adaptors(
    options: list[str], sizes: list[str], model: str, images: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "f.safetensors"
    assert main([*images, "--model", model, "--out", str(out), *options]) == 0
    found = metadata(out)
    assert [found["0.size"], found["1.size"]] == sizes
    if "sam" in options:
        assert found["adaptor"] == "sam"
        assert {k: tuple(v.shape) for k, v in load_file(out).items()} == {
            "0.features": (10, 8, 8),
            "1.features": (10, 8, 16),
        }


def test_no_side_is_beyond_the_models_limit(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = write_images(tmp_path / "long", {"a.png": (20, 200), "b.png": (300, 130)})
    out = tmp_path / "f.safetensors"
    assert main([*paths, "--model", model, "--resolution", "native", "--out", str(out)]) == 0
    found = metadata(out)
    assert [found["0.size"], found["1.size"]] == ["8x128", "128x48"]
    assert capsys.readouterr().err.count("exceed 128 pixels, the model's max_resolution") == 1
    assert main([paths[1], "--model", model, "--resolution", "64", "--out", str(out)]) == 0
    assert metadata(out)["0.size"] == "128x48"
    for wrong in ("136", "64x136"):
        with pytest.raises(ValueError, match=rf"{wrong}: model is meant for at most 128 pixels"):
            main([*paths, "--model", model, "--resolution", wrong])


def test_batches_hold_images_of_one_size_and_results_keep_their_order(
    model: str, batches: list[tuple[int, ...]], tmp_path: Path
) -> None:
    sizes = {f"{i:02}.png": (32, 32) if i % 3 else (32, 64) for i in range(10)}
    paths = write_images(tmp_path / "mixed", sizes)
    out = tmp_path / "f.safetensors"
    assert main([*paths, "--model", model, "--batch-size", "4", "--out", str(out)]) == 0
    assert sorted(batches) == [(2, 3, 32, 32), (4, 3, 32, 32), (4, 3, 32, 64)]
    tensors, found = load_file(out), metadata(out)
    assert [found[str(number)] for number in range(10)] == paths
    radio = load_model(model)
    for number, path in enumerate(paths):
        with torch.no_grad():
            wanted = radio.forward_all(to_tensor(load_rgb(path))[None])["backbone"]
        torch.testing.assert_close(tensors[f"{number}.features"], wanted.features[0])
        assert wanted.summary is not None
        torch.testing.assert_close(tensors[f"{number}.summary"], wanted.summary[0])


def test_few_images_wait_when_all_sizes_differ() -> None:
    taken: list[int] = []

    def images() -> Iterator[_Seen]:
        for number in range(12):
            taken.append(number)
            yield _Seen(number, Path(), Image.new("RGB", (32 + 8 * number, 32)))

    done = 0
    for batch in _batches(images(), 2):
        assert len(taken) - done <= 8
        done += len(batch)
    assert done == 12


def test_folders_and_patterns_are_expanded(model: str, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    write_images(folder, {"b.png": (32, 32), "a.png": (32, 32)})
    write_images(folder / "deep", {"c.jpg": (32, 32)})
    write_images(tmp_path, {"x[1].png": (32, 32)})
    (folder / "notes.txt").write_text("not an image")
    out = tmp_path / "f.safetensors"
    names = [str(folder / "*.png"), str(folder), str(tmp_path / "x[1].png")]
    assert main([*names, "--model", model, "--out", str(out)]) == 0
    found = metadata(out)
    paths = ["a.png", "b.png", "a.png", "b.png", "deep/c.jpg", "../x[1].png"]
    assert [Path(found[str(number)]) for number in range(6)] == [
        tmp_path / path.removeprefix("../") if path.startswith("..") else folder / path
        for path in paths
    ]
    assert "6" not in found


def test_unreadable_images_are_skipped_and_named(
    model: str, images: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty").mkdir()
    bad = [str(tmp_path / name) for name in ("text.png", "missing.png", "*.nix", "empty")]
    out = tmp_path / "f.safetensors"
    assert main([*bad, images[0], *bad, images[1], "--model", model, "--out", str(out)]) == 0
    found = metadata(out)
    assert [found["0"], found["1"]] == images
    errors = capsys.readouterr().err
    assert "text.png: not an image" in errors
    assert "missing.png: missing" in errors
    assert "*.nix: no file fits" in errors
    assert "empty: no images under" in errors
    before = out.read_bytes()
    with pytest.raises(ValueError, match="no image could be read"):
        main([*bad, "--model", model, "--out", str(out)])
    assert "text.png: not an image" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("out of memory")])
def test_what_was_done_before_an_interruption_is_kept(
    error: Any,
    model: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = write_images(tmp_path / "many", {f"{i}.png": (32, 32) for i in range(5)})
    forward, calls = RadioModel.forward_all, []

    def failing(self: RadioModel, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise error
        return forward(self, *arguments)

    monkeypatch.setattr(RadioModel, "forward_all", failing)
    out = tmp_path / "f.safetensors"
    with pytest.raises((KeyboardInterrupt, RuntimeError)):
        main([*paths, "--model", model, "--batch-size", "1", "--out", str(out)])
    assert sorted(load_file(out)) == ["0.features", "0.summary", "1.features", "1.summary"]
    assert "holds the 2 images done so far" in capsys.readouterr().err


def test_many_images_are_not_all_listed_nor_shown(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "many", {f"{i:02}.png": (32, 32) for i in range(30)})
    pca = tmp_path / "pca.png"
    assert main([str(tmp_path / "many"), "--model", model, "--pca", str(pca)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("features 16 x 4 x 4") == 20
    assert "... and 10 more images" in printed
    assert "shows the first 24 images" in printed
    assert Image.open(pca).size == (3 * 2 * 32, 8 * 32)


def test_teachers_take_what_they_take(images: list[str], tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the extra 'hf'")
    out = tmp_path / "f.safetensors"
    assert main([*images, "--model", "toy-dino", "--out", str(out)]) == 0
    tensors = load_file(out)
    assert tensors["0.features"].shape == (128, 12, 12)
    assert tensors["1.features"].shape == (128, 12, 12)  # meant for squares
    assert tensors["0.summary"].shape == (128,)
    assert main([*images, "--model", "toy-dino", "--resolution", "56", "--out", str(out)]) == 0
    assert load_file(out)["1.features"].shape == (128, 8, 16)
    for options in (["--adaptor", "x"], ["--window-size", "2"]):
        with pytest.raises(ValueError, match="only RADIO models have adaptors and window sizes"):
            main([*images, "--model", "toy-dino", *options])


def test_models_of_one_size_say_so(images: list[str], tmp_path: Path) -> None:
    pytest.importorskip("open_clip", reason="needs the extra 'clip'")
    out = tmp_path / "f.safetensors"
    assert main([*images, "--model", "toy-clip", "--resolution", "64", "--out", str(out)]) == 0
    assert metadata(out)["1.size"] == "64x64"
    for resolution in ("72", "native", "64x72"):
        with pytest.raises(ValueError, match="toy-clip takes images of 64"):
            main([*images, "--model", "toy-clip", "--resolution", resolution])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (["--adaptor", "clip"], ValueError, "this model has: sam"),
        (["--model", "nix"], ValueError, "unknown model 'nix'"),
        (["--resolution", "big"], UsageError, r"one side \(512\), height x width \(432x768\)"),
        (["--resolution", "0"], UsageError, "one side"),
        (["--resolution", "36x64"], ValueError, "the nearest size is 32 x 64"),
        (["--batch-size", "0"], UsageError, "at least 1"),
    ],
)
def test_bad_options(
    options: list[str], error: type[Exception], message: str, model: str, images: list[str]
) -> None:
    with pytest.raises(error, match=message):
        main([images[0], "--model", model, *options])
    with pytest.raises(UsageError, match="at least one image"):
        main(["--model", model])


def test_a_feature_file_is_plain_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "f.safetensors"
    tensors = {"b": torch.rand(2, 3), "a": torch.rand(()), "c": torch.rand(4, 5).T}
    with FeatureFile(path, 300) as file:
        file.metadata["naïve"] = 'quote " \\'
        for name, tensor in tensors.items():
            file.add(name, tensor)
        file.add("half", torch.ones(2, dtype=torch.bfloat16))
    found = load_file(path)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert found["half"].dtype == torch.float32
    assert metadata(path) == {"naïve": 'quote " \\'}
    with pytest.raises(ValueError, match="too many images for one safetensors file"):
        FeatureFile(path, 200_000_000)
    with FeatureFile(tmp_path / "none.safetensors", 10):
        pass
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["deep"]
