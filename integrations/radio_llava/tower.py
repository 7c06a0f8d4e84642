"""A vision model with the interface of LLaVA's vision towers: RADIO, a teacher, or any other."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from radio_core.models.config import CONFIG_FILE
from radio_core.models.radio import RadioModel
from radio_core.models.weight_files import read_json
from radio_core.open import open_model
from radio_core.teachers import is_teacher
from radio_core.teachers.load import TEACHERS
from radio_core.vision import VisionModel
from radio_core.zoo.hf_native import is_native
from radio_core.zoo.hf_remote import is_remote_code
from radio_core.zoo.load import load_model
from radio_core.zoo.releases import BUNDLED, RELEASES, find_release
from radio_llava.features import (
    FLAGS,
    TowerConfig,
    check_overflow,
    encode_by_size,
    feature_dim,
    freeze_unused,
    recorded_tower,
    token_side,
    tower_config_of,
    tower_features,
)
from radio_llava.images import RadioImageProcessor

TRUSTED: set[str] = set()
"""Towers of people's own code, "module:attribute", that a model's config may name.

What `--vision_tower` said in this process is in it. Any other name of that form would have a file
decide what is imported.
"""

_REGISTER_PARAMETER = nn.Module.register_parameter  # torch's own, see `plain_tensors`


def is_radio_tower(name: str) -> bool:
    """Whether a `--vision_tower` means a RADIO model: a known name, a file, or a RADIO directory.

    A hub id counts where RADIO's authors have released a model under it.
    """
    if name in BUNDLED or find_release(name) is not None:
        return True
    path = Path(name)
    if path.is_dir():
        config = path / CONFIG_FILE
        data = read_json(config) if config.is_file() else {}
        return "backbone" in data or is_native(data) or is_remote_code(data)
    hub_ids = {release.hub_repo for release in RELEASES.values()}
    return path.is_file() or name.partition("@")[0] in hub_ids


def check_flags(name: str, args: Any) -> None:
    """Raise ValueError where LLaVA's arguments, or a model's config, ask what a tower cannot do."""
    select = getattr(args, "mm_vision_select_feature", "patch") or "patch"
    if select != "patch":
        raise ValueError(f"mm_vision_select_feature {select!r}: {name} gives patches; use 'patch'")
    if not is_teacher(name):
        return
    named_by_file = hasattr(args, "mm_vision_tower") and name not in TRUSTED
    if named_by_file and name.partition(":")[0] not in TEACHERS:
        raise ValueError(
            f"the model's config names code for its vision tower, {name!r}, which is not run: "
            f"if it is yours, begin with radio_llava.tower.TRUSTED.add({name!r})"
        )
    given = [f"--radio_{flag}" for flag in FLAGS if getattr(args, f"radio_{flag}", None)]
    if getattr(args, "unfreeze_mm_vision_tower", False):
        given.append("--unfreeze_mm_vision_tower")
    if given:
        raise ValueError(
            f"the vision tower {name} is a frozen teacher at its own resolution: leave out "
            f"{', '.join(given)}, or take a RADIO model"
        )


class TowerShape(NamedTuple):
    """What LLaVA reads of a tower's `config`: width of the features, and sides in pixels."""

    hidden_size: int
    patch_size: int
    image_size: int


