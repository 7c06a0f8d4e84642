"""README.md of a distilled student: where its weights come from, and what follows from that."""

import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version

import yaml

from radio_core.distill.config import TrainConfig, settings
from radio_core.models.config import RadioConfig
from radio_core.teachers.licences import Licence, licence_named
from radio_core.vision import ModelSpec

CARD_FILE = "README.md"
_PACKAGES = ("radio-toolkit", "torch", "timm", "safetensors")
_LOSSES = {
    "cosine": "cosine distance",
    "mse": "mean squared error",
    "l1": "L1",
    "smooth_l1": "smooth L1",
}


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
    tags = {"library_name": "radio-toolkit", "pipeline_tag": "image-feature-extraction"}
    recipe, backbone = config.recipe or "RECIPE", student.backbone
    best = student.preferred_resolution
    rows = [
        "| adaptor | teacher | licence of its weights | what it means for these weights |",
        "|---|---|---|---|",
    ]
    for name, licence in licences.items():
        source = config.teachers[name].source if name in config.teachers else specs[name].name
        cells = (name, f"`{source}`", licence.name, licence.meaning)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    origin = config.student.init_from
    if origin is not None:
        started = f"The training started from the weights of `{origin}`"
        rows += ["", f"{started}, whose own licence counts as well."]
    sections = [
        f"---\n{yaml.safe_dump(tags, sort_keys=False)}---",
        f"# {config.recipe or 'A RADIO student'}",
        f"A vision backbone distilled from {len(specs)} teachers with radio-toolkit. One forward "
        "pass gives features of its own and, through adaptor heads, those of each teacher.",
        "```python\nimport radio_core\n\n"
        f"model = radio_core.load_model(FOLDER, adaptors={[a.name for a in student.adaptors]})\n"
        "```\n\n"
        f"- backbone: {backbone.type}, features of width {backbone.embed_dim} in cells of "
        f"{backbone.patch_size} pixels\n"
        f"- image sides: multiples of {backbone.resolution_step} pixels"
        + (f", best at {best[0]}" if best else ""),
        "## Licences",
        "\n".join(rows),
        _verdict(licences),
        "This is a table of facts to start from and no legal advice: the text of each licence has "
        "the last word. The training images have terms of their own.",
        "## Training",
        "\n".join(f"- {line}" for line in _training(config, step)),
        f"The command was `radio train {recipe} --config config.yaml` with this config.yaml:",
        f"```yaml\n{yaml.safe_dump(settings(config), sort_keys=False)}```",
        f"Versions: {', '.join(_versions())}.",
    ]
    return "\n\n".join(sections) + "\n"


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


def _training(config: TrainConfig, step: int) -> Iterator[str]:
    sources = ", ".join(f"`{source}`" for source in config.data.sources)
    cached, loss, optim = config.targets.cached_views, config.loss, config.optim
    stored = f", {cached} crops with stored outputs" if cached else ""
    yield f"{step} of {config.total_steps} steps on {sources}{stored}"
    for number, stage in enumerate(config.stages, start=1):
        how = "all groups at each step" if stage.all_groups else "one group a step"
        groups = []
        for group in stage.groups:
            sides, windows = (
                ", ".join(map(str, numbers)) for numbers in (group.resolutions, group.window_sizes)
            )
            seen = f"{group.batch_size} images of {sides} pixels"
            seen += f", windows of {windows}" if windows else ""
            groups.append(f"{' + '.join(group.teachers)}, {seen}")
        how = "one group" if len(groups) == 1 else how
        yield f"stage {number}, {stage.steps} steps, {how}: {'; '.join(groups)}"
    losses = {**_LOSSES, "mixed": f"{loss.alpha:g} cosine + {loss.beta:g} smooth L1"}
    for name, teacher in config.teachers.items():
        parts = [
            f"{weight:g} x {losses.get(kind, kind)} of the {part}"
            for weight, kind, part in (
                (teacher.summary_weight, teacher.summary_loss, "summary"),
                (teacher.feature_weight, teacher.feature_loss, "features"),
            )
            if weight > 0
        ]
        yield f"losses of {name}: {' and '.join(parts)}"
    yield f"balancing: {loss.balancing}; targets: normalization {config.targets.normalization}"
    yield (
        f"AdamW, learning rate {optim.lr:g}, weight decay {optim.weight_decay:g}, gradient "
        f"norm at most {optim.clip_grad:g}, {config.engine.precision}"
        + (", spectral reparametrisation" if config.student.spectral else "")
        + (f", weights averaged with decay {optim.ema:g}" if optim.ema else "")
    )


def _versions() -> Iterator[str]:
    yield f"Python {platform.python_version()}"
    for package in _PACKAGES:
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:  # run from a source tree
            continue
