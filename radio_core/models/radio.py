"""The RADIO model: images to summaries and features, the student's and its adaptors'."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radio_core.models.adaptors import Adaptor, TextTowers
from radio_core.models.config import (
    DTYPES,
    RadioConfig,
    read_config,
    read_weights,
    write_checkpoint,
)
from radio_core.models.intermediates import Aggregation, collect_layers
from radio_core.models.normalizers import (
    AlphaScheme,
    FeatureNormalizer,
    InputConditioner,
    IntermediateNormalizer,
)
from radio_core.models.spectral import folded_state_dict
from radio_core.models.weight_files import load_strictly
from radio_core.vision import Output, Resolution, nearest_resolution

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
        text_towers: of the adaptors; `text_towers.paths` may name local weights of each, to take
            instead of a download.
    """

    def __init__(self, config: RadioConfig) -> None:
        super().__init__()
        self.config = config
        self.conditioner: nn.Module = InputConditioner(config.mean, config.std)
        self.backbone = config.backbone.build()
        width = self.backbone.embed_dim
        self.feature_normalizer = FeatureNormalizer(width) if config.feature_normalizer else None
        self.intermediate_normalizer: IntermediateNormalizer | None = None
        if config.intermediate_normalizer:
            self.intermediate_normalizer = IntermediateNormalizer(
                config.backbone.num_blocks, width, config.intermediate_normalizer == "per_layer"
            )
        self.adaptors = nn.ModuleDict(
            {spec.name: Adaptor(spec, self.backbone.embed_dim) for spec in config.adaptors}
        )
        self.active_adaptors: tuple[str, ...] = ()
        self.window_size: int | None = None
        self.text_towers = TextTowers({spec.name: spec.text_tower for spec in config.adaptors})

    @property
    def device(self) -> torch.device:
        """Where it computes, and expects its images."""
        return next(self.parameters()).device

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
        several = self.config.backbone.num_summary_tokens > 1
        return self.embed_dim * (len(self.config.summary_idxs) if several else 1)

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
        return self.config.backbone.resolution_step * (self.window_size or 1)

    @property
    def num_summary_tokens(self) -> int:
        """Tokens in front of the features: class tokens and registers; 1 where there are none."""
        backbone = self.config.backbone
        start = backbone.feature_start
        return (backbone.num_prefix_tokens or 1) if start is None else start

    def nearest_supported_resolution(self, height: int, width: int) -> Resolution:
        """The image size in pixels nearest to (height, width) that `forward` takes."""
        only = self.config.backbone.fixed_size
        return only or nearest_resolution(height, width, self.min_resolution_step)

    def switch_to_deploy(self) -> "RadioModel":
        """Fuse what only training needs (E-RADIO's BatchNorm); the outputs stay. Returns self."""
        self.backbone.switch_to_deploy()
        return self

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
    ) -> Output | dict[str, Output]:
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
                valid size is named), an unknown adaptor or format, windows for a model without
                them, "NCHW" for one whose features are no map.
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
    ) -> dict[str, Output]:
        """As `forward`, but always a dict, with "backbone" first."""
        self.check_adaptors(adaptors)
        if window_size is None:
            window_size = self.window_size
        output = self.backbone(self._normalised(images), window_size or None)
        return self._outputs(output, adaptors, feature_fmt)

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
        norm_alpha_scheme: AlphaScheme = "post-alpha",
    ) -> Any:
        """The tokens after chosen blocks of a transformer.

        Args:
            images: [B, 3, H, W], RGB in [0, 1].
            indices: the last n blocks, or block indices (negative ones count from the end).
            return_prefix_tokens: each result is a `Output` instead of features alone.
            norm: apply the final norm to the results and to the final output (which is not
                normalised otherwise, unlike that of `forward`).
            stop_early: run no block after the last one asked for.
            output_fmt: format of the features.
            intermediates_only: return the list alone.
            aggregation: "sparse" (the blocks themselves) or "dense" (the mean over the blocks
                since the previous index).
            norm_alpha_scheme: how models with an `IntermediateNormalizer` scale the results:
                "pre-alpha", "post-alpha", or "none" for results that are not normalised.

        Returns:
            A list with one feature tensor (or `Output`) per index in ascending order; or
            (what `forward` returns, the list).

        Raises:
            ValueError: indices outside of the model, unknown formats, wrong image sizes, or a
                backbone that is no transformer.
        """
        backbone, normalizer = self.backbone, self.intermediate_normalizer
        if not self.config.backbone.num_blocks:
            raise ValueError(
                f"forward_intermediates needs the blocks of a transformer; the backbone "
                f"({self.config.backbone.label}) has none"
            )
        options = (aggregation, stop_early, self.window_size, normalizer, norm_alpha_scheme)
        layers = collect_layers(backbone, self._normalised(images), indices, *options)
        finish = backbone.final_norm if norm else nn.Identity()
        results: list[Any] = []
        for tokens in layers.collected:
            output = backbone.layer_output(finish(tokens), layers.grid)
            result = Output(self._selected(output.summary), output.features)
            result = _formatted(result, output_fmt)
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

    def _selected(self, summary: Tensor | None) -> Tensor:
        """The backbone's summary [B, S' * C] out of its summary tokens [B, S, C]."""
        assert summary is not None
        if summary.shape[1] == 1:
            return summary[:, 0]
        if max(self.config.summary_idxs) >= summary.shape[1]:
            raise ValueError(
                f"the summary is made of tokens {self.config.summary_idxs}, but there are "
                f"{summary.shape[1]}"
            )
        return torch.cat([summary[:, i] for i in self.config.summary_idxs], dim=-1)

    def _outputs(
        self, backbone: Output, adaptors: Sequence[str], feature_fmt: FeatureFormat
    ) -> dict[str, Output]:
        """Normalise and select the backbone's output, run the heads, and format the features."""
        start = self.config.backbone.feature_start
        if start is not None and feature_fmt == "NCHW":
            raise ValueError('the features of this model hold other tokens too: use "NLC"')
        if self.feature_normalizer is not None:
            backbone = backbone._replace(features=self.feature_normalizer(backbone.features))
        summary = self._selected(backbone.summary)
        outputs = {"backbone": Output(summary, backbone.features)}
        outputs |= {name: self.adaptors[name](backbone) for name in adaptors}
        return {name: _formatted(output, feature_fmt) for name, output in outputs.items()}

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
        encoded = self.text_towers.encode(adaptor, texts, next(self.parameters()).device)
        return F.normalize(encoded, dim=-1) if normalize else encoded

    def save_pretrained(self, directory: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write model.safetensors and config.json; spectral reparametrisations are folded.

        Args:
            directory: created when missing; files of an earlier model there are replaced.
            dtype: the floating weights are stored in it (float16 halves the file).

        Raises:
            ValueError: a weight is NaN, infinite, or too large for `dtype`; or the model has been
                through `switch_to_deploy`.
        """
        if self.backbone.deployed:
            raise ValueError("after switch_to_deploy the weights are fused: save the model before")
        write_checkpoint(Path(directory), self.config, folded_state_dict(self), dtype)

    @classmethod
    def from_pretrained(
        cls, directory: str | Path, config: RadioConfig | None = None
    ) -> "RadioModel":
        """Load what `save_pretrained` wrote, on the CPU, in eval mode, in the configured dtype.

        Args:
            directory: holds model.safetensors and config.json.
            config: replaces the one in the directory, e.g. with another window schedule.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is malformed or does not fit the other; the names are listed.
        """
        directory = Path(directory)
        config = read_config(directory) if config is None else config
        return cls.from_state(config, read_weights(directory), str(directory))

    @classmethod
    def from_state(
        cls,
        config: RadioConfig,
        state: dict[str, Tensor],
        where: str,
        dtype: torch.dtype | None = None,
    ) -> "RadioModel":
        """A model in eval mode that takes over the tensors of `state` without a copy.

        Args:
            config: its shape.
            state: every parameter and buffer of it, under our names; floating ones float32.
            where: what the tensors come from, for the message of an error.
            dtype: of the backbone and its normalizers; None for the configured one.

        Raises:
            ValueError: missing or unexpected names, wrong shapes, NaN or infinite values.
        """
        with torch.device("meta"):
            model = cls(config)
        if not config.backbone.builds_on_meta:  # it may compute with what no file holds
            model.backbone = config.backbone.build()
        model.conditioner = InputConditioner(config.mean, config.std)
        load_strictly(model, state, where)
        for module in (model.backbone, model.feature_normalizer, model.intermediate_normalizer):
            if module is not None:
                module.to(dtype or DTYPES[config.dtype])
        return model.eval()


def _formatted(output: Output, feature_fmt: FeatureFormat) -> Output:
    """An output with features [B, C, h, w] in the format asked for."""
    if feature_fmt == "NCHW":
        return output
    if feature_fmt != "NLC":
        raise ValueError(f'unknown feature format {feature_fmt!r}; known: "NLC", "NCHW"')
    return output._replace(features=output.features.flatten(2).transpose(1, 2))
