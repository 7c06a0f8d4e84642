"""Teachers from files and names that are wrong: each says what is wrong, and runs nothing."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants as hub
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from radio_core.registry import UnknownName
from radio_core.teachers import load_teacher
from radio_core.teachers.files import misfit_of_torch
from radio_core.teachers.transformers_models import TransformersTeacher
from radio_core.zoo.hub import DownloadError

VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.proof), "w"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders "hf" (a ViT with a classifier), "timm" and "open_clip"."""
    transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")
    open_clip = pytest.importorskip("open_clip", reason="needs the extra 'clip'")
    folder = tmp_path_factory.mktemp("models")
    transformers.ViTForImageClassification(transformers.ViTConfig(**VIT)).save_pretrained(
        folder / "hf"
    )
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
    network = timm.create_model("vit_tiny_patch16_224", num_classes=7, **shape)
    timm.models.save_for_hf(network, folder / "timm", model_args=shape, safe_serialization=True)
    tower = {"layers": 2, "width": 16, "head_width": 8, "image_size": 32, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1}
    config = {"embed_dim": 12, "vision_cfg": tower, "text_cfg": text}
    (folder / "open_clip").mkdir()
    (folder / "open_clip/open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    weights = open_clip.CLIP(**config).state_dict()
    save_file(weights, folder / "open_clip/open_clip_model.safetensors")
    return folder


@pytest.fixture
def copied(models: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of one of the folders, to be damaged."""
    return lambda name: Path(shutil.copytree(models / name, tmp_path / name))


SOURCES = {"hf": "hf:{}", "timm": "timm:{}", "open_clip": "open_clip:local-dir:{}"}
CONFIGS = {"hf": "config.json", "timm": "config.json", "open_clip": "open_clip_config.json"}
WEIGHTS = {"hf": "model", "timm": "model", "open_clip": "open_clip_model"}
LAST_BLOCK = {
    "hf": r"(vit\.)?(encoder\.layer|layers)\.1\.",
    "timm": r"blocks\.1\.",
    "open_clip": r"visual\.transformer\.resblocks\.1\.",
}


def with_config(folder: Path, library: str, depth: int, width: int) -> str:
    """The source of a folder whose config was changed."""
    path = folder / CONFIGS[library]
    config = json.loads(path.read_text())
    if library == "hf":
        config |= {"num_hidden_layers": depth, "hidden_size": width}
    elif library == "timm":
        config["model_args"] |= {"depth": depth, "embed_dim": width}
    else:
        config["model_cfg"]["vision_cfg"] |= {"layers": depth, "width": width}
    path.write_text(json.dumps(config))
    return SOURCES[library].format(folder)


@pytest.mark.parametrize("library", SOURCES)
def test_weights_that_do_not_fit_their_config_are_named(
    library: str, copied: Callable[[str], Path]
) -> None:
    folder = copied(library)
    named = rf"teacher {SOURCES[library].format(folder)}: the weights in {folder} do not fit"
    for depth, width, reason in (
        (1, 16, rf"unexpected: {LAST_BLOCK[library]}.* and \d+ more"),
        (3, 16, rf"missing: .*{LAST_BLOCK[library].replace('1', '2')}"),
        (2, 24, r"of another shape: \S+ \[[\d, ]+\] instead of \[[\d, ]+\]"),
    ):
        source = with_config(folder, library, depth, width)
        with pytest.raises(ValueError, match=named + ".*" + reason):
            load_teacher(source)
    load_teacher(with_config(folder, library, 2, 16))  # a classifier that is left out is no misfit


@pytest.mark.parametrize("library", SOURCES)
def test_damaged_weights_are_a_value_error(library: str, copied: Callable[[str], Path]) -> None:
    folder = copied(library)
    path = folder / f"{WEIGHTS[library]}.safetensors"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="cannot read the weights in"):
        load_teacher(SOURCES[library].format(folder))
    path.unlink()
    with pytest.raises(ValueError, match="cannot read the weights in"):
        load_teacher(SOURCES[library].format(folder))


@pytest.mark.parametrize("library", SOURCES)
def test_pickled_weights_run_no_code(
    library: str, copied: Callable[[str], Path], tmp_path: Path
) -> None:
    folder, proof = copied(library), tmp_path / "executed"
    path = folder / f"{WEIGHTS[library]}.safetensors"
    state = load_file(path)
    path.unlink()
    name = "open_clip_pytorch_model.bin" if library == "open_clip" else "pytorch_model.bin"
    torch.save(state, folder / name)
    load_teacher(SOURCES[library].format(folder))  # plain tensors are read
    torch.save({**state, "x": Bomb(proof)}, folder / name)
    with pytest.raises(ValueError, match="cannot read the weights in"):
        load_teacher(SOURCES[library].format(folder))
    (folder / name).write_bytes(pickle.dumps({"x": Bomb(proof)}, protocol=2))
    with pytest.raises(ValueError, match="cannot read the weights in"):
        load_teacher(SOURCES[library].format(folder))
    assert not proof.exists()


def test_remote_code_is_never_run(copied: Callable[[str], Path], tmp_path: Path) -> None:
    folder, proof = copied("hf"), tmp_path / "executed"
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(proof)!r})\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = dict.fromkeys(("AutoConfig", "AutoModel"), "evil.Evil")
    (folder / "config.json").write_text(json.dumps(config))
    load_teacher(f"hf:{folder}")
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "evil"}))
    with pytest.raises(ValueError, match="cannot read the config of the 'evil' model"):
        load_teacher(f"hf:{folder}")
    assert not proof.exists()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, and nothing in the cache."""
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))


