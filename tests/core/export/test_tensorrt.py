from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from radio_core.export import tensorrt as target
from radio_core.export.exportable import radio_exportable
from radio_core.export.tensorrt import (
    Profile,
    build_engine,
    export_tensorrt,
    parse_shape,
    read_engine_card,
)
from radio_core.models import RadioConfig, RadioModel, eradio_config, vit_config

Build = Callable[..., RadioModel]
Watched = list[tuple[str, int, int | None]]


def profile(low: str = "1x64x64", best: str = "2x64x96", high: str = "3x128x128") -> Profile:
    return Profile(minimum=parse_shape(low), optimum=parse_shape(best), maximum=parse_shape(high))


@pytest.mark.parametrize("text", ["", "4x432", "0x64x64", "1x64x-64", "1x64x64x3", "axbxc"])
def test_what_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="BATCHxHEIGHTxWIDTH"):
        parse_shape(text)
    assert str(parse_shape("4x432x448")) == "4x432x448"


def test_a_profile_off_the_step_is_refused_before_the_model_runs(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build("vit-windowed")
    monkeypatch.setattr(model, "forward_all", None)
    with pytest.raises(ValueError, match=r"--opt 2x64x100.*nearest valid size is 64x96"):
        export_tensorrt(radio_exportable(model), tmp_path / "m.engine", profile(best="2x64x100"))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "_PACKAGES", ("no_such_tensorrt", "no_such_tensorrt_rtx"))
    with pytest.raises(ImportError, match=r"radio-toolkit\[tensorrt\]"):
        target.find_tensorrt()


def needs_tensorrt() -> None:
    try:
        target.find_tensorrt()
    except ImportError:
        pytest.skip("needs the extra 'tensorrt'")


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", ["vit", "vit-windowed", "vit-dinov2", "vit-grid", "eradio", "eradio-conv"]
)
def test_every_graph_builds(family: str, file_of: Callable[..., Path], tmp_path: Path) -> None:
    needs_tensorrt()
    watched: Watched = []
    done = build_engine(
        file_of(family),
        tmp_path / "m.engine",
        profile(),
        progress=lambda *args: watched.append(args),
    )
    assert done.path.stat().st_size > 10_000
    assert done.side_file == tmp_path / "m.engine.json"
    assert not done.ran
    assert any(what.startswith("TensorRT:") and total for what, _, total in watched)
    card, built_for = read_engine_card(done.path)
    assert (card.name, built_for) == (family, profile())
    assert {file.name for file in tmp_path.iterdir()} == {"m.engine", "m.engine.json"}


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["base", "eradio_xxxtiny"])
def test_published_shapes_build_for_any_size(preset: str, tmp_path: Path) -> None:
    needs_tensorrt()
    pytest.importorskip("onnxscript", reason="needs the extra 'export'")
    from radio_core.export.onnx import write_onnx

    backbone = eradio_config(preset) if "eradio" in preset else vit_config(preset)
    model = RadioModel(RadioConfig(name=preset, backbone=backbone)).eval()
    graph, path = tmp_path / "m.onnx", tmp_path / "m.engine"
    write_onnx(radio_exportable(model), graph, precision="float32")
    wanted = profile("1x224x224", "2x448x448", "4x512x1024")
    done = build_engine(graph, path, wanted)
    weights = 4 * sum(parameter.numel() for parameter in model.backbone.parameters())
    assert done.path.stat().st_size > 0.8 * weights
    card, built_for = read_engine_card(path)
    assert (card.name, card.fixed_size, built_for) == (preset, None, wanted)


@pytest.mark.slow
def test_bfloat16_builds(build: Build, tmp_path: Path) -> None:
    needs_tensorrt()
    pytest.importorskip("onnxscript", reason="needs the extra 'export'")
    path = tmp_path / "m.engine"
    export_tensorrt(radio_exportable(build("vit")), path, profile(), precision="bfloat16")
    assert read_engine_card(path)[0].precision == "bfloat16"


def test_an_engine_needs_its_card_and_a_gpu(tmp_path: Path) -> None:
    path = tmp_path / "m.engine"
    with pytest.raises(FileNotFoundError):
        read_engine_card(path)
    path.write_bytes(b"engine")
    with pytest.raises(ValueError, match=r"needs m\.engine\.json beside it"):
        read_engine_card(path)
    for text in ("{", "[]", '{"radio": {}}', "{}"):
        (tmp_path / "m.engine.json").write_text(text)
        with pytest.raises(ValueError, match=r"m\.engine\.json"):
            read_engine_card(path)


def test_images_outside_of_the_profile_are_refused() -> None:
    profile().check_images(torch.zeros(2, 3, 96, 64))
    with pytest.raises(ValueError, match=r"shape 4x64x64 are outside.*1x64x64 to 3x128x128"):
        profile().check_images(torch.zeros(4, 3, 64, 64))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_the_engine_is_the_model(
    precision: Any, build: Build, tmp_path: Path, assert_close: Callable[..., None]
) -> None:
    needs_tensorrt()
    from radio_core.export.parity import TOLERANCES
    from radio_core.export.runtime import load_exported

    model, path = build("vit"), tmp_path / "m.engine"
    exportable = radio_exportable(model, adaptors=tuple(model.adaptors))
    assert export_tensorrt(exportable, path, profile(), precision=precision).ran
    images = torch.rand(2, 3, 64, 128)
    with torch.no_grad():
        assert_close(load_exported(path, "cuda")(images), model(images), TOLERANCES[precision])
