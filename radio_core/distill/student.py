"""The student of a run: the heads that its teachers ask for, a start from another model, export."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radio_core.distill.config import TrainConfig
from radio_core.distill.normalization import Normalizer
from radio_core.models.adaptors import Adaptor, AdaptorConfig, HeadConfig
from radio_core.models.config import RadioConfig
from radio_core.models.radio import RadioModel
from radio_core.models.spectral import folded_state_dict, set_weight
from radio_core.models.vit import ViTConfig
from radio_core.vision import ModelSpec
from radio_core.zoo.load import load_model

Normalizers = Mapping[str, Normalizer]
"""By "<teacher>/features" or "<teacher>/summary"."""

_TOKENS = "patch_generator.cls_token.token"
_GRID = "patch_generator.pos_embed"
_LISTED = 12


def student_config(config: TrainConfig, specs: Mapping[str, ModelSpec]) -> RadioConfig:
    """The student that fits these teachers, with two heads for each (paper 3.2).

    The heads' hidden width is that of the widest teacher. A teacher without a summary (SAM), or
    whose summary has no weight, gets a feature head only. Our ViT has a class token for every
    other teacher; the summary heads of other students all read the mean of the features.

    Raises:
        ValueError: a teacher with nothing to learn from, or shapes that do not fit.
    """
    for name, spec in specs.items():
        if spec.summary_dim is None and config.teachers[name].feature_weight == 0:
            raise ValueError(f"teacher {name} has no summary: its feature_weight must not be 0")
    with_summary = [
        name
        for name, spec in specs.items()
        if spec.summary_dim is not None and config.teachers[name].summary_weight > 0
    ]
    # The side that it is best at: the largest at which the last stage teaches summaries, or else
    # any stage anything.
    last = config.stages[-1].groups
    teaching = [g for g in last if any(name in with_summary for name in g.teachers)]
    preferred = max(max(group.resolutions) for group in teaching or config.groups)
    backbone = config.student.backbone.with_summary_tokens(len(with_summary))
    # Training chooses windows for every size; the saved model has those of its best one.
    backbone = backbone.fit_windows(preferred, preferred)
    hidden = max(max(spec.feature_dim, spec.summary_dim or 0) for spec in specs.values())
    head = partial(HeadConfig, hidden_dim=hidden)
    adaptors = []
    for name, spec in specs.items():
        width = spec.summary_dim if name in with_summary else None
        has_token = name in with_summary and backbone.num_summary_tokens > 1
        source = config.teachers[name].source
        has_texts = source == "toy-clip" or source.startswith("open_clip:")
        adaptors.append(
            AdaptorConfig(
                name=name,
                features=head(out_dim=spec.feature_dim),
                summary=None if width is None else head(out_dim=width),
                token_slot=None if width is None else has_token * with_summary.index(name),
                upsample=config.teachers[name].upsample,
                text_tower=source if has_texts else None,
            )
        )
    return RadioConfig(
        name=config.recipe,
        backbone=backbone,
        adaptors=tuple(adaptors),
        summary_idxs=tuple(range(backbone.num_summary_tokens)),
        teachers=tuple(teacher.source for teacher in config.teachers.values()),
        max_resolution=backbone.max_resolution,
        preferred_resolution=(preferred, preferred),
        supports_windows=any(group.window_sizes for group in config.groups),
    )


def export_student(student: RadioModel, normalizers: Normalizers) -> RadioModel:
    """A copy of a student whose heads speak in the teachers' own numbers.

    Args:
        student: as it is trained; perhaps with spectral layers, which are folded.
        normalizers: of its targets.
    """
    # A fresh model: a deep copy would share the classes of its spectral layers.
    state = {name: value.clone() for name, value in folded_state_dict(student).items()}
    copy = RadioModel.from_state(student.config, state, "the trained student")
    copy.to(next(student.parameters()).device)
    for output, layer in _last_layers(copy).items():
        normalizers[output].fold_into(layer)
    return copy


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
def warm_start(student: RadioModel, normalizers: Normalizers, source: str) -> WarmStart:
    """Give a student the weights of another model, where they fit, in place.

    Tensors of the backbone go by name and shape. A position grid of another size is resized; class
    tokens go by the adaptors that read them, registers by their order. The heads of an adaptor
    that both have go as a whole, and are brought to the normalised targets of this run, so that
    they start where the source's teacher-space heads are.

    Args:
        student: perhaps reparametrised.
        normalizers: of the run, fitted.
        source: what `load_model` takes.

    Raises:
        ValueError: the source is no model, normalises images otherwise, or its backbone is of
            another kind or width.
    """
    model = load_model(source)
    ours, theirs = student.config, model.config
    if (ours.mean, ours.std) != (theirs.mean, theirs.std):
        raise ValueError(
            f"cannot start from {source}: it normalises images with mean {theirs.mean} and std "
            f"{theirs.std}, the student with {ours.mean} and {ours.std}"
        )
    kinds = [f"{c.backbone.label} of width {c.backbone.embed_dim}" for c in (ours, theirs)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"cannot start from {source}: its backbone ({kinds[1]}) is not like the student's "
            f"({kinds[0]}); change the --student.backbone fields, or leave --student.init-from out"
        )
    report = WarmStart(source)
    _take_backbone(student, model, report)
    layers = _last_layers(student)
    for name, own in student.adaptors.items():
        if name not in model.adaptors:
            report.left.append(f"heads of {name} (missing)")
            continue
        state = model.adaptors[name].state_dict()
        wanted = {key: value.shape for key, value in own.state_dict().items()}
        if {key: value.shape for key, value in state.items()} != wanted:
            report.left.append(f"heads of {name} (other shapes)")
            continue
        own.load_state_dict(state)
        for output in (f"{name}/features", f"{name}/summary"):
            if output in layers:
                normalizers[output].unfold_from(layers[output])
        report.taken.append(f"heads of {name}")
    report.unused += [f"heads of {name}" for name in model.adaptors if name not in student.adaptors]
    return report


def _last_layers(student: RadioModel) -> dict[str, nn.Linear]:
    """The last layer of every head, "<teacher>/features" or "<teacher>/summary" -> layer."""
    layers = {}
    for name, adaptor in student.adaptors.items():
        assert isinstance(adaptor, Adaptor)
        layers[f"{name}/features"] = adaptor.feature_head.output
        if adaptor.summary_head is not None:
            layers[f"{name}/summary"] = adaptor.summary_head.output
    return layers


def _take_backbone(student: RadioModel, model: RadioModel, report: WarmStart) -> None:
    state: Mapping[str, Tensor] = model.backbone.state_dict()
    known = folded_state_dict(student.backbone)
    for name, own in known.items():
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
            path, _, leaf = name.rpartition(".")
            layer = student.backbone.get_submodule(path)
            if leaf == "weight" and isinstance(layer, nn.Linear):
                set_weight(layer, value)
            else:
                getattr(layer, leaf).copy_(value)
    report.unused += [name for name in state if name not in known]


def _take_tokens(student: RadioModel, model: RadioModel, report: WarmStart) -> None:
    """Class tokens by the adaptors that read them, then registers in their order."""
    own = student.backbone.get_parameter(_TOKENS)
    other = model.backbone.state_dict()[_TOKENS].to(own)
    if own.shape[1] != other.shape[1]:
        report.left.append(f"{_TOKENS} (width {other.shape[1]} for {own.shape[1]})")
        return
    ours, theirs = (cast(ViTConfig, m.config.backbone) for m in (student, model))
    first, start = ours.num_cls_tokens, theirs.num_cls_tokens
    slots = {a.name: a.token_slot for a in model.config.adaptors if a.token_slot is not None}
    if first == start == 1:
        own[0] = other[0]
        report.adapted.append("the class token")
    else:
        for adaptor in student.config.adaptors:
            if adaptor.token_slot is not None and adaptor.name in slots:
                own[adaptor.token_slot] = other[slots[adaptor.name]]
                report.adapted.append(f"class token of {adaptor.name}")
    registers = min(ours.num_registers, theirs.num_registers)
    if registers:
        own[first : first + registers] = other[start : start + registers]
        report.adapted.append(f"{registers} registers")


def _resized_grid(value: Tensor, own: Tensor) -> Tensor:
    """Positions [1, R*R, C] brought to the grid of `own`, unless the width differs."""
    if value.shape[2] != own.shape[2]:
        return value
    sides = [round(grid.shape[1] ** 0.5) for grid in (value, own)]
    field = value.float().transpose(1, 2).unflatten(2, (sides[0], sides[0]))
    field = F.interpolate(field, size=(sides[1], sides[1]), mode="bilinear", align_corners=False)
    return field.flatten(2).transpose(1, 2).to(own)
