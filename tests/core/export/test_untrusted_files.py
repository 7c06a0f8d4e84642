"""Files from anywhere: refused with a clear word, and never followed out of their folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from radio_core.export.card import CARD_KEY, ExportCard, read_card
from radio_core.export.onnx import read_onnx_card
from radio_core.export.runtime import load_exported

onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")
pytest.importorskip("onnxruntime", reason="needs the extra 'export'")

CARD = ExportCard(
    name="m",
    toolkit="1",
    outputs=("summary", "features"),
    patch_size=1,
    resolution_step=1,
    embed_dim=3,
    summary_dim=3,
)


def graph(card: str | None = None, domain: str = "", location: str = "") -> Any:
    """A graph that adds a weight to the images; its weight may be in another file."""
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    weight = helper.make_tensor("w", floats, [1, 3, 1, 1], [1.0, 2.0, 3.0])
    if location:
        weight.ClearField("float_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", "12")):
            weight.external_data.add(key=key, value=value)
    nodes = [
        helper.make_node("Add", ["images", "w"], ["features"], domain=domain),
        helper.make_node("ReduceMean", ["features"], ["summary"], axes=[2, 3], keepdims=0),
    ]
    sides = ["batch", 3, "height", "width"]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("images", floats, sides)],
            [
                helper.make_tensor_value_info("summary", floats, ["batch", 3]),
                helper.make_tensor_value_info("features", floats, sides),
            ],
            [weight],
        ),
        opset_imports=[helper.make_opsetid(d, 17) for d in dict.fromkeys(["", domain])],
        ir_version=9,
    )
    helper.set_model_props(model, {CARD_KEY: CARD.to_json() if card is None else card})
    return model


def save(model: Any, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def test_the_harmless_file_works(tmp_path: Path) -> None:
    exported = load_exported(save(graph(), tmp_path / "m.onnx"), threads=1)
    summary, features = exported(torch.zeros(2, 3, 4, 5), "NCHW")
    assert summary is not None
    assert summary.tolist() == [[1, 2, 3]] * 2
    assert features.shape == (2, 3, 4, 5)


@pytest.mark.parametrize("location", ["../w.data", "ABSOLUTE", "link.data", "sub/../../w.data"])
def test_weights_outside_of_the_folder_are_not_read(location: str, tmp_path: Path) -> None:
    outside = tmp_path / "w.data"
    outside.write_bytes(bytes(12))
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "link.data").symlink_to(outside)
    place = str(outside) if location == "ABSOLUTE" else location
    path = save(graph(location=place), folder / "m.onnx")
    with pytest.raises(ValueError, match="outside of its folder"):
        load_exported(path)


def test_weights_in_a_nested_graph_are_found_too(tmp_path: Path) -> None:
    model = graph()
    nested = graph(location="../w.data").graph
    branch = onnx.helper.make_node("If", ["condition"], ["x"], then_branch=nested)
    model.graph.node.append(branch)
    with pytest.raises(ValueError, match="outside of its folder"):
        read_onnx_card(save(model, tmp_path / "m.onnx"))


def test_operators_of_others_are_refused(tmp_path: Path) -> None:
    path = save(graph(domain="com.example"), tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=r"needs operators of com\.example"):
        load_exported(path)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_garbage_is_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"m{suffix}"
    for content in (b"", b"garbage" * 100, b"\x08\x09"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="damaged"):
            load_exported(path)


def test_a_truncated_file_is_named(file_of: Callable[..., Path], tmp_path: Path) -> None:
    content = file_of("vit").read_bytes()
    path = tmp_path / "m.onnx"
    for share in (0.1, 0.5, 0.99):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ValueError, match=r"damaged|not written by"):
            load_exported(path)


def test_a_graph_that_onnxruntime_refuses_is_named(tmp_path: Path) -> None:
    model = graph()
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ValueError, match="onnxruntime refuses"):
        load_exported(save(model, tmp_path / "m.onnx"))


def test_other_files_are_refused_by_what_they_lack(tmp_path: Path) -> None:
    model = graph()
    del model.metadata_props[:]
    with pytest.raises(ValueError, match="not written by `radio export`"):
        load_exported(save(model, tmp_path / "m.onnx"))
    renamed = graph()
    renamed.graph.output[0].name = "other"
    with pytest.raises(ValueError, match="not those that it names"):
        load_exported(save(renamed, tmp_path / "m.onnx"))
    part = json.loads(CARD.to_json()) | {"purpose": "sam"}
    with pytest.raises(ValueError, match="not a whole model"):
        load_exported(save(graph(json.dumps(part)), tmp_path / "m.onnx"))
    with pytest.raises(ValueError, match=r"those end with \.onnx, \.engine, \.pt2"):
        load_exported(tmp_path / "m.bin")
    with pytest.raises(FileNotFoundError, match="no file"):
        load_exported(tmp_path / "missing.onnx")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"name": 3}', "{", '{"surprise": 1}', CARD.to_json()[:-1]]
)
def test_malformed_cards_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"m\.onnx describes itself"):
        read_card(text, "m.onnx")


def test_cards_of_newer_versions_are_refused_by_the_unknown_field() -> None:
    newer = json.loads(CARD.to_json()) | {"surprise": 1}
    with pytest.raises(ValueError, match="surprise"):
        read_card(json.dumps(newer), "m.onnx")
    assert read_card(CARD.to_json(), "m.onnx") == CARD
