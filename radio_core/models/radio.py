"""The RADIO model: images to summaries and features, the student's and its adaptors'."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radio_core.models.adaptors import Adaptor
from radio_core.models.backbone import Resolution, nearest_resolution
from radio_core.models.checkpoint import (
    load_strictly,
    read_config,
    read_weights,
    write_checkpoint,
)
from radio_core.models.conditioner import InputConditioner
from radio_core.models.config import RadioConfig
from radio_core.models.intermediates import Aggregation, collect_layers
from radio_core.models.outputs import BackboneOutput, RadioOutput
from radio_core.models.spectral import folded_state_dict
from radio_core.models.vit import VisionTransformer

FeatureFormat = Literal["NLC", "NCHW"]


class RadioModel(nn.Module):
    """Input conditioner, backbone and adaptors, on plain images.

    Attributes:
        config: what config.json holds.
        backbone: the student.
        conditioner: normalises the images.
        adaptors: name -> `Adaptor`, all that the checkpoint has.
        active_adaptors: names that `forward` runs when it is not told otherwise.
        window_size: side in patches of the attention windows; None for global attention.
    """

    def __init__(self, config: RadioConfig) -> None:
        super().__init__()
        self.config = config
        self.conditioner: nn.Module = InputConditioner(config.mean, config.std)
        self.backbone = VisionTransformer(config.backbone)
        self.adaptors = nn.ModuleDict(
            {spec.name: Adaptor(spec, self.backbone.embed_dim) for spec in config.adaptors}
        )
        self.active_adaptors: tuple[str, ...] = ()
        self.window_size: int | None = None
        self._text_towers: dict[str, Any] = {}  # not modules of ours: never in a checkpoint

    @property
    def patch_size(self) -> int:
        """Pixels of one feature cell."""
        return self.backbone.patch_size

    @property
    def embed_dim(self) -> int:
        """Width of the backbone's features."""
        return self.backbone.embed_dim

    @property
    def summary_dim(self) -> int:
        """Width of the backbone's summary."""
        return self.embed_dim * len(self.config.summary_idxs)

    @property
    def max_resolution(self) -> int | None:
        """Longest image side in pixels that the model is meant for; None if unknown."""
        return self.config.max_resolution

    @property
    def preferred_resolution(self) -> Resolution | None:
        """The (height, width) in pixels that the model is best at; None if unknown."""
        size = self.config.preferred_resolution
        return None if size is None else Resolution(*size)

    @property
    def min_resolution_step(self) -> int:
        """Image sides are multiples of this many pixels."""
        return self.patch_size * (self.window_size or 1)

    def nearest_supported_resolution(self, height: int, width: int) -> Resolution:
        """The image size in pixels nearest to (height, width) that `forward` takes."""
        return nearest_resolution(height, width, self.min_resolution_step)

    def make_preprocessor_external(self) -> nn.Module:
        """Take the normalisation out and return it; the model then takes its output."""
        conditioner = self.conditioner
        self.conditioner = nn.Identity()
        return conditioner

    def check_adaptors(self, names: Sequence[str]) -> tuple[str, ...]:
        """The names as a tuple; ValueError lists the known ones when one is unknown."""
        unknown = [name for name in names if name not in self.adaptors]
        if unknown:
            known = ", ".join(self.adaptors) or "none"
            raise ValueError(f"unknown adaptors {unknown}; this model has: {known}")
        return tuple(names)

    def forward(
        self,
        images: Tensor,
        feature_fmt: FeatureFormat = "NLC",
        adaptors: Sequence[str] | None = None,
        window_size: int | None = None,
    ) -> RadioOutput | dict[str, RadioOutput]:
        """Run the backbone once, and the adaptors on it.

        Args:
            images: [B, 3, H, W], RGB in [0, 1], floating point.
            feature_fmt: features as "NLC" [B, N, C] or "NCHW" [B, C, h, w].
            adaptors: names to run; None for `active_adaptors` (those asked for when loading).
            window_size: attention windows in patches; None for the model's own `window_size`,
                0 for global attention.

        Returns:
            The backbone's output; or, where adaptors run, a dict with "backbone" and each of
            them, in the order asked for. An adaptor without a summary head has summary None.

        Raises:
            ValueError: image sides that are no multiples of `min_resolution_step` (the nearest
                valid size is named), an unknown adaptor or format.
        """
        names = self.active_adaptors if adaptors is None else tuple(adaptors)
        outputs = self.forward_all(images, names, feature_fmt, window_size)
        return outputs if names else outputs["backbone"]

    def forward_all(
        self,
        images: Tensor,
        adaptors: Sequence[str] = (),
        feature_fmt: FeatureFormat = "NCHW",
        window_size: int | None = None,
    ) -> dict[str, RadioOutput]:
        """As `forward`, but always a dict, with "backbone" first."""
        self.check_adaptors(adaptors)
        if window_size is None:
            window_size = self.window_size
        return self._outputs(
            self.backbone(self._normalised(images), window_size or None), adaptors, feature_fmt
        )

    def forward_intermediates(
        self,
        images: Tensor,
        indices: int | Sequence[int],
        *,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: FeatureFormat = "NCHW",
        intermediates_only: bool = False,
        aggregation: Aggregation = "sparse",
    ) -> Any:
        """The tokens after chosen blocks.

        Args:
            images: [B, 3, H, W], RGB in [0, 1].
            indices: the last n blocks, or block indices (negative ones count from the end).
            return_prefix_tokens: each result is a `RadioOutput` instead of features alone.
            norm: apply the final norm to the results and to the final output.
            stop_early: run no block after the last one asked for.
            output_fmt: format of the features.
            intermediates_only: return the list alone.
            aggregation: "sparse" (the blocks themselves) or "dense" (the mean over the blocks
                since the previous index).

        Returns:
            A list with one feature tensor (or `RadioOutput`) per index in ascending order; or
            (what `forward` returns, the list).

        Raises:
            ValueError: indices outside of the model, unknown formats, wrong image sizes.
        """
        backbone = self.backbone
        layers = collect_layers(
            backbone, self._normalised(images), indices, aggregation, stop_early, self.window_size
        )
        finish = backbone.norm if norm else nn.Identity()
        results: list[Any] = []
        for tokens in layers.collected:
            output = backbone.as_output(finish(tokens), layers.grid)
            result = self._outputs(output, (), output_fmt)["backbone"]
            results.append(result if return_prefix_tokens else result.features)
        if intermediates_only:
            return results
        final = backbone.as_output(finish(layers.final), layers.grid)
        outputs = self._outputs(final, self.active_adaptors, output_fmt)
        return (outputs if self.active_adaptors else outputs["backbone"]), results

    def _normalised(self, images: Tensor) -> Tensor:
        """Conditioned images in the dtype of the backbone's weights."""
        normalised: Tensor = self.conditioner(images)
        return normalised.to(next(self.backbone.parameters()).dtype)

    def _outputs(
        self, backbone: BackboneOutput, adaptors: Sequence[str], feature_fmt: FeatureFormat
    ) -> dict[str, RadioOutput]:
        """Select the backbone's summary, run the heads, and bring the features into the format."""
        if feature_fmt not in ("NLC", "NCHW"):
            raise ValueError(f'unknown feature format {feature_fmt!r}; known: "NLC", "NCHW"')
        summary = torch.cat([backbone.summary[:, i] for i in self.config.summary_idxs], dim=-1)
        outputs = {"backbone": RadioOutput(summary, backbone.features)}
        outputs |= {name: self.adaptors[name](backbone) for name in adaptors}
        if feature_fmt == "NCHW":
            return outputs
        return {
            name: RadioOutput(output.summary, output.features.flatten(2).transpose(1, 2))
            for name, output in outputs.items()
        }

    @torch.no_grad()
    def encode_text(self, adaptor: str, texts: Sequence[str], normalize: bool = False) -> Tensor:
        """Encode texts with the text tower of an adaptor's teacher, for zero-shot use.

        Args:
            adaptor: an adaptor that has a text tower.
            texts: T texts.
            normalize: scale each vector to length 1.

        Returns:
            [T, D] on the model's device, comparable by cosine with the adaptor's summary.

        Raises:
            ValueError: unknown adaptor, or one without a text tower.
        """
        self.check_adaptors([adaptor])
        towers = {spec.name: spec.text_tower for spec in self.config.adaptors if spec.text_tower}
        if adaptor not in towers:
            having = ", ".join(towers) or "none"
            raise ValueError(f"adaptor {adaptor!r} has no text tower; those that do: {having}")
        if adaptor not in self._text_towers:
            from radio_core.teachers import load_teacher

            teacher = load_teacher(towers[adaptor])
            if not hasattr(teacher, "encode_text"):
                raise ValueError(f"teacher {towers[adaptor]!r} has no text encoder")
            self._text_towers[adaptor] = teacher
        device = next(self.parameters()).device
        tower = self._text_towers[adaptor].to(device)
        encoded: Tensor = tower.encode_text(texts).float().to(device)
        return F.normalize(encoded, dim=-1) if normalize else encoded

    def save_pretrained(self, directory: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write model.safetensors and config.json; spectral reparametrisations are folded.

        Args:
            directory: created when missing; files of an earlier model there are replaced.
            dtype: the floating weights are stored in it (float16 halves the file).

        Raises:
            ValueError: a weight is NaN, infinite, or too large for `dtype`.
        """
        write_checkpoint(Path(directory), self.config, folded_state_dict(self), dtype)

    @classmethod
    def from_pretrained(
        cls, directory: str | Path, config: RadioConfig | None = None
    ) -> "RadioModel":
        """Load what `save_pretrained` wrote, in float32, on the CPU and in eval mode.

        Args:
            directory: holds model.safetensors and config.json.
            config: replaces the one in the directory, e.g. with another window schedule.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is malformed or does not fit the other; the names are listed.
        """
        directory = Path(directory)
        config = read_config(directory) if config is None else config
        state = read_weights(directory)
        with torch.device("meta"):
            model = cls(config)
        model.conditioner = InputConditioner(config.mean, config.std)
        load_strictly(model, state, str(directory))
        return model.eval()
