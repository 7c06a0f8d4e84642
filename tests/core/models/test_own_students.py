"""A student of one's own: one file, found by its name; names in files import nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from radio_core import RadioModel, load_model
from radio_core.models import RadioConfig
from radio_core.models.backbone import STUDENTS, BackboneConfig, student_class
from radio_core.registry import UnknownName

SOURCE = """
from dataclasses import dataclass
import torch
from radio_core.models.backbone import Backbone, BackboneConfig
from radio_core.vision import Output

@dataclass(frozen=True, kw_only=True)
class PoolConfig(BackboneConfig):
    type: str = "own_pool:PoolConfig"
    patch_size: int = 4
    embed_dim: int = 6

    def build(self):
        return Pool(self)

class Pool(Backbone):
    def __init__(self, config):
        super().__init__(config)
        self.mix = torch.nn.Conv2d(3, config.embed_dim, config.patch_size, config.patch_size)
        self.shift = torch.ones(())  # in no file

    def forward(self, images, window_size=None):
        features = self.mix(images) + self.shift
        return Output(features.mean(dim=(2, 3))[:, None], features)

@dataclass(frozen=True, kw_only=True)
class Misnamed(PoolConfig):
    type: str = "pool"
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of `own_pool.py`, a module that can be imported but is not."""
    (tmp_path / "own_pool.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_pool", raising=False)
    return tmp_path


def test_own_students_are_found_saved_and_loaded(own: Path) -> None:
    config = student_class("own_pool:PoolConfig")()
    assert (config.resolution_step, config.num_summary_tokens, config.num_blocks) == (4, 1, 0)
    model = RadioModel(RadioConfig(backbone=config)).eval()
    images = torch.rand(1, 3, 8, 12)
    expected = model(images, "NCHW")
    assert expected.features.shape == (1, 6, 2, 3)
    model.save_pretrained(own / "model")
    torch.testing.assert_close(load_model(own / "model")(images, "NCHW"), expected)
    for refused in (
        lambda: load_model(own / "model", window_size=2),
        lambda: model.forward_intermediates(images, 1),
        lambda: model.backbone.checkpoint_activations(),
        lambda: model.backbone.change_window_size(2),
    ):
        with pytest.raises(ValueError, match=r"no windowed mode|has none|cannot do|no windows of"):
            refused()
    with pytest.raises(ValueError, match=r"type: str = 'own_pool:Misnamed'"):
        RadioConfig(backbone=student_class("own_pool:Misnamed")())


def test_names_in_files_import_only_what_the_user_names(own: Path) -> None:
    model = RadioModel(RadioConfig(backbone=student_class("own_pool:PoolConfig")()))
    model.save_pretrained(own / "model")
    load = f"import radio_core; radio_core.load_model({str(own / 'model')!r})"
    environment = {"PYTHONPATH": str(own)}
    for plugins, code in (("", 1), ("own_pool", 0), ("absent_module", 1)):
        done = subprocess.run(
            [sys.executable, "-c", load],
            env=environment | ({"RADIO_PLUGINS": plugins} if plugins else {}),
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        if not plugins:
            assert "set RADIO_PLUGINS=own_pool" in done.stderr


UNKNOWN = ["os:system", "absent:Config", "resnet", "this:s", "own_pool:PoolConfig"]
UNKNOWN += ["radio_core.models.vit:VisionTransformer", "radio_core.models.backbone:BackboneConfig"]


@pytest.mark.parametrize("name", [*UNKNOWN, 3, None])
def test_what_is_no_known_student_is_refused_and_not_imported(own: Path, name: object) -> None:
    stored = {"backbone": {"type": name, "patch_size": 4, "embed_dim": 6}}
    config = {"format": "radio-toolkit", "format_version": 2, **stored}
    (own / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="unknown student"):
        load_model(own)
    assert not {"this", "own_pool", "absent"} & set(sys.modules)
    with pytest.raises(UnknownName):
        BackboneConfig.of_type(name)


def test_the_built_in_students_are_found_in_the_same_way() -> None:
    assert list(STUDENTS.entries) == ["eradio", "timm", "vit"]
    with pytest.raises(UnknownName, match="did you mean 'eradio'"):
        student_class("eradoi")
    with pytest.raises(ValueError, match="derives from"):
        student_class("os:system")
