"""Checkpoints in the official container: what is read, what is refused, and what counts."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from radio_core import load_model
from radio_core.models import RadioConfig, RadioModel, ViTConfig
from radio_core.models.adaptors import AttentionHead, MLPHead, ReluHead
from radio_core.zoo.official import from_official

WIDTH, HIDDEN = 32, 12
TEACHERS = [
    {"name": "clip", "type": "open_clip", "model": "ViT-B-32", "pretrained": "openai"},
    {"name": "dino_v2", "type": "dino_v2"},
    {"name": "sam", "type": "sam", "use_summary": False},
]


def arguments(**changes: Any) -> dict[str, Any]:
    values = {
        "model": "vit_base_patch16_224",
        "model_kwargs": {"embed_dim": WIDTH, "depth": 2, "num_heads": 2},
        "cpe_max_size": 64,
        "cls_token_per_teacher": True,
        "register_multiple": 4,
        "teachers": TEACHERS,
        "mlp_version": "v2",
        "dtype": torch.float32,
    }
    return {**values, **changes}


def student(prefix: int = 4) -> dict[str, Tensor]:
    """Random tensors of the student of `arguments`, under their official names."""
    config = ViTConfig(patch_size=16, embed_dim=WIDTH, depth=2, num_heads=2, grid_size=4)
    state = RadioModel(RadioConfig(backbone=config)).state_dict()
    state["backbone.patch_generator.cls_token.token"] = torch.randn(prefix, WIDTH)
    constants = {"norm_mean": torch.full((3, 1, 1), 0.5), "norm_std": torch.full((3, 1, 1), 0.25)}
    named = {key.replace("backbone.", "base_model."): t.clone() for key, t in state.items()}
    return named | {f"input_conditioner.{key}": t for key, t in constants.items()}


def head(prefix: str, out: int, module: Callable[..., torch.nn.Module] = MLPHead) -> dict[str, Any]:
    return {f"{prefix}.{k}": t for k, t in module(WIDTH, HIDDEN, out).state_dict().items()}


def checkpoint() -> dict[str, Tensor]:
    torch.manual_seed(0)
    state = student()
    for index, (name, out) in enumerate((("0", 5), ("dino_v2", 6), ("sam", 7))):
        state |= head(f"_heads.{name}", out + index)
        state |= head(f"_feature_projections.{name}", out)
    return state


def build(args: dict[str, Any], state: dict[str, Tensor]) -> RadioModel:
    config, tensors, *_ = from_official(args, state)
    return RadioModel.from_state(config, tensors, "test")


def saved(path: Path, args: dict[str, Any], state: dict[str, Tensor]) -> Path:
    file = {"arch": "x", "epoch": 1, "state_dict": state, "args": argparse.Namespace(**args)}
    torch.save(file, path)
    return path


def test_heads_are_found_by_position_and_by_name_and_the_position_wins() -> None:
    state = checkpoint()
    model = build(arguments(), state)
    assert {n: a.config.summary_dim for n, a in model.adaptors.items()} == {
        "clip": 5,
        "dino_v2": 7,
        "sam": 9,
    }
    assert model.config.adaptors[0].text_tower == "open_clip:ViT-B-32/openai"
    both = build(arguments(), state | head("_heads.1", 11))
    assert both.adaptors["dino_v2"].config.summary_dim == 11


def test_a_name_that_begins_like_another_keeps_its_own_heads() -> None:
    teachers = [{"name": "sam"}, {"name": "sam3"}]
    state = student(prefix=4)
    for name, out in (("sam", 5), ("sam3", 6)):
        state |= head(f"_heads.{name}", out) | head(f"_feature_projections.{name}", out)
    model = build(arguments(teachers=teachers), state)
    assert [adaptor.feature_dim for adaptor in model.config.adaptors] == [5, 6]


def test_kinds_of_heads_follow_the_arguments() -> None:
    teachers = [dict(t) for t in TEACHERS]
    teachers[1]["mlp_version"] = "v1"
    teachers[2]["spatial_mlp_version"] = "attn"
    state = checkpoint()
    for key in [k for k in state if k.startswith(("_heads.dino_v2", "_feature_projections.sam"))]:
        del state[key]
    state |= head("_heads.dino_v2", 6, ReluHead)
    state |= head("_feature_projections.sam", 7, AttentionHead)
    model = build(arguments(teachers=teachers), state)
    kinds = {a.name: (a.summary.kind, a.features.kind) for a in model.config.adaptors if a.summary}
    assert kinds == {"clip": ("v2", "v2"), "dino_v2": ("v1", "v2"), "sam": ("v2", "attn")}
    outputs = model.forward_all(torch.rand(1, 3, 32, 48), tuple(kinds))
    assert outputs["sam"].features.shape == (1, 7, 2, 3)


def test_inner_layers_of_both_generations_are_counted() -> None:
    args = arguments(mlp_version="v1", spatial_mlp_version="v2", teachers=TEACHERS[:1])
    state = student()
    state |= {f"_heads.0.{k}": t for k, t in ReluHead(WIDTH, 8, 5, 2).state_dict().items()}
    heads = MLPHead(WIDTH, 8, 5, 3).state_dict()
    state |= {f"_feature_projections.0.{k}": t for k, t in heads.items()}
    (adaptor,) = build(args, state).config.adaptors
    assert adaptor.summary is not None
    assert (adaptor.summary.num_inner, adaptor.features.num_inner) == (2, 3)


def test_an_adaptor_with_one_head_is_refused_only_when_asked_for(tmp_path: Path) -> None:
    state = {k: t for k, t in checkpoint().items() if not k.startswith("_feature_projections.sam")}
    path = saved(tmp_path / "model.pth.tar", arguments(), state)
    assert sorted(load_model(path).adaptors) == ["clip", "dino_v2"]
    with pytest.raises(ValueError, match=r"no usable adaptor 'sam'.*_feature_projections"):
        load_model(path, adaptors="sam")
    with pytest.raises(ValueError, match="this model has: clip, dino_v2"):
        load_model(path, adaptors="siglip")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("base_model.blocks.1.mlp.fc2.bias"), "missing backbone.blocks.1.mlp.fc2"),
        (lambda s: s.update({"base_model.extra": torch.ones(1)}), "unexpected backbone.extra"),
        (lambda s: s.update({"_heads.9.fc1.weight": torch.ones(1)}), "_heads.9.fc1.weight"),
        (lambda s: s.update({"optimizer.x": torch.ones(1)}), "unexpected tensors optimizer.x"),
        (lambda s: s.update({"_heads.0.extra": torch.ones(1)}), "summary_head.extra"),
        (lambda s: s.pop("_heads.0.final.0.bias"), "missing adaptors.clip.summary_head.final.0"),
        (lambda s: s.pop("input_conditioner.norm_std"), "norm_std"),
        (lambda s: s["base_model.blocks.0.norm1.bias"].fill_(torch.nan), "NaN or infinite"),
        (lambda s: s["_heads.0.fc1.bias"].fill_(torch.inf), "NaN or infinite"),
        (
            lambda s: s.update({"base_model.blocks.0.norm1.bias": torch.ones(3)}),
            r"blocks.0.norm1.bias has shape \(3,\) instead of \(32,\)",
        ),
        (lambda s: [s.pop(key) for key in list(s) if key.startswith("base_model")], "no student"),
    ],
)
def test_what_does_not_fit_is_listed(change: Callable[[Any], object], message: str) -> None:
    state = checkpoint()
    change(state)
    with pytest.raises(ValueError, match=message):
        build(arguments(), state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "resnet50"}, "unknown student architecture 'resnet50'.*vit_SIZE"),
        ({"model_kwargs": {"rope": True}}, "rope"),
        ({"model_kwargs": {"qk_norm": True}}, "qk_norm"),
        ({"teachers": None}, "list of the teachers"),
        ({"teachers": [{"type": "sam"}]}, "dict with a name"),
        ({"cpe_max_size": "big"}, "big"),
        ({"dtype": torch.float64}, "float64"),
        ({"model_kwargs": {"embed_dim": 10**9}}, "embed_dim"),
    ],
)
def test_arguments_that_are_not_supported(changes: dict[str, Any], message: str) -> None:
    state = student() | head("_heads.0", 5) | head("_feature_projections.0", 5)
    with pytest.raises(ValueError, match=message):
        build(arguments(**changes), state)


@pytest.mark.parametrize(
    ("teacher", "reason"),
    [
        ({"name": "../x"}, "bad adaptor name"),
        ({"name": "keys"}, "reserved"),
        ({"name": "clip", "mlp_version": "v9"}, "v9"),
        ({"name": "clip", "fd_upsample_factor": 2}, "5 outputs for an upsampling by 2"),
        ({"name": "clip", "token_slot": 9}, "reads token 9"),
        ({"name": "clip", "mlp_version": "v1"}, "should be of kind v1"),
    ],
)
def test_an_adaptor_of_unknown_kind_does_not_cost_the_model(
    teacher: dict[str, Any], reason: str
) -> None:
    state = student() | head("_heads.0", 5) | head("_feature_projections.0", 5)
    config, tensors, _, absent = from_official(arguments(teachers=[teacher]), state)
    assert not RadioModel.from_state(config, tensors, "test").adaptors
    assert reason in absent[teacher["name"]]


def test_empty_kinds_of_heads_mean_the_general_one() -> None:
    teacher = {"name": "clip", "mlp_version": False, "spatial_mlp_version": ""}
    teacher |= {"fd_upsample_factor": 0}
    state = student() | head("_heads.0", 5) | head("_feature_projections.0", 5)
    args = arguments(teachers=[teacher], spatial_mlp_version=False)
    (adaptor,) = build(args, state).config.adaptors
    assert (adaptor.features.kind, adaptor.upsample) == ("v2", 1)


@pytest.mark.parametrize(
    ("key", "tensor"),
    [
        ("pos_embed", torch.ones(1, 17, 9)),
        ("pos_embed", torch.ones(5)),
        ("pos_embed", torch.ones(1, 30, WIDTH)),
        ("cls_token", torch.tensor(1.0)),
        ("patch_embed.proj.weight", torch.ones(WIDTH)),
    ],
)
def test_odd_tensors_of_a_plain_vit_are_an_error(key: str, tensor: Tensor) -> None:
    kwargs = {"embed_dim": WIDTH, "depth": 1, "num_heads": 2, "img_size": 64}
    reference = timm.create_model("vit_base_patch16_224", **kwargs, num_classes=0)
    state = dict(reference.state_dict(prefix="base_model.")) | {f"base_model.{key}": tensor}
    state |= {k: t for k, t in student().items() if k.startswith("input_conditioner.")}
    with pytest.raises(ValueError, match=r"pos_embed|make no sense|does not fit"):
        build(arguments(model_kwargs=kwargs, cpe_max_size=None, model_norm=True), state)


def test_the_summary_of_a_plain_vit_is_one_token_whatever_the_teachers() -> None:
    kwargs = {"embed_dim": WIDTH, "depth": 1, "num_heads": 2, "img_size": 32}
    reference = timm.create_model("vit_base_patch16_224", **kwargs, num_classes=0)
    state = dict(reference.state_dict(prefix="base_model."))
    state |= {k: t for k, t in student().items() if k.startswith("input_conditioner.")}
    model = build(arguments(model_kwargs=kwargs, cpe_max_size=None, model_norm=True), state)
    assert model.config.summary_idxs == (0, 1)
    assert model(torch.rand(1, 3, 32, 32)).summary.shape == (1, model.summary_dim) == (1, WIDTH)


def test_a_summary_of_tokens_that_do_not_exist_is_refused() -> None:
    teachers = [{"name": "a"}, {"name": "a"}, {"name": "a"}, {"name": "b"}]
    with pytest.raises(ValueError, match=r"summary_idxs \(0, 3\)"):
        build(arguments(teachers=teachers), student())


def test_an_intermediate_normalizer_may_have_more_layers_than_the_student() -> None:
    state = student()
    prefix = "_intermediate_feature_normalizer."
    state |= {f"{prefix}alphas": torch.rand(5), f"{prefix}means": torch.randn(5, WIDTH)}
    model = build(arguments(), state | {f"{prefix}rotation": torch.randn(WIDTH, WIDTH)})
    per_layer = build(arguments(), state | {f"{prefix}rotation": torch.randn(5, WIDTH, WIDTH)})
    for built, shape in ((model, (WIDTH, WIDTH)), (per_layer, (2, WIDTH, WIDTH))):
        assert built.intermediate_normalizer is not None
        assert built.intermediate_normalizer.means.shape == (2, WIDTH)
        assert built.intermediate_normalizer.rotation.shape == shape


def test_missing_arguments_are_named() -> None:
    args = arguments()
    del args["cpe_max_size"]
    with pytest.raises(ValueError, match="cpe_max_size"):
        build(args, checkpoint())


@pytest.mark.parametrize(
    ("changes", "prefix"),
    [
        ({"register_multiple": 4}, 4),
        ({"register_multiple": 3}, 6),  # a whole group more when the class tokens fill one
        ({"register_multiple": None}, 3),
        ({"register_multiple": 4, "cpe_num_registers": 2}, 5),
        ({"cls_token_per_teacher": False, "register_multiple": 4}, 4),
    ],
)
def test_class_tokens_and_registers(changes: dict[str, Any], prefix: int) -> None:
    model = build(arguments(**changes), student(prefix))
    assert model.num_summary_tokens == prefix
    assert model.summary_dim == (WIDTH if "cls_token_per_teacher" in changes else 2 * WIDTH)


@pytest.mark.parametrize("no_embed_class", [False, True])
@pytest.mark.parametrize(("reg_tokens", "gp"), [(0, None), (2, None), (2, "avg")])
def test_a_plain_vit_is_timms(reg_tokens: int, gp: str | None, no_embed_class: bool) -> None:
    torch.manual_seed(0)
    kwargs: dict[str, Any] = {"embed_dim": WIDTH, "depth": 2, "num_heads": 2, "img_size": 64}
    kwargs |= {"reg_tokens": reg_tokens, "no_embed_class": no_embed_class}
    reference = timm.create_model(
        "vit_base_patch16_224", **kwargs, num_classes=0, global_pool=gp or "token"
    ).eval()
    for parameter in reference.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    state = {f"base_model.{k}": t for k, t in reference.state_dict().items()}
    state |= {k: t for k, t in student().items() if k.startswith("input_conditioner.")}
    args = arguments(model_kwargs=kwargs, cpe_max_size=None, gp=gp, model_norm=gp is None)
    model = build(args, state)
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        if gp == "avg":
            reference.norm = torch.nn.Identity()
        tokens = reference.forward_features(model.conditioner(images))
        output = model(images)
    first = 1 + reg_tokens
    summary = tokens[:, first:].mean(dim=1) if gp == "avg" else tokens[:, 0]
    torch.testing.assert_close(output.summary, summary, atol=1e-5, rtol=1e-5)
    wanted = tokens if gp == "avg" else tokens[:, 1:]
    torch.testing.assert_close(output.features, wanted, atol=1e-5, rtol=1e-5)
    assert model.nearest_supported_resolution(500, 20) == (64, 64)
    with pytest.raises(ValueError, match="64x64 pixels only"):
        model(torch.rand(1, 3, 64, 80))


def test_features_that_hold_other_tokens_are_no_map() -> None:
    kwargs = {"embed_dim": WIDTH, "depth": 1, "num_heads": 2, "img_size": 32}
    reference = timm.create_model("vit_base_patch16_224", **kwargs, num_classes=0)
    state = dict(reference.state_dict(prefix="base_model."))
    state |= {k: t for k, t in student().items() if k.startswith("input_conditioner.")}
    args = arguments(model_kwargs=kwargs, cpe_max_size=None, gp="avg")
    model = build(args, {k: t for k, t in state.items() if not k.startswith("base_model.norm.")})
    assert model(torch.rand(1, 3, 32, 32)).features.shape == (1, 5, WIDTH)
    with pytest.raises(ValueError, match='use "NLC"'):
        model(torch.rand(1, 3, 32, 32), feature_fmt="NCHW")


def test_scaled_layer_norms_are_folded() -> None:
    kwargs = {"embed_dim": WIDTH, "depth": 2, "num_heads": 2, "patch_size": 16}
    state = student()
    plain = build(arguments(model_kwargs=kwargs), state)
    scaled = build(arguments(model_kwargs=kwargs | {"scaled_ln": True}), state)
    for index in range(2):
        for norm in ("norm1", "norm2"):
            one, other = (
                m.backbone.get_submodule(f"blocks.{index}.{norm}") for m in (plain, scaled)
            )
            torch.testing.assert_close(other.weight, one.weight / (index + 1) ** 0.5)


def test_a_position_convention_can_be_asked_for(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pth.tar", arguments(), checkpoint())
    images = torch.rand(1, 3, 32, 48)
    today, old = load_model(path), load_model(path, pos_align_corners=True)
    assert (today.config.backbone.pos_align_corners, old.config.backbone.pos_align_corners) == (
        False,
        True,
    )
    assert not torch.allclose(today(images).features, old(images).features)


def test_dtype_of_the_checkpoint_counts_unless_another_is_asked_for(tmp_path: Path) -> None:
    state = checkpoint() | {
        "_feature_normalizer.mean": torch.randn(WIDTH),
        "_feature_normalizer.tx": torch.randn(WIDTH, WIDTH),
    }
    path = saved(tmp_path / "model.pth.tar", arguments(dtype=torch.bfloat16), state)
    images = torch.rand(1, 3, 32, 48)
    outputs = load_model(path, adaptors="clip")(images)
    assert isinstance(outputs, dict)
    assert outputs["backbone"].features.dtype == torch.bfloat16
    assert outputs["clip"].features.dtype == outputs["clip"].summary.dtype == torch.float32
    exact = load_model(path, dtype=torch.float32)
    assert exact(images).features.dtype == torch.float32
    torch.testing.assert_close(
        exact.backbone.patch_generator.pos_embed, state["base_model.patch_generator.pos_embed"]
    )


def test_one_version_number_in_the_file_makes_it_the_second_version() -> None:
    state = checkpoint()
    layer = "_heads.0.fc1."
    weight = state.pop(f"{layer}weight")
    prefix = f"{layer}parametrizations.weight."
    state |= {f"{prefix}original": weight, f"{prefix}0.scale": torch.ones(1, 1)}
    state |= {f"{prefix}0._u": torch.randn(HIDDEN), f"{prefix}0._v": torch.randn(WIDTH)}
    first = build(arguments(), state).adaptors["clip"].summary_head.fc1.weight
    norm = "base_model.blocks.0.attn.proj."
    weight = state.pop(f"{norm}weight")
    prefix = f"{norm}parametrizations.weight."
    state |= {f"{prefix}original": weight, f"{prefix}0.scale": torch.ones(1, 1)}
    state |= {f"{prefix}0._u": torch.randn(WIDTH), f"{prefix}0._v": torch.randn(WIDTH)}
    state[f"{prefix}0._sn_version"] = torch.tensor(2)
    second = build(arguments(), state).adaptors["clip"].summary_head.fc1.weight
    gain = torch.nn.functional.softplus(torch.tensor(1.0)) + 0.05
    torch.testing.assert_close(second, first * gain)
