"""Tiny teachers of the real classes, in their real formats, and a run that learns from them."""

import json
import multiprocessing
import multiprocessing.process
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from radio_core.distill.config import (
    DataConfig,
    EngineConfig,
    OptimConfig,
    RunConfig,
    StudentConfig,
    TargetsConfig,
    TrainConfig,
)
from radio_core.distill.groups import GroupConfig, StageConfig, TeacherConfig
from radio_core.models.vit import vit_config

PREPARE = """
import os, sys
os.environ.update(environment)
sys.stdout = sys.stderr = os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT), "w", 1)
import torch
torch.set_num_threads(1)
"""


@dataclass
class RankProcess:
    """One process of a run, as a launcher would have started it.

    Attributes:
        process: the process.
        log: file of what it writes to stdout and stderr.
    """

    process: multiprocessing.process.BaseProcess
    log: Path

    @property
    def text(self) -> str:
        """What it has written so far."""
        return self.log.read_text() if self.log.is_file() else ""

    def join(self, timeout: float = 120) -> int:
        """Wait for its end and return the exit code; killed and None-like -9 if it hangs."""
        self.process.join(timeout)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
            pytest.fail(f"a process hangs; it wrote:\n{self.text}")
        assert self.process.exitcode is not None
        return self.process.exitcode


@pytest.fixture(scope="session")
def rank_server() -> Any:
    """A process with everything imported, from which ranks are forked without delay."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["radio_core.distill.trainer", "open_clip", "transformers"])
    return context


@pytest.fixture
def start_ranks(rank_server: Any, tmp_path: Path) -> Callable[..., list[RankProcess]]:
    """start(code, size, **names): run code in `size` processes with torchrun's environment."""

    def start(code: str, size: int, **names: Any) -> list[RankProcess]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        ranks = []
        for rank in range(size):
            environment = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            log = tmp_path / f"rank{rank}-{port}.log"
            space = {"environment": environment, "log": str(log), **names}
            process = rank_server.Process(target=exec, args=(PREPARE + code, space))
            process.start()
            ranks.append(RankProcess(process, log))
        return ranks

    return start


