import json
from collections.abc import Callable
from pathlib import Path

import pytest

from radio_core.cli import main
from radio_core.export import onnx as target
from radio_core.export import tensorrt
from radio_core.export.runtime import load_exported
from radio_core.models import RadioModel

Capture = pytest.CaptureFixture[str]
PROFILE = ["--min", "1x32x32", "--opt", "2x64x64", "--max", "4x64x128"]


@pytest.fixture(scope="session")
def saved(build: Callable[..., RadioModel], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    build("vit", preferred_resolution=(64, 64), licence="Apache-2.0").save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
def test_onnx_writes_the_file_and_says_what_it_is(
    saved: str, tmp_path: Path, capsys: Capture
) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra 'export'")
    out, about = tmp_path / "new" / "m.onnx", tmp_path / "m.json"
    argv = ["export", "onnx", saved, str(out), "--adaptors", "clip,sam", "--json", str(about)]
    assert main(argv) == 0
    text = capsys.readouterr().out
    assert f"wrote {out} (" in text
    assert "sides multiples of 8 pixels" in text
    assert text.count("largest difference from the model") == 3
    written = json.loads(about.read_text())
    assert written["card"]["outputs"][2:] == ["clip_summary", "clip_features", "sam_features"]
    assert written["bytes"] == out.stat().st_size
    assert len(written["differences"]) == 3
    exported = load_exported(out, threads=1)
    assert exported.preferred_resolution == (64, 64)
    assert exported.card.licence == "Apache-2.0"
    assert exported.active_adaptors == ("clip", "sam")


def test_torch_writes_the_package(saved: str, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "m.pt2"
    assert main(["export", "torch", saved, str(out), "--size", "32x48"]) == 0
    assert "takes images of 32x48" in capsys.readouterr().out
    assert load_exported(out).nearest_supported_resolution(1, 1) == (32, 48)


@pytest.mark.slow
def test_tensorrt_builds_from_a_model_and_from_a_file(
    saved: str, tmp_path: Path, capsys: Capture, file_of: Callable[..., Path]
) -> None:
    try:
        tensorrt.find_tensorrt()
    except ImportError:
        pytest.skip("needs the extra 'tensorrt'")
    out = tmp_path / "m.engine"
    argv = ["export", "tensorrt", saved, str(out), *PROFILE, "--precision", "fp16"]
    argv += ["--timing-cache", str(tmp_path / "cache")]
    assert main(argv) == 0
    text = capsys.readouterr().out
    assert "m.engine.json, which must stay beside it" in text
    assert "built by tensorrt" in text
    assert ("--timing-cache has no effect" in text) != (tmp_path / "cache").exists()
    assert main(["export", "tensorrt", str(file_of("vit")), str(out), *PROFILE]) == 0


WRONG_USAGE = [
    (["--for", "sun"], "known: sam"),
    (["--for", "sam", "--adaptors", "clip"], "leave out --adaptors"),
    (["--size", "large"], "HEIGHTxWIDTH"),
]
REFUSED = [
    (["--adaptors", "clop"], "this model has: clip, dino, sam"),
    (["--size", "30x64"], "nearest size that it takes is 32x64"),
    (["--opset", "11"], "too old"),
]


@pytest.mark.parametrize(
    ("options", "message", "code"),
    [(*case, 2) for case in WRONG_USAGE] + [(*case, 1) for case in REFUSED],
)
def test_bad_options_end_before_the_model_runs(
    options: list[str],
    message: str,
    code: int,
    saved: str,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra 'export'")
    monkeypatch.setattr(target, "Parity", None)
    assert main(["export", "onnx", saved, str(tmp_path / "m.onnx"), *options]) == code
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("shapes", "message", "code"),
    [
        (["--min", "1x32", "--opt", "2x64x64", "--max", "4x64x128"], "BATCHxHEIGHTxWIDTH", 2),
        (["--min", "4x32x32", "--opt", "2x64x64", "--max", "4x64x128"], "must not shrink", 2),
        (["--min", "1x30x32", "--opt", "2x64x64", "--max", "4x64x128"], "nearest valid", 1),
    ],
)
def test_bad_profiles_end_before_the_model_runs(
    shapes: list[str],
    message: str,
    code: int,
    saved: str,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tensorrt, "find_tensorrt", lambda: None)
    monkeypatch.setattr("radio_core.cli.export.find_tensorrt", lambda: None)
    out = tmp_path / "m.engine"
    assert main(["export", "tensorrt", saved, str(out), *shapes]) == code
    assert message in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("action", ["onnx", "tensorrt", "torch"])
def test_an_unknown_model_and_a_wrong_name_are_refused(
    action: str, saved: str, tmp_path: Path, capsys: Capture
) -> None:
    profile = PROFILE if action == "tensorrt" else []
    assert main(["export", action, saved, str(tmp_path / "m.bin"), *profile]) == 1
    assert "ends with ." in capsys.readouterr().err
