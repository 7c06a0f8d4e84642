import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from radio_core.cli import main
from radio_core.export import tensorrt
from radio_core.export.runtime import load_exported, open_engine
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


PROFILES = {
    "form": ["--min", "1x32", "--opt", "2x64x64", "--max", "4x64x128"],
    "shrinks": ["--min", "4x32x32", "--opt", "2x64x64", "--max", "4x64x128"],
    "step": ["--min", "1x30x32", "--opt", "2x64x64", "--max", "4x64x128"],
}


@pytest.mark.parametrize(
    ("action", "options", "message", "code"),
    [
        ("onnx", ["--for", "sun"], "known: sam", 2),
        ("onnx", ["--for", "sam", "--adaptors", "clip"], "leave out --adaptors", 2),
        ("onnx", ["--size", "large"], "HEIGHTxWIDTH", 2),
        ("onnx", ["--adaptors", "clop"], "this model has: clip, dino, sam", 1),
        ("tensorrt", PROFILES["form"], "BATCHxHEIGHTxWIDTH", 2),
        ("tensorrt", PROFILES["shrinks"], "must not shrink", 2),
        ("tensorrt", PROFILES["step"], "nearest valid", 1),
        ("tensorrt", [*PROFILE, "--for", "sun"], "known: sam", 2),
    ],
)
def test_bad_options_end_before_the_model_runs(
    action: str,
    options: list[str],
    message: str,
    code: int,
    saved: str,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra 'export'")
    monkeypatch.setattr("radio_core.export.onnx.Parity", None)
    monkeypatch.setattr(tensorrt, "find_tensorrt", lambda: None)
    monkeypatch.setattr("radio_core.cli.export.find_tensorrt", lambda: None)
    out = tmp_path / ("m.onnx" if action == "onnx" else "m.engine")
    assert main(["export", action, saved, str(out), *options]) == code
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_a_file_or_a_teacher_has_decided_cannot_be_asked_for(
    tmp_path: Path, capsys: Capture
) -> None:
    engine = str(tmp_path / "m.engine")
    argv = ["export", "tensorrt", "m.onnx", engine, *PROFILE, "--for", "sam", "--size", "32"]
    assert main(argv) == 2
    assert "leave out --size, --for" in capsys.readouterr().err
    argv = ["export", "torch", "toy-dino", str(tmp_path / "m.pt2"), "--adaptors", "clip"]
    assert main(argv) == 2
    assert "only RADIO models have --adaptors" in capsys.readouterr().err


OWN = """
import torch
from radio_core.export.card import ExportCard
from radio_core.export.exportable import Exportable

class Mean(torch.nn.Module):
    def forward(self, images):
        return (images.mean((2, 3)),)

def mean(model, name, source, size):
    sizes = dict(patch_size=8, resolution_step=8, embed_dim=3)
    card = ExportCard(name=name, toolkit="1", purpose=source, outputs=("mean",), **sizes)
    return Exportable(module=Mean().eval(), card=card)
"""


def test_a_purpose_of_ones_own_is_a_function_on_the_path(
    saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_purpose.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "m.pt2"
    assert main(["export", "torch", saved, str(out), "--for", "own_purpose:mean=colour"]) == 0
    engine = open_engine(out)
    assert (engine.card.purpose, list(engine.run(torch.rand(2, 3, 16, 8)))) == ("colour", ["mean"])


@pytest.mark.parametrize("action", ["onnx", "tensorrt", "torch"])
def test_an_unknown_model_and_a_wrong_name_are_refused(
    action: str, saved: str, tmp_path: Path, capsys: Capture
) -> None:
    profile = PROFILE if action == "tensorrt" else []
    assert main(["export", action, saved, str(tmp_path / "m.bin"), *profile]) == 1
    assert "ends with ." in capsys.readouterr().err
