"""Does a student change its mind at another resolution? The paper's Figure 4 as numbers.

A student that met one teacher at low and another at high resolution only can have two "modes":
the features of its head then jump at some input size. All teachers at several resolutions cure
it; see the resolutions of the recipes' teacher groups in radio_core.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console
from torch import Tensor

from radio_core.data.folder import ImageFiles
from radio_core.data.images import UnreadableImage
from radio_core.data.sources import ImageSource
from radio_core.data.toyworld import ToyWorldImages
from radio_core.data.toyworld.export import HELD_OUT_START
from radio_core.data.transforms import Crop, apply_crop
from radio_core.models import RadioModel
from radio_core.open import open_model
from radio_core.progress import Progress, silent
from radio_core.teachers import load_teacher
from radio_core.teachers.load import is_teacher
from radio_core.vision import ModelSpec, VisionModel, nearest_resolution
from radio_eval.report.figures import Panel, check_plot_path, line_figure, write_figure
from radio_eval.report.table import Column, Table
from radio_eval.results import Skipped
from radio_eval.runner import Context, Task, TaskResult

TOYWORLD = "toyworld"
_FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)


@dataclass(frozen=True, kw_only=True)
class ModeSwitch(Task):
    """Compare the features of a RADIO head at several resolutions with those of its teacher.

    For each resolution: the mean squared error between the head's features, brought to the
    teacher's grid bilinearly, and what the teacher gives at its own resolution; and their mean
    cosine. A jump between two resolutions is a mode switch (the paper's Figure 4). Of each image
    the central square is used.
    """

    adaptor: str = "dino_v2"
    """The head that is compared."""
    teacher: str = ""
    """What the head learned from ("dinov2:facebook/dinov2-large", "toy-dino"); by default what the
    model says of itself."""
    data: str = TOYWORLD
    """Folder of images, searched recursively; or "toyworld" for scenes that no training sees."""
    images: int = 64
    """How many images, chosen at random by --seed; a smaller folder gives all it has."""
    resolutions: tuple[int, ...] = ()
    """Sides in pixels of the model's input; by default seven from half to twice its own."""
    batch_size: int = 8
    """Images a forward pass."""
    seed: int = 0
    """Of the choice of images."""
    plot: Path | None = None
    """File for the two curves, .svg or .png."""

    name: ClassVar[str] = "mode_switch"
    title: ClassVar[str] = "Mode switch"
    headline: ClassVar[str] = "largest_rise"
    aside: ClassVar[frozenset[str]] = frozenset({"batch_size", "plot"})

    def __post_init__(self) -> None:
        if self.images < 1 or self.batch_size < 1 or self.seed < 0:
            raise ValueError("--images and --batch-size must be at least 1, --seed at least 0")
        if self.plot is not None:
            check_plot_path(self.plot)

    def open_model(self, source: str, device: torch.device) -> VisionModel:
        """As `radio_core.open.open_model`, with the head of the task."""
        return open_model(source, adaptor=self.adaptor, device=device)

    def run(self, model: VisionModel, context: Context) -> Iterator[tuple[str, float | None]]:
        """Yield the largest rise of the error between neighbouring resolutions, a factor, and mse
        and cosine at each of them."""
        source = self.teacher or known_teacher(model, self.adaptor)
        teacher = load_teacher(source).to(model.device)
        if self.data == TOYWORLD:
            images: ImageSource = ToyWorldImages(self.images, first=HELD_OUT_START)
            indices = list(range(self.images))
        else:
            images = ImageFiles(self.data)
            order = np.random.default_rng(self.seed).permutation(len(images))
            indices = sorted(order[: self.images].tolist())
        resolutions = self.resolutions or default_resolutions(model.spec)
        skipped = context.skipped["images"] = Skipped()
        scores = compare_resolutions(
            model,
            teacher,
            images,
            indices,
            resolutions,
            batch_size=self.batch_size,
            skipped=skipped,
            progress=context.progress,
        )
        rise, side = largest_rise(scores), teacher.spec.input_size
        context.parameters["resolutions"] = [score.resolution for score in scores]
        context.record |= {
            "teacher": source,
            "teacher_resolution": side,
            "scores": [asdict(score) for score in scores],
            "largest_rise": rise and dict(zip(("from", "to", "factor"), rise, strict=True)),
        }
        if self.plot is not None and context.processes.first:
            title = f"{model.spec.name}: {self.adaptor} against {teacher.spec.name}"
            errors, cosines = (
                [(score.resolution, getattr(score, name)) for score in scores]
                for name in ("mse", "cosine")
            )
            label = f"teacher's {side} px"
            panels = (
                Panel(title="mean squared error", points=errors, from_zero=True, mark=side),
                Panel(title="cosine", points=cosines, mark=side, mark_label=label),
            )
            x_label = "resolution of the student's input in pixels"
            write_figure(self.plot, line_figure(title, x_label, panels))
        yield "largest_rise", None if rise is None else rise[2]
        for score in scores:
            yield f"mse_{score.resolution}", score.mse
            yield f"cosine_{score.resolution}", score.cosine
        yield "images", float(len(indices) - len(skipped))

    def tell(self, result: TaskResult) -> None:
        """Print a table of the resolutions, and the largest rise."""
        columns = [Column(name) for name in ("resolution", "MSE", "± between images", "cosine")]
        rows = [
            [str(s["resolution"]), *(f"{s[n]:.4f}" for n in ("mse", "mse_std", "cosine"))]
            for s in result.record["scores"]
        ]
        title = f"{result.model}: {self.adaptor} against {result.record['teacher']}"
        console, rise = Console(), result.record["largest_rise"]
        console.print(*Table(columns=columns, rows=rows, title=title).terminal())
        text = "the error rises nowhere"
        if rise is not None:
            factor, lower, higher = (rise[name] for name in ("factor", "from", "to"))
            text = f"largest rise of the error: x {factor:.2f} from {lower} to {higher} pixels"
        console.print(f"{result.metrics['images']:.0f} images; {text}", highlight=False)


@dataclass(frozen=True, kw_only=True)
class ResolutionScore:
    """How near a head is to its teacher at one input resolution."""

    resolution: int
    """Side in pixels of the student's square input."""
    mse: float
    """Mean squared error over images, positions and channels, in the teacher's numbers."""
    mse_std: float
    """Standard deviation between images of their mean squared errors."""
    cosine: float
    """Mean cosine similarity over images and positions, in [-1, 1]."""


def default_resolutions(spec: ModelSpec) -> tuple[int, ...]:
    """From half to twice a model's own size, in multiples of its step."""
    sizes = {max(round(spec.input_size * f / spec.step), 1) * spec.step for f in _FACTORS}
    return tuple(sorted(sizes))


def largest_rise(scores: Sequence[ResolutionScore]) -> tuple[int, int, float] | None:
    """(lower, higher, factor): the neighbours between which the error grows most; None where it
    never does. The scores are in ascending order of resolution."""
    rises = [
        (low.resolution, high.resolution, high.mse / low.mse)
        for low, high in pairwise(scores)
        if high.mse > low.mse > 0
    ]
    return max(rises, key=lambda rise: rise[2], default=None)


def known_teacher(model: VisionModel, adaptor: str) -> str:
    """The source of the teacher of an adaptor, as the config of a RADIO model has it."""
    radio = getattr(model, "radio", None)
    if isinstance(radio, RadioModel):
        names = [spec.name for spec in radio.config.adaptors]
        sources = dict(zip(names, radio.config.teachers, strict=False))
        if len(names) == len(radio.config.teachers) and is_teacher(sources[adaptor]):
            return sources[adaptor]
    raise ValueError(
        f"{model.spec.name} does not say what {adaptor!r} learned from: name it with --teacher, "
        "e.g. dinov2:HUB_ID_OR_DIRECTORY"
    )


@torch.inference_mode()
def compare_resolutions(
    model: VisionModel,
    teacher: VisionModel,
    images: ImageSource,
    indices: Sequence[int],
    resolutions: Sequence[int],
    *,
    skipped: Skipped,
    batch_size: int = 8,
    progress: Progress = silent,
) -> tuple[ResolutionScore, ...]:
    """Compare a head's features at several resolutions with its teacher's at the teacher's own.

    Each image's central square is resized to every size, from the original pixels. The student's
    map is brought to the teacher's grid bilinearly. No more than one batch is in memory.

    Args:
        model: whose features are those of the head.
        teacher: on the model's device.
        images: where they come from; `skipped` takes the unreadable ones.
        indices: which of them.
        resolutions: sides in pixels, multiples of the model's step.

    Returns:
        One score a resolution, in ascending order.

    Raises:
        ValueError: a resolution that the model does not take, a head that is not this teacher's,
            no readable image.
    """
    sizes, spec = sorted(set(resolutions)), model.spec
    for size in sizes:
        near = nearest_resolution(size, size, spec.step).height
        if size != near:
            raise ValueError(
                f"resolution {size} is not a multiple of the {spec.step} pixels that "
                f"{spec.name!r} needs; nearest: {near}"
            )
    if not spec.flexible:
        raise ValueError(f"model {spec.name!r} takes images of one size only")
    if not sizes or batch_size < 1:
        raise ValueError("name at least one resolution, and a batch size of at least 1")
    found: dict[int, list[Tensor]] = {size: [] for size in sizes}  # [B, 2]: error, cosine
    for first in range(0, len(indices), batch_size):
        batch = indices[first : first + batch_size]
        pictures = []
        for index in batch:
            try:
                pictures.append(_at_sizes(images.read(index), (teacher.spec.input_size, *sizes)))
            except UnreadableImage as unreadable:
                skipped.add(unreadable.path, unreadable.reason)
        if pictures:
            stacks = {
                n: torch.stack([p[n] for p in pictures]).to(model.device) for n in pictures[0]
            }
            goal = teacher(stacks[teacher.spec.input_size]).features  # [B, C, h, w]
            for size in sizes:
                features = model(stacks[size], (size, size)).features
                if features.shape[1] != goal.shape[1]:
                    raise ValueError(
                        f"the head of {spec.name!r} gives {features.shape[1]} channels, but "
                        f"teacher {teacher.spec.name!r} has {goal.shape[1]}: it did not learn "
                        "from that teacher"
                    )
                fitted = F.interpolate(features, goal.shape[-2:], mode="bilinear")
                error = (fitted - goal).square().mean(dim=(1, 2, 3))
                cosine = F.cosine_similarity(fitted, goal, dim=1).mean(dim=(1, 2))
                found[size].append(torch.stack([error, cosine], dim=1).double().cpu())
        progress(f"features at {len(sizes)} resolutions", first + len(batch), len(indices))
    if len(skipped) == len(indices):
        reasons = [f"{path}: {reason}" for path, reason in skipped.reasons.items()]
        raise ValueError(f"none of the {len(indices)} images can be read: {'; '.join(reasons[:3])}")
    summarised = []
    for size in sizes:
        all_scores = torch.cat(found[size])
        if not torch.isfinite(all_scores).all():
            raise ValueError(f"the features at resolution {size} are not finite")
        mse, cosine = all_scores.mean(dim=0).tolist()
        spread = all_scores[:, 0].std(correction=0).item()
        summarised.append(ResolutionScore(resolution=size, mse=mse, mse_std=spread, cosine=cosine))
    return tuple(summarised)


def _at_sizes(image: Image.Image, sizes: Sequence[int]) -> dict[int, Tensor]:
    """The central square of an image at each side: [3, side, side] in [0, 1]."""
    side = min(image.size)
    crop = Crop((image.height - side) // 2, (image.width - side) // 2, side, side)
    return {size: apply_crop(image, crop, size).float() / 255 for size in sizes}