class VisionTower(nn.Module):
    """A vision model in the place of LLaVA's CLIP: images in [0, 1] in, their tokens out.

    RADIO takes images of any size in their own aspect ratio, gives the features that the
    `TowerConfig` chooses, and is trained with `unfreeze_mm_vision_tower`. Any other
    `radio_core.vision.VisionModel` is frozen and gives its feature map cell by cell; images are
    padded to squares with its mean colour, as LLaVA-1.5 does, and brought to its own size.
    `--mm_vision_select_layer` is CLIP's, and has no effect.

    Args:
        vision_tower: as `--vision_tower` has it: what `radio_core.load_model` takes, or a teacher.
        args: LLaVA's model arguments, or the config of a LLaVA model; see `tower_config_of`.
        delay_load: leave the weights for `load_model`. The parameters of a tower that is trained
            exist at once all the same: they are in the LLaVA model's own files.

    Attributes:
        vision_tower_name: as given.
        tower_config: the features and the image size.
        is_radio: it is a RADIO model, and `radio` once it is loaded; any other is `model`.
        is_loaded: the weights are there.
        image_processor: makes the images, once loaded.
        trainable: the weights are to be trained, or have been.
        keeps_float32: `to` leaves out a cast to float16. LLaVA's training casts every tower to
            it unless it runs in bfloat16, but an optimizer cannot train float16 weights.

    Raises:
        ValueError: a choice that makes no sense, an unknown model, or another model than the
            language model was trained with.
    """

    radio: RadioModel
    model: VisionModel
    image_processor: RadioImageProcessor

    def __init__(self, vision_tower: str, args: Any, delay_load: bool = False) -> None:
        super().__init__()
        check_flags(vision_tower, args)
        self.vision_tower_name = vision_tower
        self.tower_config = tower_config_of(vision_tower, args)
        self.is_radio = not is_teacher(vision_tower)
        self.is_loaded = False
        self.keeps_float32 = False
        self.trainable = bool(getattr(args, "unfreeze_mm_vision_tower", False))
        self._trained_with: tuple[int, int] | None = None
        width = getattr(args, "mm_hidden_size", None)
        if width is not None and recorded_tower(vision_tower, args):
            self._trained_with = (width, self.tower_config.resolution)
        self._kept: dict[str, Tensor] = {}
        if self.trainable:
            self._read_radio()
            self.unfreeze()
            # transformers gives what is not in its files no values, or random ones
            self._kept = {
                name: tensor.detach().clone()
                for name, tensor in (*self.radio.named_buffers(), *self.radio.named_parameters())
                if not tensor.requires_grad
            }
        if not delay_load:
            self.load_model()

    def load_model(self, device_map: Any = None) -> None:
        """Load the weights, in eval mode and (unless they are to be trained) frozen.

        The tower goes to one device as a whole, that of `device_map` as transformers takes it.
        """
        if self.is_loaded:
            return
        if self.is_radio:
            if self.trainable:
                self._restore()
            else:
                self._read_radio()
            feature_dim(self.radio, self.tower_config)  # refuses unknown adaptors and layers now
            step = self.radio.min_resolution_step
            mean, std = self.radio.config.mean, self.radio.config.std
        else:
            self._open_model()
            # a step of the whole side: what stands for a missing image is as large as any other
            step = self.tower_config.resolution
            mean, std = self.model.spec.mean, self.model.spec.std
        self.image_processor = RadioImageProcessor(
            self.tower_config.resolution, step, self.tower_config.aspect, mean, std
        )
        self.is_loaded = True
        if isinstance(device_map, dict):
            device_map = device_map.get("")
        if device_map == "auto":
            device_map = "cuda" if torch.cuda.is_available() else "cpu"
        if device_map is not None:
            self.to(torch.device(device_map))

    def choose(self, config: TowerConfig) -> None:
        """Take other features or another image size of the same RADIO, from `load_model` on."""
        assert self.is_radio
        assert config.model == self.tower_config.model
        self.tower_config = config
        self.is_loaded = False

    def unfreeze(self) -> None:
        """Let those weights be trained that the chosen features depend on."""
        with plain_tensors():
            self.radio.requires_grad_(True)
            freeze_unused(self.radio, self.tower_config)

    def _read_radio(self) -> None:
        with plain_tensors():
            self.radio = load_model(self.tower_config.model, dtype=torch.float32)
        self.radio.requires_grad_(False)

    def _restore(self) -> None:
        """Give what training never changes its released values, beside the trained weights."""
        first = next(self.radio.backbone.parameters())
        with plain_tensors():
            for name, value in self._kept.items():
                path, _, leaf = name.rpartition(".")
                owner = self.radio.get_submodule(path)
                cast = value.is_floating_point() and not name.startswith("conditioner.")
                placed = value.to(first.device, first.dtype if cast else value.dtype)
                if isinstance(getattr(owner, leaf), nn.Parameter):
                    placed = nn.Parameter(placed, requires_grad=False)
                setattr(owner, leaf, placed)
        self._kept = {}

    def _open_model(self) -> None:
        with plain_tensors():
            model = open_model(self.vision_tower_name)
        spec = model.spec
        found = (spec.feature_dim, spec.input_size)
        if self._trained_with is not None and self._trained_with != found:
            width, side = self._trained_with
            raise ValueError(
                f"the vision tower {self.vision_tower_name} gives features of width {found[0]} of "
                f"images of {found[1]} pixels, but the model was trained with width {width} and "
                f"{side} pixels: put the teacher of its training there"
            )
        self.tower_config = replace(self.tower_config, resolution=spec.input_size, aspect="pad")
        self.model = model

    def forward(self, images: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Encode images; no gradients are kept where the tower is frozen.

        Takes [B, 3, H, W], or several [3, H, W] of any sizes, from `image_processor`. Returns [B,
        N, C] for a tensor, else a list of [N_i, C], in the dtype of the images.
        """
        placed = [image.to(self.device) for image in images]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            if self.is_radio:
                features = tower_features(self.radio, placed, self.tower_config)
            else:
                features = encode_by_size(placed, self._cells)
                check_overflow(features, self.dtype, self.vision_tower_name)
            results = [x.to(image.dtype) for x, image in zip(features, images, strict=True)]
        return torch.stack(results) if isinstance(images, Tensor) else results

    def _cells(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        features = self.model(images.to(self.dtype), size=(height, width)).features  # [B, C, h, w]
        return features.flatten(2).transpose(1, 2)

    @property
    def frozen(self) -> bool:
        """Whether no weight of the tower is to be trained."""
        return not any(parameter.requires_grad for parameter in self.parameters())

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which the network computes."""
        network = self.radio.backbone if self.is_radio and self.is_loaded else self
        first = next(network.parameters(), None)
        return torch.float32 if first is None or not self.is_loaded else first.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        if not self.is_loaded:
            return torch.device("cpu")
        return next(self.radio.parameters()).device if self.is_radio else self.model.device

    @property
    def config(self) -> TowerShape:
        """The tower's sizes; the weights are loaded for them."""
        self.load_model()
        if self.is_radio:
            step = self.radio.min_resolution_step
            return TowerShape(
                hidden_size=feature_dim(self.radio, self.tower_config),
                patch_size=token_side(self.radio, self.tower_config),
                image_size=math.ceil(self.tower_config.resolution / step) * step,
            )
        spec = self.model.spec
        return TowerShape(
            hidden_size=spec.feature_dim, patch_size=spec.patch_size, image_size=spec.input_size
        )

    @property
    def hidden_size(self) -> int:
        """Width C of the features."""
        return self.config.hidden_size

    @property
    def num_patches_per_side(self) -> int:
        """Tokens along one side of a square image."""
        return self.config.image_size // self.config.patch_size

    @property
    def num_patches(self) -> int:
        """Tokens of a square image, the most that an image can have."""
        return self.num_patches_per_side**2

    @property
    def dummy_feature(self) -> Tensor:
        """One token [1, C] of zeros."""
        return torch.zeros(1, self.hidden_size, device=self.device, dtype=self.dtype)

    def train(self, mode: bool = True) -> "VisionTower":
        """Stay in eval mode, also while the weights are trained."""
        super().train(False)
        return self

    def to(self, *args: Any, **kwargs: Any) -> "VisionTower":
        """As `nn.Module.to`, but with float32 for float16 where `keeps_float32` or on a CPU.

        LLaVA's own code asks for float16 on any device.
        """
        to_cpu = "device" in kwargs and torch.device(kwargs["device"]).type == "cpu"
        if kwargs.get("dtype") == torch.float16 and (self.keeps_float32 or to_cpu):
            kwargs = kwargs | {"dtype": torch.float32}
        super().to(*args, **kwargs)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "VisionTower":
        """Move and cast; the normalisation of RADIO's pixels keeps its float32."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.is_radio and (self.is_loaded or self.trainable):
            self.radio.conditioner.float()
        return self


@contextmanager
def plain_tensors() -> Iterator[None]:
    """Real float32 tensors, also where transformers builds a model without values.

    Newer versions do that on the meta device, older ones replace `register_parameter`.
    """
    default, register = torch.get_default_dtype(), nn.Module.register_parameter
    torch.set_default_dtype(torch.float32)
    nn.Module.register_parameter = _REGISTER_PARAMETER  # type: ignore[method-assign]
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(default)
        nn.Module.register_parameter = register  # type: ignore[method-assign]
