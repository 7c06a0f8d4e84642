"""Starting a student from another model's weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radio_core.distill.distiller import Distiller
from radio_core.models.adaptors import Adaptor
from radio_core.models.config import RadioConfig
from radio_core.models.radio import RadioModel
from radio_core.models.spectral import folded_state_dict, set_weight
from radio_core.models.vit import ViTConfig
from radio_core.zoo.load import load_model

_TOKENS = "patch_generator.cls_token.token"
_GRID = "patch_generator.pos_embed"
_LISTED = 12


@dataclass
class WarmStart:
    """What a student took over, in words.

    Attributes:
        source: what the weights are from.
        taken: tensors of the backbone as they are, and heads.
        adapted: tensors that were fitted, and how.
        left: what keeps its fresh weights, and why.
        unused: what the source has and the student has not.
    """

    source: str
    taken: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """A line for each kind that is not empty."""
        kinds = {
            "took over": self.taken,
            "adapted": self.adapted,
            "left fresh": self.left,
            "made no use of": self.unused,
        }
        return [
            f"{self.source}: {kind} {len(names)}: {', '.join(names[:_LISTED])}"
            + (" …" if len(names) > _LISTED else "")
            for kind, names in kinds.items()
            if names
        ]


@torch.no_grad()
def warm_start(distiller: Distiller, source: str) -> WarmStart:
    """Give a distiller's student the weights of another model, where they fit, in place.

    Tensors of the backbone go by name and shape. A position grid of another size is resized; class
    tokens go by the adaptors that read them, registers by their order. The heads of an adaptor
    that both have go as a whole, and are brought to the normalised targets of this run, so that
    they start where the source's teacher-space heads are.

    Args:
        distiller: with fitted normalisation; its student may be reparametrised.
        source: what `load_model` takes.

    Raises:
        ValueError: the source is no model, normalises images otherwise, or its backbone is of
            another kind or width.
    """
    student, model = distiller.student, load_model(source)
    ours, theirs = student.config, model.config
    if (ours.mean, ours.std) != (theirs.mean, theirs.std):
        raise ValueError(
            f"cannot start from {source}: it normalises images with mean {theirs.mean} and std "
            f"{theirs.std}, the student with {ours.mean} and {ours.std}"
        )
    report = WarmStart(source)
    if _kind(ours) != _kind(theirs):
        raise ValueError(
            f"cannot start from {source}: its backbone ({_kind(theirs)}) is not like the student's "
            f"({_kind(ours)}); change the --student fields, or leave --init-from out"
        )
    _take_backbone(student, model, report)
    for name in student.adaptors:
        _take_heads(distiller, name, model, report)
    report.unused += [f"heads of {name}" for name in model.adaptors if name not in student.adaptors]
    return report


def _take_backbone(student: RadioModel, model: RadioModel, report: WarmStart) -> None:
    state: Mapping[str, Tensor] = model.backbone.state_dict()
    for name, own in folded_state_dict(student.backbone).items():
        if name == _TOKENS and name in state:
            _take_tokens(student, model, report)
            continue
        value = state.get(name)
        if value is not None and name == _GRID and value.shape[1] != own.shape[1]:
            value = _resized_grid(value, own)
            report.adapted.append(f"{name} resized to {own.shape[1]} positions")
        elif value is not None and value.shape == own.shape:
            report.taken.append(name)
        else:
            why = "missing" if value is None else f"{tuple(value.shape)} for {tuple(own.shape)}"
            report.left.append(f"{name} ({why})")
            continue
        if value.shape == own.shape:
            _assign(student.backbone, name, value)
    known = folded_state_dict(student.backbone)
    report.unused += [name for name in state if name not in known]


def _take_tokens(student: RadioModel, model: RadioModel, report: WarmStart) -> None:
    """Class tokens by the adaptors that read them, then registers in their order."""
    ours, theirs = (cast(ViTConfig, m.config.backbone) for m in (student, model))
    own = student.backbone.get_parameter(_TOKENS)
    other = model.backbone.state_dict()[_TOKENS].to(own)
    if own.shape[1] != other.shape[1]:
        report.left.append(f"{_TOKENS} (width {other.shape[1]} for {own.shape[1]})")
        return
    slots = {a.name: a.token_slot for a in model.config.adaptors if a.token_slot is not None}
    if ours.num_cls_tokens == theirs.num_cls_tokens == 1:
        own[0] = other[0]
        report.adapted.append("the class token")
    else:
        for adaptor in student.config.adaptors:
            if adaptor.token_slot is not None and adaptor.name in slots:
                own[adaptor.token_slot] = other[slots[adaptor.name]]
                report.adapted.append(f"class token of {adaptor.name}")
    registers = min(ours.num_registers, theirs.num_registers)
    if registers:
        first, start = ours.num_cls_tokens, theirs.num_cls_tokens
        own[first : first + registers] = other[start : start + registers]
        report.adapted.append(f"{registers} registers")


def _take_heads(distiller: Distiller, name: str, model: RadioModel, report: WarmStart) -> None:
    """Both heads of an adaptor, if the source has such heads."""
    own = distiller.student.adaptors[name]
    assert isinstance(own, Adaptor)
    if name not in model.adaptors:
        report.left.append(f"heads of {name} (missing)")
        return
    state, wanted = model.adaptors[name].state_dict(), own.state_dict()
    shapes = {key: value.shape for key, value in state.items()}
    if shapes != {key: value.shape for key, value in wanted.items()}:
        report.left.append(f"heads of {name} (other shapes)")
        return
    own.load_state_dict(state)
    _normalise(own.feature_head.output, distiller.standardizers[f"{name}/features"])
    if own.summary_head is not None:
        _normalise(own.summary_head.output, distiller.standardizers[f"{name}/summary"])
    report.taken.append(f"heads of {name}")


def _normalise(last: nn.Linear, normalizer: nn.Module) -> None:
    """Change the last layer of a teacher-space head so that it gives normalised targets.

    The inverse of `Normalizer.fold_into`: with y' = f(y) affine, (W, b) becomes
    (f(W) - f(0), f(b)).
    """
    mean = normalizer.get_buffer("mean")
    weight = last.weight.view(-1, len(mean), last.in_features)  # [u*u, C, in]
    linear = normalizer(weight) - normalizer(torch.zeros_like(weight))
    bias = normalizer(last.bias.view(-1, len(mean)))
    last.weight.copy_(linear.view_as(last.weight))
    last.bias.copy_(bias.flatten())


def _assign(backbone: nn.Module, name: str, value: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    layer = backbone.get_submodule(path)
    if leaf == "weight" and isinstance(layer, nn.Linear):
        set_weight(layer, value)
    else:
        getattr(layer, leaf).copy_(value)


def _resized_grid(value: Tensor, own: Tensor) -> Tensor:
    """Positions [1, R*R, C] brought to the grid of `own`, unless the width differs."""
    if value.shape[2] != own.shape[2]:
        return value
    sides = [round(grid.shape[1] ** 0.5) for grid in (value, own)]
    field = value.float().transpose(1, 2).unflatten(2, (sides[0], sides[0]))
    field = F.interpolate(field, size=(sides[1], sides[1]), mode="bilinear", align_corners=False)
    return field.flatten(2).transpose(1, 2).to(own)


def _kind(config: RadioConfig) -> str:
    """What two backbones must share for their tensors to mean the same."""
    backbone = config.backbone
    return f"{backbone.label} of width {backbone.embed_dim}"
