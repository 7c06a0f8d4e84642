"""Exported files in the place of models: the same call, the same results."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from radio_core.export.card import MODEL, AdaptorCard, Engine
from radio_core.models.adaptors import TextTowers
from radio_core.models.fingerprint import files_fingerprint
from radio_core.models.radio import FeatureFormat
from radio_core.vision import Output, Resolution, check_images

SUFFIXES = (".onnx", ".engine", ".pt2")
"""How the names of exported files end: ONNX, TensorRT, torch.export."""


def open_engine(
    path: str | Path, device: str | torch.device = "cpu", threads: int | None = None
) -> Engine:
    """Whatever runs a file that `radio export` wrote.

    Weights of an ONNX file outside of its folder and operators from foreign libraries are refused.
    Engines of TensorRT and packages of torch.export are programs: open only those that you trust.

    Args:
        path: .onnx, .engine or .pt2.
        device: where it runs; an engine of TensorRT needs "cuda".
        threads: of onnxruntime on a CPU; None for its own choice.

    Raises:
        ValueError: another kind of file, a damaged one, or no such device.
        FileNotFoundError: no such file.
        ImportError: the package that runs it is missing.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} is no exported model; those end with {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    if path.suffix == ".onnx":
        from radio_core.export.onnx import OnnxRuntimeEngine

        return OnnxRuntimeEngine(path, device, threads)
    if path.suffix == ".engine":
        from radio_core.export.tensorrt import TensorRTEngine

        return TensorRTEngine(path, device)
    from radio_core.export.torch_program import TorchEngine

    return TorchEngine(path, device)


def load_exported(
    path: str | Path, device: str | torch.device = "cpu", threads: int | None = None
) -> "ExportedModel":
    """A file that `radio export` wrote, to be called like the `RadioModel` it was made from.

    Args and errors as `open_engine`; also ValueError for a file that holds a part of a model.
    """
    return ExportedModel(open_engine(path, device, threads))


class ExportedModel:
    """Images to summaries and features, by an exported file; attributes as those of `RadioModel`.

    Attributes:
        engine: what runs the file.
        card: what the file says about itself.
        device: where it computes; images may be anywhere.
        adaptors: name -> what is known of the adaptor.
        active_adaptors: those that a call returns when it is not told otherwise: all in the file.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.card = card = engine.card
        if card.purpose != MODEL:
            raise ValueError(
                f"this file holds the part of {card.name or 'a model'} that is for "
                f"{card.purpose!r}, not a whole model"
            )
        self.device = engine.device
        self.adaptors: dict[str, AdaptorCard] = {head.name: head for head in card.adaptors}
        self.active_adaptors = tuple(self.adaptors)
        self.text_towers = TextTowers({head.name: head.text_tower for head in card.adaptors})
        self.patch_size, self.min_resolution_step = card.patch_size, card.resolution_step
        self.embed_dim, self.summary_dim = card.embed_dim, card.summary_dim
        self.window_size, self.max_resolution = card.window_size, card.max_resolution
        preferred = card.preferred_resolution
        self.preferred_resolution = None if preferred is None else Resolution(*preferred)

    def fingerprint(self) -> str:
        """SHA-256 over the bytes of its files."""
        return files_fingerprint(*self.engine.files)

    def nearest_supported_resolution(self, height: int, width: int) -> Resolution:
        """The image size in pixels nearest to (height, width) that it takes."""
        return self.card.nearest_size(height, width)

    def check_adaptors(self, names: Sequence[str]) -> tuple[str, ...]:
        """The names as a tuple; ValueError lists the known ones when one is unknown."""
        unknown = [name for name in names if name not in self.adaptors]
        if unknown:
            known = ", ".join(self.adaptors) or "none"
            raise ValueError(f"unknown adaptors {unknown}; this file has: {known}")
        return tuple(names)

    def __call__(
        self,
        images: Tensor,
        feature_fmt: FeatureFormat = "NLC",
        adaptors: Sequence[str] | None = None,
    ) -> Output | dict[str, Output]:
        """As `RadioModel.forward`, which documents arguments, result and errors."""
        names = self.active_adaptors if adaptors is None else tuple(adaptors)
        outputs = self.forward_all(images, names, feature_fmt)
        return outputs if names else outputs["backbone"]

    def forward_all(
        self, images: Tensor, adaptors: Sequence[str] = (), feature_fmt: FeatureFormat = "NCHW"
    ) -> dict[str, Output]:
        """As `RadioModel.forward_all`; outputs are float32, on the device of the images."""
        names = self.check_adaptors(adaptors)
        check_images(images, 1)
        height, width = images.shape[-2:]
        self.card.check_size(height, width)
        found = self.engine.run(images.float())
        grid = (height // self.patch_size, width // self.patch_size)
        outputs = {}
        for name in ("backbone", *names):
            prefix = "" if name == "backbone" else f"{name}_"
            summary = found.get(f"{prefix}summary")
            finer = self.adaptors[name].upsample if prefix else 1
            cells = (grid[0] * finer, grid[1] * finer)
            features = self._formatted(found[f"{prefix}features"], feature_fmt, cells)
            outputs[name] = Output(
                None if summary is None else summary.to(images.device), features.to(images.device)
            )
        return outputs

    def _formatted(
        self, features: Tensor, feature_fmt: FeatureFormat, cells: tuple[int, int]
    ) -> Tensor:
        if feature_fmt not in ("NLC", "NCHW"):
            raise ValueError(f'unknown feature format {feature_fmt!r}; known: "NLC", "NCHW"')
        if feature_fmt == self.card.feature_fmt:
            return features
        if feature_fmt == "NLC":
            return features.flatten(2).transpose(1, 2)
        if features.shape[1] != cells[0] * cells[1]:
            raise ValueError('the features of this model hold other tokens too: use "NLC"')
        as_map: Tensor = features.transpose(1, 2).unflatten(2, cells)
        return as_map

    @torch.no_grad()
    def encode_text(self, adaptor: str, texts: Sequence[str], normalize: bool = False) -> Tensor:
        """As `RadioModel.encode_text`, which documents it; on the CPU."""
        self.check_adaptors([adaptor])
        encoded = self.text_towers.encode(adaptor, texts, torch.device("cpu"))
        encoded = F.normalize(encoded, dim=-1) if normalize else encoded
        return encoded
