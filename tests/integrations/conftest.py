"""Tiny Segment Anything models and RADIO models that fit them; a tiny Llama and data for LLaVA."""

import copy
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from radio_core.data.toyworld import render_scene
from radio_core.models import AdaptorConfig, HeadConfig, RadioConfig, RadioModel, vit_config
from radio_core.models.eradio import eradio_config
from radio_core.vision import Output

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

WIDTH = 24


class OracleRadio(nn.Module):
    """A RADIO whose sam adaptor gives SAM's own features before the neck, to the last bit.

    Of the images in [0, 1] it recovers the bytes that they were made of, so that SAM's encoder
    gets the very numbers that it gets in the original model.
    """

    window_size = None

    def __init__(self, sam: "Sam") -> None:
        super().__init__()
        self.encoder = copy.deepcopy(sam.image_encoder)
        self.encoder.neck = nn.Identity()
        self.mean, self.std = sam.pixel_mean, sam.pixel_std
        self.patch_size = self.encoder.patch_embed.proj.kernel_size[0]
        self.min_resolution_step = self.patch_size
        self.adaptors = nn.ModuleDict({"sam": nn.Identity()})
        self.seen: list[Tensor] = []

    def forward_all(
        self, images: Tensor, adaptors: Sequence[str], **options: Any
    ) -> dict[str, Output]:
        self.seen.append(images)
        pixels = images * 255
        padding = (pixels - self.mean).abs().amax(dim=1, keepdim=True) < 1e-3
        normalised = ((pixels.round() - self.mean) / self.std).masked_fill(padding, 0)
        return {"sam": Output(None, self.encoder(normalised))}


@pytest.fixture(scope="session")
def make_sam() -> "Callable[..., Sam]":
    """Builds a random Sam of 128 pixels, patches of 8 and width 24; keywords replace its sizes."""
    pytest.importorskip("segment_anything", reason="needs the extra 'sam'")
    from radio_core.teachers.segment_anything import SamConfig, build_sam

    def make(**changes: Any) -> "Sam":
        sizes: dict[str, Any] = {"image_size": 128, "patch_size": 8, "embed_dim": WIDTH, "depth": 2}
        sizes |= {"num_heads": 2, "window_size": 8, "global_blocks": (1,), "neck_dim": 16}
        sizes |= {"decoder_heads": 2, "decoder_mlp_dim": 16}
        torch.manual_seed(0)
        sam = build_sam(SamConfig(**(sizes | changes)))
        nn.init.normal_(sam.image_encoder.pos_embed, std=0.1)
        return sam.eval()

    return make


@pytest.fixture(scope="session")
def sam(make_sam: "Callable[..., Sam]") -> "Sam":
    """The Sam of `make_sam`; not to be changed."""
    return make_sam()


@pytest.fixture(scope="session")
def make_oracle() -> "Callable[[Sam], OracleRadio]":
    """Builds an `OracleRadio` of a Sam."""
    return OracleRadio


@pytest.fixture(scope="session")
def make_student() -> Callable[..., RadioModel]:
    """Builds a random RADIO with a sam adaptor: (patch_size, feature_dim, upsample, e_radio)."""

    def make(
        patch_size: int = 8, feature_dim: int = WIDTH, upsample: int = 1, e_radio: bool = False
    ) -> RadioModel:
        torch.manual_seed(1)
        head = HeadConfig(out_dim=feature_dim, hidden_dim=16)
        adaptor = AdaptorConfig(name="sam", features=head, upsample=upsample)
        backbone: Any = vit_config(
            "tiny", patch_size=patch_size, embed_dim=32, depth=2, stem="patch", num_windowed=1
        )
        if e_radio:
            backbone = eradio_config("eradio_xxxtiny", dim=16)
        return RadioModel(RadioConfig(backbone=backbone, adaptors=(adaptor,))).eval()

    return make


@pytest.fixture(scope="session")
def picture() -> Callable[[int, int], NDArray[np.uint8]]:
    """Builds a picture uint8 [height, width, 3] of noise."""

    def make(height: int, width: int) -> NDArray[np.uint8]:
        generator = np.random.default_rng(0)
        return generator.integers(0, 256, (height, width, 3), dtype=np.uint8)

    return make


