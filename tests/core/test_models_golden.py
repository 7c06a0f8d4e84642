"""Our transformer, adaptors and spectral folding give the numbers of the released models' format.

Each case holds a small checkpoint in the official container, inputs, and expected outputs.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from radio_core.models import AdaptorConfig, RadioConfig, RadioModel, ViTConfig
from radio_core.models.spectral import apply_spectral, fold_spectral

CASES = [
    "a_vit_cpe",
    "a_vit_cpe_layerscale",
    "a_vit_single_cls",
    "a_vit_grid_eq_img",
    "b_vitdet",
    "c_spectral_v2",
    "f_inter_plain",
]
PATCH = 16
OWN_IMAGE_SIZE = 224


class Golden:
    """One golden case: its checkpoint read safely, and models built from it."""

    def __init__(self, folder: Path) -> None:
        self.case: dict[str, Any] = json.loads((folder / "case.json").read_text())
        self.inputs = load_file(folder / "inputs.safetensors")
        self.outputs = load_file(folder / "outputs.safetensors")
        with torch.serialization.safe_globals([argparse.Namespace]):
            file = torch.load(folder / self.case["checkpoint"], weights_only=True)
        self.state = {_renamed(k, self.teachers): v for k, v in file["state_dict"].items()}
        self.mean = self.state.pop("conditioner.norm_mean").flatten().tolist()
        self.std = self.state.pop("conditioner.norm_std").flatten().tolist()
        self.state.pop("backbone.reg_token", None)  # unused beside a position grid

    @property
    def args(self) -> dict[str, Any]:
        return dict(self.case["args"])

    @property
    def teachers(self) -> list[str]:
        return [teacher["name"] for teacher in self.case["args"]["teachers"]]

    def config(self, load: dict[str, Any]) -> RadioConfig:
        properties, kwargs = self.case["properties"], self.args["model_kwargs"]
        adaptors = []
        for slot, name in enumerate(self.teachers):
            summary, features = (
                [k for k in self.state if k.startswith(f"adaptors.{name}.{head}.")]
                for head in ("summary_head", "feature_head")
            )
            bias = {
                k.split(".", 2)[2]: self.state[k].shape[0]
                for k in summary + features
                if k.endswith(".bias")
            }
            adaptors.append(
                AdaptorConfig(
                    name=name,
                    feature_dim=bias["feature_head.final.2.bias"],
                    summary_dim=bias["summary_head.final.2.bias"],
                    token_slot=slot if self.args["cls_token_per_teacher"] else 0,
                    hidden_dim=bias["feature_head.fc1.bias"],
                    num_inner=sum(k.endswith(".0.bias") for k in features) - 1,
                )
            )
        layerscale = any("ls1" in k for k in self.state)
        backbone = ViTConfig(
            patch_size=PATCH,
            embed_dim=kwargs["embed_dim"],
            depth=kwargs["depth"],
            num_heads=kwargs["num_heads"],
            init_values=1e-5 if layerscale else None,
            num_cls_tokens=properties["cls_tokens"],
            num_registers=properties["registers"],
            grid_size=properties["grid"][0],
            cpe=properties["cpe_mode"],
            final_norm=self.args["model_norm"],
            num_windowed=load.get("num_windowed"),
            num_global=load.get("num_global"),
        )
        return RadioConfig(
            backbone=backbone,
            adaptors=tuple(adaptors),
            summary_idxs=tuple(properties["summary_idxs"]),
            mean=tuple(self.mean),
            std=tuple(self.std),
        )

    def model(self, load: dict[str, Any]) -> RadioModel:
        model = RadioModel(self.config(load))
        if self.args["spectral_reparam"]:
            for module in (model.backbone, *model.adaptors.values()):
                apply_spectral(module)
        model.load_state_dict(self.state)
        fold_spectral(model, extra_iterations=1)
        asked = load.get("adaptor_names", ())
        model.active_adaptors = (asked,) if isinstance(asked, str) else tuple(asked)
        model.window_size = load.get("vitdet_window_size")
        return model.eval()


def _renamed(key: str, teachers: list[str]) -> str:
    """A key of the official container as ours."""
    part, rest = key.split(".", 1)
    if part in ("_heads", "_feature_projections"):
        head, rest = rest.split(".", 1)
        name = teachers[int(head)] if head.isdigit() else head
        kind = "summary_head" if part == "_heads" else "feature_head"
        return f"adaptors.{name}.{kind}.{rest}"
    part = {"base_model": "backbone", "input_conditioner": "conditioner"}[part]
    return f"{part}.{rest}".replace(".grandma", ".gamma")


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


def _run(golden: Golden, call: dict[str, Any]) -> Any:
    model = golden.model(call["load"])
    images = golden.inputs[call["input"]].float() / 255
    # Without intermediate normalizers every alpha scheme means the same.
    kwargs = {k: v for k, v in call["kwargs"].items() if k != "norm_alpha_scheme"}
    if "pre" in call:
        images = model.make_preprocessor_external()(images)
    return getattr(model, call["method"])(images, **kwargs)


@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_outputs_match_the_golden_case(name: str, shared: Path) -> None:
    golden = Golden(shared / "reference" / "golden" / name)
    for call in golden.case["calls"]:
        tolerance = call.get("tolerance") or golden.case["tolerance"]
        found = dict(_flat(_run(golden, call), call["id"]))
        wanted = {k for k in golden.outputs if k.startswith(call["id"] + ".")}
        assert set(found) == wanted or set(found) == {call["id"]}, call["id"]
        for key, value in found.items():
            torch.testing.assert_close(value, golden.outputs[key], **tolerance, msg=key)


def test_folded_weights_match_the_golden_case(shared: Path) -> None:
    golden = Golden(shared / "reference" / "golden" / "c_spectral_v2")
    state = golden.model({}).backbone.state_dict()
    for key in golden.case["folded_keys"]:
        torch.testing.assert_close(state[key], golden.outputs[f"folded.{key}"])


def test_properties_match_the_golden_case(shared: Path) -> None:
    golden = Golden(shared / "reference" / "golden" / "b_vitdet")
    model, properties = golden.model({"vitdet_window_size": 4}), golden.case["properties"]
    for name in ("patch_size", "embed_dim", "summary_dim", "window_size", "min_resolution_step"):
        assert getattr(model, name) == properties[name]
    golden = Golden(shared / "reference" / "golden" / "a_vit_cpe")
    model = golden.model({})
    for size, nearest in golden.case["min_res"].items():
        height, width = map(int, size.split("x"))
        assert list(model.nearest_supported_resolution(height, width)) == nearest