@pytest.mark.parametrize(
    ("source", "files", "instead"),
    [
        ("hf:google/vit-base-patch16-224", r"config\.json and \*\.safetensors", "their folder"),
        ("dinov3:facebook/dinov3-vits16", r"config\.json and \*\.safetensors", "their folder"),
        ("sam2:facebook/sam2.1-hiera-tiny", r"config\.json and \*\.safetensors", "their folder"),
        ("sam3:facebook/sam3", r"config\.json and \*\.safetensors", "their folder"),
        ("radio:c-radio_v3-b", r"c-radio_v3-b_half\.pth\.tar", "path of that file"),
        ("timm:vit_tiny_patch16_224", r"config\.json and model\.safetensors", "timm:FOLDER"),
        ("dinov3:timm/convnext_tiny.dinov3_lvd1689m", r"config\.json and model", "timm:FOLDER"),
        ("open_clip:ViT-B-32/laion2b_s34b_b79k", "the weights", "open_clip:ViT-B-32/FILE"),
        ("open_clip:hf-hub:a/b", r"open_clip_config\.json and", "open_clip:local-dir:FOLDER"),
    ],
)
def test_without_network_the_error_names_the_files_and_where_they_go(
    source: str, files: str, instead: str, offline: None
) -> None:
    for module in ("open_clip", "transformers"):
        pytest.importorskip(module, reason="needs the extras 'clip' and 'hf'")
    with pytest.raises(DownloadError, match=f"cannot fetch {files}") as raised:
        load_teacher(source)
    message = str(raised.value)
    assert "HF_HUB_OFFLINE" in message
    assert "https://huggingface.co/" in message
    assert instead in message
    assert "\n" not in message


@pytest.mark.parametrize("source", ["hf:./nowhere/model", "sam2:vit_h", "dinov2:a/b/c"])
def test_what_is_neither_a_directory_nor_a_hub_id(source: str) -> None:
    pytest.importorskip("transformers", reason="needs the extra 'hf'")
    with pytest.raises(UnknownName, match="is no directory, and no hub id"):
        load_teacher(source)


def test_other_kinds_of_models_are_refused(models: Path, tmp_path: Path) -> None:
    for source in (f"sam2:{models / 'hf'}", f"sam3:{models / 'hf'}", f"dinov3:{models / 'hf'}"):
        with pytest.raises(ValueError, match=r"is a 'vit' model; needed is one of \w+"):
            load_teacher(source)
    with pytest.raises(ValueError, match=r"'vit_tiny_patch16_224' of timm, which is no dinov2: lo"):
        load_teacher(f"dinov2:{models / 'timm'}")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match=r"is a 'bert' model; known: .*take images alone"):
        load_teacher(f"hf:{tmp_path}")
    (tmp_path / "config.json").write_text('{"model_type": "radio"}')
    with pytest.raises(ValueError, match=rf"RADIO models are radio:{tmp_path}"):
        load_teacher(f"hf:{tmp_path}")
    (tmp_path / "config.json").unlink()
    for source in (f"hf:{tmp_path}", f"timm:{tmp_path}"):
        with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
            load_teacher(source)


def test_a_model_without_known_normalisation_names_the_file(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")
    fields = {"embedding_size": 8, "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}
    transformers.ResNetModel(transformers.ResNetConfig(**fields)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"preprocessor_config\.json \(image_mean, image_std\)"):
        load_teacher(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    ("kind", "name", "version"), [("sam2", "Sam2Model", "4.56"), ("sam3", "Sam3Model", "5.0")]
)
def test_a_transformers_that_is_too_old_is_told(
    kind: str, name: str, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))

    class Without:
        """transformers without one class."""

        def __getattr__(self, wanted: str) -> Any:
            if wanted == name:
                raise AttributeError(wanted)
            return getattr(transformers, wanted)

    monkeypatch.setattr("radio_core.teachers.files.require", lambda module, extra: Without())
    with pytest.raises(ValueError, match=rf"needs transformers {version} or newer: pip install"):
        load_teacher(f"{kind}:{tmp_path}")


def test_an_input_size_that_is_chosen(models: Path) -> None:
    images = torch.rand(1, 3, 32, 32)
    for library, source in SOURCES.items():
        teacher = load_teacher(source.format(models / library), input_size=48)
        assert teacher.spec.input_size == 48
        assert teacher(images).features.shape == (1, 16, 6, 6)
    with pytest.raises(ValueError, match="multiples of 8 pixels, not 44 x 44; the nearest size is"):
        load_teacher(f"hf:{models / 'hf'}", input_size=44)


def test_images_of_another_type_or_shape_are_refused(models: Path) -> None:
    teacher = load_teacher(f"hf:{models / 'hf'}")
    assert isinstance(teacher, TransformersTeacher)
    with pytest.raises(ValueError, match="must be floating point"):
        teacher(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"shape \[B, 3, H, W\]"):
        teacher(torch.zeros(3, 32, 32))


def test_an_error_about_something_else_is_no_misfit() -> None:
    assert misfit_of_torch("x", "file", RuntimeError("out of memory")) is None
