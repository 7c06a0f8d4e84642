"""Every released format gives the numbers of the reference.

Each golden case holds a small checkpoint in the official container, inputs, and expected outputs;
the folder is swept, so that a new case is picked up without a change here.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from radio_core import RadioModel, load_model
from radio_core.models import ERadio
from radio_core.models.adaptors import AttentionHead

FOLDER = Path(os.environ.get("RADIO_SHARED", Path(__file__).parents[4] / "shared"))
CASES = sorted(path.parent.name for path in FOLDER.glob("reference/golden/*/case.json")) or ["none"]
STRICT = {"atol": 1e-4, "rtol": 1e-4}
"""What float32 has to reach whatever a case allows, except where it says otherwise itself."""


class Golden:
    """One golden case."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.case: dict[str, Any] = json.loads((folder / "case.json").read_text())
        self.inputs = load_file(folder / "inputs.safetensors")
        self.outputs = load_file(folder / "outputs.safetensors")

    def model(self, load: dict[str, Any]) -> RadioModel:
        hf = load.get("format") == "hf"
        source = self.folder / (self.case["hf_dir"] if hf else self.case["checkpoint"])
        return load_model(
            source,
            adaptors=load.get("config_adaptor_names" if hf else "adaptor_names"),
            window_size=load.get("vitdet_window_size"),
            num_windowed=load.get("num_windowed"),
            num_global=load.get("num_global"),
        )

    def images(self, name: str) -> Tensor:
        return self.inputs[name].float() / 255

    def run(self, call: dict[str, Any]) -> Any:
        model, images = self.model(call["load"]), self.images(call["input"])
        if call["id"].endswith("attn_eps1e-5"):
            _set_attention_eps(model, 1e-5)
        steps = [step for pattern, step in STEPS if re.search(pattern, call.get("pre") or "")]
        if call.get("pre") and not steps:
            pytest.fail(f"{call['id']}: no known step for {call['pre']!r}")
        for step in steps:
            result = step(model, images, call["pre"])
            if result is not None:
                return result
        return getattr(model, call["method"])(images, **call["kwargs"])


def _set_attention_eps(model: RadioModel, eps: float) -> None:
    for head in model.modules():
        if isinstance(head, AttentionHead):
            for block in head.blocks:
                block.norm1.eps = block.norm2.eps = eps


def _external(model: RadioModel, images: Tensor, _: str) -> Any:
    conditioner = model.make_preprocessor_external()
    return model(conditioner(images))


def _eradio(model: RadioModel) -> ERadio:
    assert isinstance(model.backbone, ERadio)
    return model.backbone


def _raw(model: RadioModel, images: Tensor, _: str) -> Any:
    maps = _eradio(model).forward_levels(model.conditioner(images))
    return {"final": maps.after[-1], "full": maps.full}


def _levels(model: RadioModel, images: Tensor, _: str) -> Any:
    maps = _eradio(model).forward_levels(model.conditioner(images))
    named = {"patch_embed": maps.stem}
    for i, (before, after) in enumerate(zip(maps.before, maps.after, strict=True)):
        named |= {f"level{i}_pre": before, f"level{i}_out": after}
    return named


def _change_window(model: RadioModel, images: Tensor, pre: str) -> None:
    _eradio(model).change_window_size(int(pre.split("(")[-1].rstrip(")")))


def _optimal_window(model: RadioModel, images: Tensor, _: str) -> None:
    _eradio(model).set_optimal_window_size(tuple(images.shape[-2:]))


def _deploy(model: RadioModel, images: Tensor, _: str) -> None:
    model.switch_to_deploy()


def _intermediates(model: RadioModel, images: Tensor, _: str) -> Any:
    return model.forward_intermediates(
        images, [0, -1], return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
    )


def _float(model: RadioModel, images: Tensor, _: str) -> None:
    model.float()


STEPS: list[tuple[str, Callable[[RadioModel, Tensor, str], Any]]] = [
    (r"make_preprocessor_external", _external),
    (r"model\.forward_features", _raw),
    (r"outputs of patch_embed", _levels),
    (r"change_window_size\(", _change_window),
    (r"set_optimal_window_size\(", _optimal_window),
    (r"switch_to_deploy\(", _deploy),
    (r"radio_model\.forward_intermediates", _intermediates),
    (r"model\.float\(\)", _float),
]


def _flat(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor inside an output, under the name the golden files give it."""
    if isinstance(value, Tensor):
        yield path, value
        return
    if hasattr(value, "_asdict"):
        value = value._asdict()
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in pairs:
        yield from _flat(item, f"{path}.{key}")


@pytest.fixture
def golden(request: pytest.FixtureRequest, shared: Path) -> Golden:
    return Golden(shared / "reference" / "golden" / request.param)


@pytest.mark.parametrize("golden", CASES, indirect=True)
@torch.inference_mode()
def test_outputs_match_the_golden_case(golden: Golden) -> None:
    for call in golden.case["calls"]:
        tolerance = call.get("tolerance") or golden.case["tolerance"]
        exact = call["compute_dtype"] == "float32" and tolerance["atol"] <= 5e-4
        found = dict(_flat(golden.run(call), call["id"]))
        wanted = {k for k in golden.outputs if k.startswith(call["id"] + ".")}
        assert set(found) == wanted or set(found) == {call["id"]}, call["id"]
        for key, value in found.items():
            expected = golden.outputs[key]
            assert value.dtype == expected.dtype, key
            torch.testing.assert_close(
                value,
                expected,
                **(STRICT if exact else tolerance),
                msg=lambda m, k=key: f"{k}: {m}",
            )


@pytest.mark.parametrize("golden", CASES, indirect=True)
def test_folded_weights_match_the_golden_case(golden: Golden) -> None:
    if "folded_keys" not in golden.case:
        return
    state = golden.model({}).backbone.state_dict()
    for key in golden.case["folded_keys"]:
        torch.testing.assert_close(
            state[key.removeprefix("inner.")], golden.outputs[f"folded.{key}"]
        )


@pytest.mark.parametrize("golden", CASES, indirect=True)
def test_properties_match_the_golden_case(golden: Golden) -> None:
    load = golden.case["calls"][0]["load"]
    model, properties = golden.model(load), golden.case["properties"]
    names = ("patch_size", "embed_dim", "summary_dim", "window_size", "num_summary_tokens")
    if isinstance(model.backbone, ERadio):  # has neither width nor a patch size in the reference
        names = ("window_size", "num_summary_tokens")
    for name in names:
        if properties[name] is not None:
            assert getattr(model, name) == properties[name], name
    assert list(model.config.summary_idxs) == properties["summary_idxs"]
    for size, nearest in golden.case.get("min_res", {}).items():
        height, width = map(int, size.split("x"))
        assert list(model.nearest_supported_resolution(height, width)) == nearest