LLAVA_TEXT = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. USER: ASSISTANT: Is there a "
    "red green blue yellow square circle star ring? What colour is the object? How many? yes no "
    "Answer the question using a single word or phrase. what are they doing to the dog"
)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers and width 64, with its tokenizer, in the real format."""
    spm = pytest.importorskip("sentencepiece", reason="needs the extra 'llava'")
    transformers = pytest.importorskip("transformers", reason="needs the extra 'llava'")
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    folder.mkdir()
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter([LLAVA_TEXT] * 4),
        model_writer=model,
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    tokenizer = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "model_max_length": 2048}
    tokenizer |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer["add_bos_token"] = True
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    torch.manual_seed(5)
    config = transformers.LlamaConfig(
        vocab_size=400,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=2048,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def toy_conversations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of toy-world images of mixed sizes, and train.json with a question on each."""
    folder = tmp_path_factory.mktemp("toy-conversations")
    samples: list[dict[str, Any]] = []
    for index in range(12):
        scene = render_scene(0, index)
        height, width = [(128, 128), (128, 72), (60, 128)][index % 3]
        Image.fromarray(scene.image[:height, :width]).save(folder / f"{index}.png")
        question = "<image>\nWhat colour is the object?"
        sentences = [("human", question), ("gpt", scene.objects[0].colour)]
        conversation = [{"from": who, "value": text} for who, text in sentences]
        samples.append({"id": str(index), "image": f"{index}.png", "conversations": conversation})
    (folder / "train.json").write_text(json.dumps(samples))
    return folder


@pytest.fixture(scope="session")
def mixed_conversations(toy_conversations: Path) -> Path:
    """A file beside train.json: by turns a sample with one image, with none, and with two."""
    samples = json.loads((toy_conversations / "train.json").read_text())
    for sample in samples[1::3]:
        del sample["image"]
        sample["conversations"][0]["value"] = "What colour is the sky?"
    for sample in samples[2::3]:
        sample["image"] = ["0.png", sample["image"]]
        sample["conversations"][0]["value"] = "Is <image> or <image> larger?"
    file = toy_conversations / "mixed.json"
    file.write_text(json.dumps(samples))
    return file


LLAVA_FLAGS: dict[str, Any] = {
    "version": "v1",
    "vision_tower": "toy",
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_layer": -2,
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
    "radio_resolution": 64,
    "bf16": False,
    "fp16": False,
    "tf32": False,
    "use_cpu": True,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "evaluation_strategy": "no",
    "save_strategy": "no",
    "learning_rate": 1e-2,
    "weight_decay": 0.0,
    "warmup_ratio": 0.03,
    "lr_scheduler_type": "cosine",
    "logging_steps": 1,
    "model_max_length": 512,
    "gradient_checkpointing": True,
    "lazy_preprocess": True,
    "dataloader_num_workers": 0,
    "report_to": "none",
    "max_steps": 20,
}


@pytest.fixture(scope="session")
def llava_flags(tiny_llama: Path, toy_conversations: Path) -> Callable[..., list[str]]:
    """The command line of a short training; keywords replace flags, None takes one out."""
    paths = {"model_name_or_path": tiny_llama, "image_folder": toy_conversations}
    paths |= {"data_path": toy_conversations / "train.json"}

    def command_line(**changes: Any) -> list[str]:
        argv: list[str] = []
        for name, value in (LLAVA_FLAGS | paths | changes).items():
            values = value if isinstance(value, list) else [value]
            argv += [] if value is None else [f"--{name}", *map(str, values)]
        return argv

    return command_line


@pytest.fixture(scope="session")
def llava_data(tiny_llama: Path) -> Callable[..., Any]:
    """Builds LLaVA's data set of samples with our checks around it, and its collator."""
    pytest.importorskip("llava", reason="needs llava-torch, see the extra 'llava'")
    from transformers import AutoTokenizer

    from radio_llava.compat import apply_to_training
    from radio_llava.data import CheckedDataset, MixedSizes

    train = apply_to_training()
    conversation = pytest.importorskip("llava.conversation")

    def build(
        samples: list[dict[str, Any]], folder: Path, processor: Any, max_length: int = 160
    ) -> tuple[CheckedDataset, MixedSizes]:
        tokenizer = AutoTokenizer.from_pretrained(tiny_llama, model_max_length=max_length)
        tokenizer.pad_token = tokenizer.unk_token
        conversation.default_conversation = conversation.conv_templates["v1"]  # as --version v1
        (folder / "data.json").write_text(json.dumps(samples))
        data_args = SimpleNamespace(
            image_folder=str(folder),
            image_aspect_ratio="square",
            image_processor=processor,
            is_multimodal=True,
            mm_use_im_start_end=False,
        )
        inner = train.LazySupervisedDataset(str(folder / "data.json"), tokenizer, data_args)
        return CheckedDataset(inner), MixedSizes(train.DataCollatorForSupervisedDataset(tokenizer))

    return build
