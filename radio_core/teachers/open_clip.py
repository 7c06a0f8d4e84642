"""open_clip models as teachers: OpenAI CLIP, OpenCLIP, MetaCLIP, DFN, SigLIP and toy-clip."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from radio_core.extras import require
from radio_core.teachers.base import Teacher, TeacherOutput, TeacherSpec, UnknownTeacher
from radio_core.teachers.word_tokenizer import VOCABULARY_FILE, WordTokenizer

Tokenizer = Callable[[Sequence[str]], Tensor]

_WHOLE = ("local-dir:", "hf-hub:")  # names that say by themselves where the weights are


class OpenClipTeacher(Teacher):
    """Summary: the projected image embedding (not normalised). Features: normalised last tokens.

    Args:
        name: name of the teacher.
        model: an open_clip model with both towers.
        tokenizer: texts → token ids [T, L] for its text tower.
        licence: licence of the weights.
    """

    def __init__(self, name: str, model: Any, tokenizer: Tokenizer, licence: str) -> None:
        visual = model.visual
        size = visual.image_size
        size = size if isinstance(size, int) else size[0]
        probe = torch.zeros(1, 3, size, size, device=next(model.parameters()).device)
        summary, features = _image_features(model.eval(), probe)
        preprocess = visual.preprocess_cfg if hasattr(visual, "preprocess_cfg") else {}
        clip = require("open_clip", extra="clip")
        super().__init__(
            TeacherSpec(
                name=name,
                input_size=size,
                mean=tuple(preprocess.get("mean", clip.OPENAI_DATASET_MEAN)),
                std=tuple(preprocess.get("std", clip.OPENAI_DATASET_STD)),
                patch_size=size // features.shape[-1],
                summary_dim=summary.shape[-1],
                feature_dim=features.shape[1],
                licence=licence,
            )
        )
        self.model = model
        self.tokenizer = tokenizer
        self.freeze()

    @classmethod
    def load(
        cls, name: str, model: str, pretrained: str = "", licence: str = ""
    ) -> "OpenClipTeacher":
        """Load through open_clip's factory.

        Args:
            name: name of the teacher.
            model: as `create_open_clip` takes it.
            pretrained: as `create_open_clip` takes it.
            licence: licence of the weights.

        Raises:
            UnknownTeacher: open_clip does not know the architecture, or no such weights of it.
        """
        network, tokenizer = create_open_clip(model, pretrained)
        return cls(name, network, tokenizer, licence)

    def extract(self, images: Tensor) -> TeacherOutput:
        """Summary [B, D] in the space shared with texts, features [B, F, h, w]."""
        return TeacherOutput(*_image_features(self.model, images))

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str], normalize: bool = False) -> Tensor:
        """Text embeddings [T, D] float32, of unit length when `normalize`."""
        device = self.mean.device
        embeddings: Tensor = self.model.encode_text(self.tokenizer(list(texts)).to(device))
        return F.normalize(embeddings, dim=-1) if normalize else embeddings


def split_model(source: str) -> tuple[str, str]:
    """(model, pretrained) of "MODEL/PRETRAINED"; "hf-hub:" and "local-dir:" names stay whole."""
    if source.startswith(_WHOLE):
        return source, ""
    model, _, pretrained = source.partition("/")
    return model, pretrained


def create_open_clip(model: str, pretrained: str = "") -> tuple[Any, Tokenizer]:
    """A network with both towers, and its tokenizer, through open_clip's factory.

    open_clip reads weight files with `weights_only=True` and loads them strictly.

    Args:
        model: architecture ("ViT-H-14-378-quickgelu"), "hf-hub:org/repo" or "local-dir:PATH".
        pretrained: tag or checkpoint file of an architecture ("dfn5b").

    Raises:
        UnknownTeacher: open_clip does not know the architecture, or no such weights of it.
        ImportError: open_clip is missing; the message names the extra.
    """
    clip = require("open_clip", extra="clip")
    if not model.startswith(_WHOLE):
        _check_known(clip, model, pretrained)
    network = clip.create_model(model, pretrained=pretrained or None, require_pretrained=True)
    folder = Path(model.removeprefix("local-dir:"))
    if (folder / VOCABULARY_FILE).is_file():
        return network, WordTokenizer.load(folder)
    return network, clip.get_tokenizer(model)


def _check_known(clip: Any, model: str, pretrained: str) -> None:
    """Refuse what open_clip would not find, and weights left to chance."""
    if model not in clip.list_models():
        known = ", ".join(clip.list_models())
        raise UnknownTeacher(f"unknown open_clip model {model!r}; known: {known}")
    tags = clip.list_pretrained_tags_by_model(model)
    if pretrained not in tags and not Path(pretrained).is_file():
        raise UnknownTeacher(
            f"open_clip model {model!r} has no weights {pretrained!r}; name one of "
            f"{', '.join(tags) or 'its checkpoint files'}, as open_clip:{model}/WEIGHTS"
        )


@torch.no_grad()
def _image_features(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Embedding [B, D] and last feature map [B, F, h, w] of normalised images."""
    output = model.forward_intermediates(
        image=images, image_indices=1, normalize=False, normalize_intermediates=True
    )
    return output["image_features"], output["image_intermediates"][-1]
