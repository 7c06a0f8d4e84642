"""README.md of a distilled student: where its weights come from, and what follows from that."""

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from radio_core.config_file import to_mapping
from radio_core.distill.config import (
    RUN_CONTROL,
    GroupConfig,
    StageConfig,
    TeacherConfig,
    TrainConfig,
)
from radio_core.models.config import RadioConfig
from radio_core.teachers.licences import Licence, licence_named
from radio_core.vision import ModelSpec

FILE = "README.md"
_PACKAGES = ("radio-toolkit", "torch", "timm", "safetensors")
_LOSSES = {
    "cosine": "cosine distance",
    "mse": "mean squared error",
    "l1": "L1",
    "smooth_l1": "smooth L1",
}


def write_model_card(
    folder: Path,
    config: TrainConfig,
    student: RadioConfig,
    specs: Mapping[str, ModelSpec],
    step: int,
) -> None:
    """Write README.md beside a saved student; the arguments are those of `model_card`."""
    (folder / FILE).write_text(model_card(config, student, specs, step), encoding="utf-8")


def model_card(
    config: TrainConfig, student: RadioConfig, specs: Mapping[str, ModelSpec], step: int
) -> str:
    """The model card in Markdown, with the front matter of the Hugging Face hub.

    Args:
        config: of the run.
        student: of the saved model.
        specs: adaptor name -> what is known of its teacher.
        step: optimizer steps done.
    """
    licences = {name: licence_named(spec.licence) for name, spec in specs.items()}
    sections = [
        _front_matter(),
        f"# {config.recipe or 'A RADIO student'}",
        f"A vision backbone distilled from {len(specs)} teachers with radio-toolkit. One forward "
        "pass gives features of its own and, through adaptor heads, those of each teacher.",
        _model(student),
        "## Licences",
        _teachers(config, specs, licences),
        _verdict(licences),
        "This is a table of facts to start from and no legal advice: the text of each licence has "
        "the last word. The training images have terms of their own.",
        "## Training",
        _training(config, step),
        "The command was `radio train "
        f"{config.recipe or 'RECIPE'} --config config.yaml` with this config.yaml:",
        f"```yaml\n{yaml.safe_dump(_settings(config), sort_keys=False)}```",
        f"Versions: {_versions()}.",
    ]
    return "\n\n".join(sections) + "\n"


def _settings(config: TrainConfig) -> dict[str, Any]:
    """The fields that decide about the result; where and how it ran is nobody's business."""
    fields: dict[str, Any] = to_mapping(config)
    return {name: value for name, value in fields.items() if name not in RUN_CONTROL}


def _front_matter() -> str:
    tags = {"library_name": "radio-toolkit", "pipeline_tag": "image-feature-extraction"}
    return f"---\n{yaml.safe_dump(tags, sort_keys=False)}---"


def _model(student: RadioConfig) -> str:
    backbone = student.backbone
    lines = [
        "```python",
        "import radio_core",
        "",
        f"model = radio_core.load_model(FOLDER, adaptors={[a.name for a in student.adaptors]})",
        "```",
        "",
        f"- backbone: {backbone.type}, features of width {backbone.embed_dim} in cells of "
        f"{backbone.patch_size} pixels",
        f"- image sides: multiples of {backbone.resolution_step} pixels"
        + (f", best at {student.preferred_resolution[0]}" if student.preferred_resolution else ""),
    ]
    return "\n".join(lines)


def _teachers(
    config: TrainConfig, specs: Mapping[str, ModelSpec], licences: Mapping[str, Licence]
) -> str:
    rows = ["| adaptor | teacher | licence of its weights | what it means for these weights |"]
    rows += ["|---|---|---|---|"]
    for name, spec in specs.items():
        licence = licences[name]
        source = config.teachers[name].source if name in config.teachers else spec.name
        cells = (name, f"`{source}`", licence.name, licence.meaning)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    if config.init_from is not None:
        source = f"The training started from the weights of `{config.init_from}`"
        rows += ["", f"{source}, whose own licence counts as well."]
    return "\n".join(rows)


def _verdict(licences: Mapping[str, Licence]) -> str:
    """What the strictest licence says."""

    def having(terms: str) -> str:
        return ", ".join(name for name, licence in licences.items() if licence.terms == terms)

    if unknown := having("unknown"):
        return f"**The terms of {unknown} are unknown: find them out before you publish weights.**"
    if restricted := having("non-commercial"):
        return f"**Because of {restricted}, treat these weights as non-commercial.**"
    if custom := having("custom"):
        return f"**Read the terms of {custom} before you publish these weights.**"
    return "**No teacher's licence restricts these weights.**"


def _training(config: TrainConfig, step: int) -> str:
    sources = ", ".join(f"`{source}`" for source in config.data)
    lines = [
        f"- {step} of {config.total_steps} steps on {sources}"
        + (f", {config.cached_views} crops with stored outputs" if config.cached_views else ""),
        *(_stage(number, stage) for number, stage in enumerate(config.stages, start=1)),
        *(_losses(name, teacher, config) for name, teacher in config.teachers.items()),
        f"- balancing: {config.balancing}; targets: normalization {config.normalization}",
        f"- AdamW, learning rate {config.lr:g}, weight decay {config.weight_decay:g}, gradient "
        f"norm at most {config.clip_grad:g}, {config.precision}"
        + (", spectral reparametrisation" if config.spectral else "")
        + (f", weights averaged with decay {config.ema:g}" if config.ema else ""),
    ]
    return "\n".join(lines)


def _stage(number: int, stage: StageConfig) -> str:
    how = "all groups at each step" if stage.all_groups else "one group a step"
    if len(stage.groups) == 1:
        how = "one group"
    groups = "; ".join(_group(group) for group in stage.groups)
    return f"- stage {number}, {stage.steps} steps, {how}: {groups}"


def _group(group: GroupConfig) -> str:
    sides = ", ".join(map(str, group.resolutions))
    windows = f", windows of {', '.join(map(str, group.window_sizes))}" * bool(group.window_sizes)
    return f"{' + '.join(group.teachers)}, {group.batch_size} images of {sides} pixels{windows}"


def _losses(name: str, teacher: TeacherConfig, config: TrainConfig) -> str:
    features = _LOSSES.get(
        teacher.feature_loss, f"{config.alpha:g} cosine + {config.beta:g} smooth L1"
    )
    parts = [
        f"{weight:g} x {loss} of the {part}"
        for weight, loss, part in (
            (teacher.summary_weight, _LOSSES[teacher.summary_loss], "summary"),
            (teacher.feature_weight, features, "features"),
        )
        if weight > 0
    ]
    return f"- losses of {name}: {' and '.join(parts)}"


def _versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:  # run from a source tree
            continue
    return ", ".join(found)
