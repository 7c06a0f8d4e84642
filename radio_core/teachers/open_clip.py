"""open_clip models as teachers: OpenAI CLIP, OpenCLIP, MetaCLIP, DFN, SigLIP and toy-clip."""

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from radio_core.extras import require
from radio_core.teachers.base import Teacher, UnknownTeacher
from radio_core.teachers.licences import licence_of, stated_licence
from radio_core.teachers.sources import cannot_fetch, misfit_of_torch
from radio_core.teachers.timm_models import takes_any_size
from radio_core.teachers.word_tokenizer import VOCABULARY_FILE, WordTokenizer
from radio_core.vision import ModelSpec, Output

Tokenizer = Callable[[Sequence[str]], Tensor]

_LOCAL, _HUB = "local-dir:", "hf-hub:"
_WHOLE = (_LOCAL, _HUB)  # names that say by themselves where the weights are


class OpenClipTeacher(Teacher):
    """Summary: the projected image embedding (not normalised). Features: normalised last tokens.

    Towers of timm that take images of any size are flexible; open_clip's own have a fixed position
    grid, which `load` can have resized.

    Args:
        name: name of the teacher.
        model: an open_clip model with both towers.
        tokenizer: texts → token ids [T, L] for its text tower.
        licence: licence of the weights.

    Raises:
        ValueError: its image tower gives no map of features.
    """

    def __init__(self, name: str, model: Any, tokenizer: Tokenizer, licence: str) -> None:
        visual = model.visual
        size = visual.image_size
        size = int(size if isinstance(size, int) else size[0])
        probe = torch.zeros(1, 3, size, size, device=next(model.parameters()).device)
        summary, features = _image_features(model.eval(), probe)
        if features.ndim != 4:
            raise ValueError(
                f"teacher {name}: its image tower gives features of shape "
                f"{list(features.shape)} for {size} pixels, which are no map of the image"
            )
        patch_size = size // features.shape[-1]
        if size % patch_size:  # 384 pixels in patches of 14: the last 6 are not looked at
            size -= size % patch_size
            if hasattr(visual, "set_input_size"):
                visual.set_input_size(size)
        preprocess = visual.preprocess_cfg if hasattr(visual, "preprocess_cfg") else {}
        clip = require("open_clip", extra="clip")
        super().__init__(
            ModelSpec(
                name=name,
                input_size=size,
                mean=tuple(preprocess.get("mean", clip.OPENAI_DATASET_MEAN)),
                std=tuple(preprocess.get("std", clip.OPENAI_DATASET_STD)),
                patch_size=patch_size,
                summary_dim=summary.shape[-1],
                feature_dim=features.shape[1],
                licence=licence,
                flexible=_takes_any_size(visual),
            )
        )
        self.model = model
        self.tokenizer = tokenizer
        self.freeze()

    @classmethod
    def load(
        cls,
        name: str,
        model: str,
        pretrained: str = "",
        licence: str = "",
        input_size: int | None = None,
    ) -> "OpenClipTeacher":
        """Load through open_clip's factory.

        Args:
            name: name of the teacher.
            model: as `create_open_clip` takes it.
            pretrained: as `create_open_clip` takes it.
            licence: licence of the weights; by default what is known of the name, or what the
                model card says.
            input_size: as `create_open_clip` takes it.

        Raises:
            UnknownTeacher: open_clip does not know the architecture, or no such weights of it.
            ValueError: weights that are damaged, or do not fit the config.
            DownloadError: the files cannot be downloaded; the message says where to put them.
        """
        try:
            network, tokenizer = create_open_clip(model, pretrained, input_size)
        except (ImportError, UnknownTeacher):
            raise
        except Exception as error:  # open_clip and its downloads raise nearly everything
            raise _cannot_load(name, model, pretrained, error) from error
        folder = Path(model.removeprefix(_LOCAL))
        stated = stated_licence(folder) if model.startswith(_LOCAL) else None
        return cls(name, network, tokenizer, licence or licence_of(name, stated).name)

    def extract(self, images: Tensor) -> Output:
        """Summary [B, D] in the space shared with texts, features [B, F, h, w]."""
        return Output(*_image_features(self.model, images))

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


def create_open_clip(
    model: str, pretrained: str = "", input_size: int | None = None
) -> tuple[Any, Tokenizer]:
    """A network with both towers, and its tokenizer, through open_clip's factory.

    open_clip reads weight files with `weights_only=True` and loads them strictly.

    Args:
        model: architecture ("ViT-H-14-378-quickgelu"), "hf-hub:org/repo" or "local-dir:PATH".
        pretrained: tag or checkpoint file of an architecture ("dfn5b").
        input_size: side in pixels of its images, to which open_clip resizes the position grid;
            None for the model's own.

    Raises:
        UnknownTeacher: open_clip does not know the architecture, or no such weights of it.
        ImportError: open_clip is missing; the message names the extra.
    """
    clip = require("open_clip", extra="clip")
    if not model.startswith(_WHOLE):
        _check_known(clip, model, pretrained)
    network = clip.create_model(
        model,
        pretrained=pretrained or None,
        require_pretrained=True,
        force_image_size=input_size,
        weights_only=True,
    )
    folder = Path(model.removeprefix(_LOCAL))
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


def _cannot_load(teacher: str, model: str, pretrained: str, error: Exception) -> Exception:
    """The error with what to do about it."""
    clip = require("open_clip", extra="clip")
    tag = {} if model.startswith(_WHOLE) else clip.get_pretrained_cfg(model, pretrained)
    file = model.removeprefix(_LOCAL) if model.startswith(_LOCAL) else pretrained or model
    if (wrong := misfit_of_torch(teacher, file, error)) is not None:
        return wrong
    if model.startswith(_HUB):
        files, instead = "open_clip_config.json and open_clip_model.safetensors", "local-dir:FOLDER"
        place = model.removeprefix(_HUB)
    else:
        files, instead = "the weights", f"{model}/FILE"
        place = (tag.get("hf_hub") or tag.get("url") or "").rstrip("/")
    if place and not isinstance(error, (SafetensorError, pickle.UnpicklingError)):
        return cannot_fetch(teacher, place, files, f"open_clip:{instead}", error)
    return ValueError(f"teacher {teacher}: cannot read the weights in {file}: {error}")


def _takes_any_size(visual: Any) -> bool:
    """Whether an image tower takes any size: one of timm may, open_clip's own do not."""
    trunk = getattr(visual, "trunk", None)
    if trunk is None or not takes_any_size(trunk):
        return False
    layers: Any = timm.layers
    return not any(isinstance(module, layers.AttentionPool2d) for module in visual.head)


@torch.no_grad()
def _image_features(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Embedding [B, D] and last feature map [B, F, h, w] of normalised images."""
    # Where the tokens are pooled by attention (CoCa), the last norm is that of the pooled ones.
    norm = getattr(model.visual, "attn_pool", None) is None
    output = model.forward_intermediates(
        image=images, image_indices=1, normalize=False, normalize_intermediates=norm
    )
    return output["image_features"], output["image_intermediates"][-1]