CLIP = {
    "model_cfg": {
        "embed_dim": 12,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 16,
            "head_width": 8,
            "patch_size": 8,
            "ls_init_value": None,
        },
        "text_cfg": {"context_length": 8, "vocab_size": 0, "width": 8, "heads": 2, "layers": 2},
    },
    "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]},
}
SAM = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "window_size": 3,
    "global_blocks": [1],
    "neck_dim": 8,
    "decoder_heads": 2,
    "decoder_mlp_dim": 16,
}


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An open_clip directory with a vocabulary of whole words."""
    open_clip = pytest.importorskip("open_clip", reason="needs the extra 'clip'")
    import torch
    from safetensors.torch import save_file

    from radio_core.teachers.open_clip import WordTokenizer

    folder = tmp_path_factory.mktemp("clip")
    tokenizer = WordTokenizer(["a", "red", "blue", "star", "ring"], 8)
    config: dict[str, Any] = json.loads(json.dumps(CLIP))
    config["model_cfg"]["text_cfg"]["vocab_size"] = tokenizer.vocab_size
    torch.manual_seed(1)
    model = open_clip.CLIP(**config["model_cfg"])
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="session")
def dino_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformers directory of a DINOv2 with registers: 35 pixels, a grid of 5."""
    transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")
    import torch

    folder = tmp_path_factory.mktemp("dino")
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=35,
        patch_size=7,
        num_register_tokens=3,
        layerscale_value=0.5,
    )
    torch.manual_seed(2)
    transformers.Dinov2WithRegistersModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sam_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sam_config.json + sam.safetensors: 32 pixels, a grid of 8."""
    pytest.importorskip("segment_anything", reason="needs the extra 'sam'")
    import torch
    from safetensors.torch import save_file

    from radio_core.config_file import from_mapping
    from radio_core.teachers.segment_anything import SamConfig, build_sam

    folder = tmp_path_factory.mktemp("sam")
    torch.manual_seed(3)
    sam = build_sam(from_mapping(SamConfig, SAM))
    torch.nn.init.normal_(sam.image_encoder.pos_embed, std=0.1)
    (folder / "sam_config.json").write_text(json.dumps(SAM))
    save_file({k: v.contiguous() for k, v in sam.state_dict().items()}, folder / "sam.safetensors")
    return folder


@pytest.fixture(scope="session")
def tiny_teachers(clip_folder: Path, dino_folder: Path, sam_folder: Path) -> dict[str, str]:
    """Adaptor name -> source, as `load_teacher` takes it."""
    return {
        "clip": f"open_clip:local-dir:{clip_folder}",
        "dino_v2": f"dinov2:{dino_folder}",
        "sam": f"sam:{sam_folder}",
    }


@pytest.fixture
def tiny_run(tiny_teachers: dict[str, str], tmp_path: Path) -> Callable[..., TrainConfig]:
    """A run of 20 steps in two stages with every feature on.

    Keywords replace fields of any section (`ema=0.9`), or whole sections.
    """
    low = GroupConfig(teachers=("clip", "dino_v2"), batch_size=4, resolutions=(32,), rate=2.0)
    high = GroupConfig(
        teachers=("sam",),
        batch_size=2,
        resolutions=(64,),
        window_sizes=(2, 4),
        window_probability=0.7,
    )
    config = TrainConfig(
        recipe="toy",
        run=RunConfig(out=tmp_path / "run", checkpoint_every=10, log_every=1),
        data=DataConfig(scenes=30),
        student=StudentConfig(
            backbone=vit_config("tiny", embed_dim=16, depth=2, grid_size=12, num_windowed=1),
            spectral=True,
        ),
        teachers={
            "clip": TeacherConfig(source=tiny_teachers["clip"]),
            "dino_v2": TeacherConfig(source=tiny_teachers["dino_v2"]),
            "sam": TeacherConfig(source=tiny_teachers["sam"], summary_weight=0.0, upsample=2),
        },
        stages=(StageConfig(steps=6, groups=(low,)), StageConfig(steps=14, groups=(low, high))),
        targets=TargetsConfig(statistics_views=10),
        optim=OptimConfig(warmup_steps=4),
        engine=EngineConfig(threads=1, device="cpu"),
    )
    sections = ("run", "data", "student", "targets", "loss", "optim", "engine")

    def run(**changes: Any) -> TrainConfig:
        whole: dict[str, Any] = {}
        for name, value in changes.items():
            homes = [s for s in sections if hasattr(getattr(config, s), name)]
            if name in sections or not homes:
                whole[name] = value
            else:
                whole.setdefault(homes[0], {})[name] = value
        return config.changed(**whole)

    return run


def picture(number: int) -> bytes:
    """A small PNG file of one shade of grey, its number."""
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (12, 10), (number,) * 3).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def make_shard() -> Callable[..., Path]:
    """make_shard(path, numbers): a tar of samples with a picture and a caption each."""
    import io
    import tarfile

    def make(path: Path, numbers: Iterable[int]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as archive:
            for number in numbers:
                for ending, content in (("png", picture(number)), ("txt", b"a caption")):
                    member = tarfile.TarInfo(f"{number:06d}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        return path

    return make


@pytest.fixture
def make_folder() -> Callable[..., Path]:
    """make_folder(path, numbers): PNG files of one shade each, in sub-folders of ten."""

    def make(path: Path, numbers: Iterable[int]) -> Path:
        for number in numbers:
            file = path / f"{number // 10}" / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture(number))
        return path

    return make


@pytest.fixture
def make_parquet() -> Callable[..., Path]:
    """make_parquet(path, numbers): a file with pictures in the column "image"."""
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra 'train'")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra 'train'")

    def make(path: Path, numbers: Iterable[int], column: str = "image") -> Path:
        rows = [{"bytes": picture(number), "path": None} for number in numbers]
        table = pyarrow.table({"number": list(range(len(rows))), column: rows})
        parquet.write_table(table, path)
        return path

    return make
