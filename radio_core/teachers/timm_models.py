"""Any model of timm as a teacher: by name, or from a folder as timm saves models for the hub."""

import contextlib
import json
import pickle
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from torch import Tensor

from radio_core.registry import UnknownName
from radio_core.teachers.base import Teacher
from radio_core.teachers.files import cannot_fetch, misfit_of_torch
from radio_core.teachers.licences import licence_of, stated_licence
from radio_core.vision import CentreCrop, ModelSpec, Output

_LOCAL, _HUB = "local-dir:", "hf-hub:"
_timm: Any = timm  # parts of it are typed, others not


class TimmTeacher(Teacher):
    """Summary: what timm's classifier would see. Features: the last map, normalised where possible.

    Args:
        name: name of the teacher.
        network: a model of timm without classifier.
        licence: licence of the weights.
        input_size: side in pixels of its input; by default that of its configuration, brought to
            a multiple of its stride where it takes any.
    """

    def __init__(
        self, name: str, network: Any, licence: str, input_size: int | None = None
    ) -> None:
        settings = _timm.data.resolve_model_data_config(network.eval())
        step, flexible = int(network.feature_info[-1]["reduction"]), takes_any_size(network)
        size = input_size or int(settings["input_size"][-1])
        if flexible and input_size is None:
            size = max(1, size // step) * step
        # Two cells a side tell as much of a transformer as a whole image would.
        tried = 2 * step if getattr(network, "dynamic_img_size", False) else size
        try:
            norm, summary, features = _tried(network, torch.zeros(1, 3, tried, tried))
            summary_dim, (feature_dim, *grid) = summary.shape[1], features.shape[1:]
        except Exception as error:  # of any of timm's models at a size that may not suit it
            raise ValueError(
                f"teacher {name}: no summary and feature map of {tried} pixels: {error}"
            ) from error
        if grid != [tried / step] * 2:
            raise ValueError(
                f"teacher {name}: images of {tried} pixels give a feature map of {grid} cells, "
                f"which are not of {step} pixels"
            )
        super().__init__(
            ModelSpec(
                name=name,
                input_size=size,
                mean=tuple(settings["mean"]),
                std=tuple(settings["std"]),
                patch_size=step,
                summary_dim=summary_dim,
                feature_dim=feature_dim,
                licence=licence,
                flexible=flexible,
                square=not flexible,
            )
        )
        self.network = network
        self._norm = norm
        self.freeze()

    @property
    def crop(self) -> CentreCrop | None:
        """timm's evaluation transform, at a size that the model takes, at most its own."""
        if self._as_square:
            return None
        settings = _timm.data.resolve_model_data_config(self.network)
        _, height, width = settings["input_size"]
        mode = settings["crop_mode"]
        if height != width or mode not in ("center", "squash"):
            raise ValueError(
                f"{self.spec.name} sees images of {height} x {width} pixels, cropped by {mode!r}; "
                "known: squares, cropped by 'center' or 'squash'"
            )
        crop = CentreCrop(
            size=width,
            resize=int(width / settings["crop_pct"]),
            squash=mode == "squash",
            interpolation=settings["interpolation"],
        )
        return crop.scaled(max(1, width // self.spec.step) * self.spec.step)

    def extract(self, images: Tensor) -> Output:
        """Summary [B, D], features [B, F, h, w]."""
        return Output(*_read(self.network, images, self._norm))


def load(
    source: str,
    rest: str,
    input_size: int | None = None,
    licence: str = "",
    class_token: bool = False,
) -> TimmTeacher:
    """Load pretrained weights. Nothing in the files is executed.

    Args:
        source: name of the teacher.
        rest: "vit_base_patch16_224.augreg_in1k", a hub id ("timm/..." or any other with "hf-hub:"
            in front), or a folder with config.json and model.safetensors.
        input_size: side in pixels of its input, for models that have to be built for it.
        licence: of the weights; by default what is known of the name, or what the model's own
            configuration says.
        class_token: take the class token for the summary where the model has one, whatever its
            classifier would see.
    """
    folder = local_folder(rest)
    if folder is not None and not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json: not a model of timm")
    wanted = f"{_HUB}{rest}" if rest.startswith("timm/") else rest
    try:
        network = _create(wanted if folder is None else f"{_LOCAL}{folder}", input_size)
    except ImportError:
        raise
    except Exception as error:  # timm and its downloads raise nearly everything
        raise _cannot_load(source, wanted, folder, error) from error
    network.reset_classifier(0)
    if class_token and getattr(network, "cls_token", None) is not None:
        network.reset_classifier(0, "token")
    stated = None if folder is None else stated_licence(folder)
    stated = stated or network.pretrained_cfg.get("license")
    return TimmTeacher(source, network, licence or licence_of(source, stated).name, input_size)


def load_dino(source: str, rest: str, input_size: int | None = None) -> Teacher:
    """Load a DINO of the generation that is before the colon of its source."""
    generation = source.partition(":")[0]
    teacher = load(source, rest, input_size, class_token=True)
    about = teacher.network.pretrained_cfg
    if not any(generation in str(about.get(key)) for key in ("architecture", "tag")):
        raise ValueError(
            f"{rest} is a {about.get('architecture')!r} of timm, which is no {generation}: load "
            f"it as timm:{rest}"
        )
    return teacher.as_square()


def is_timm_format(rest: str) -> bool:
    """Judge by its form whether a model is timm's: a name of timm, or a directory as timm writes.

    A damaged config.json is left to transformers to complain about.
    """
    folder = local_folder(rest)
    if folder is None:
        return rest.startswith(("timm/", _HUB)) or "/" not in rest
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and "architecture" in found and "model_type" not in found


def local_folder(source: str) -> Path | None:
    """The folder that a source of timm names; None for a name or a hub id."""
    folder = Path(source.removeprefix(_LOCAL)).expanduser()
    return folder if source.startswith(_LOCAL) or folder.is_dir() else None


def takes_any_size(network: Any) -> bool:
    """Whether a model of timm takes images of any size, without being built for it."""
    fixed = bool(network.pretrained_cfg.get("fixed_input_size"))
    return bool(getattr(network, "dynamic_img_size", False)) or not fixed


def _tried(network: Any, images: Tensor) -> tuple[bool, Tensor, Tensor]:
    """Whether the last map can go through the last norm (not in a hierarchy), and `_read`."""
    try:
        return True, *_read(network, images, norm=True)
    except AssertionError:
        return False, *_read(network, images, norm=False)


@torch.no_grad()
def _read(network: Any, images: Tensor, norm: bool) -> tuple[Tensor, Tensor]:
    """Pooled output [B, D] and the last map [B, F, h, w] of normalised images."""
    final, maps = network.forward_intermediates(images, indices=1, norm=norm)
    return network.forward_head(final), maps[-1]


def _create(source: str, input_size: int | None) -> Any:
    """The network, for images of any size where it can take them.

    It still has its classifier: timm loads strictly only what has the checkpoint's.
    """
    attempts: list[dict[str, Any]] = [{"dynamic_img_size": True}]
    if input_size is not None:
        attempts.append({"img_size": input_size})
    for arguments in attempts:
        with contextlib.suppress(TypeError):  # it has no such argument
            return _timm.create_model(source, pretrained=True, **arguments)
    return _timm.create_model(source, pretrained=True)


def _cannot_load(teacher: str, source: str, folder: Path | None, error: Exception) -> Exception:
    """The error with what to do about it."""
    if (wrong := misfit_of_torch(teacher, folder or source, error)) is not None:
        return wrong
    of_file = (pickle.UnpicklingError, SafetensorError, EOFError)
    if folder is not None or isinstance(error, of_file):
        return ValueError(
            f"teacher {teacher}: cannot read the weights in {folder or source}: {error}"
        )
    repository = _repository(source)
    if repository is not None and not isinstance(error, RuntimeError):
        files = "config.json and model.safetensors"
        return cannot_fetch(teacher, repository, files, "timm:FOLDER", error)
    near = get_close_matches(source, _timm.list_models(pretrained=True), n=3)
    hint = f"did you mean {', '.join(near)}? " if near else ""
    return UnknownName(
        f"timm cannot load {source!r}: {error}. {hint}`timm.list_models(pretrained=True)` lists "
        "the names"
    )


def _repository(source: str) -> str | None:
    """Where the weights of a name are, on the hub or elsewhere; None where timm has none."""
    if source.startswith(_HUB):
        return source.removeprefix(_HUB)
    if not _timm.is_model_pretrained(source):
        return None
    config = _timm.get_pretrained_cfg(source)
    place: str | None = config.hf_hub_id or config.url
    return place
