from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("open_clip", reason="needs the extra 'clip'")
pytest.importorskip("transformers", reason="needs the extra 'llava'")

from radio_core.teachers import load_teacher
from radio_llava.clip_vision import save_clip_vision


@pytest.fixture(scope="module")
def clip() -> Any:
    return load_teacher("toy-clip").model


def test_transformers_computes_the_same_tokens(clip: Any, tmp_path: Path) -> None:
    from transformers import CLIPVisionModel

    save_clip_vision(clip, tmp_path)
    model = CLIPVisionModel.from_pretrained(tmp_path).eval()
    torch.manual_seed(0)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        found = model(images, output_hidden_states=True).hidden_states
        wanted = clip.visual.forward_intermediates(
            images, indices=5, normalize_intermediates=False, output_fmt="NLC"
        )["image_intermediates"]
    assert len(found) == 1 + len(wanted)
    for ours, theirs in zip(found[1:], wanted, strict=True):
        torch.testing.assert_close(ours[:, 1:], theirs, atol=1e-4, rtol=1e-4)


def test_llavas_own_tower_loads_it(clip: Any, tmp_path: Path) -> None:
    pytest.importorskip("llava", reason="needs llava-torch, see the extra 'llava'")
    from radio_llava.compat import require_llava

    save_clip_vision(clip, tmp_path)
    encoder = require_llava("llava.model.multimodal_encoder.clip_encoder")
    args = SimpleNamespace(mm_vision_select_layer=-2, mm_vision_select_feature="patch")
    tower = encoder.CLIPVisionTower(str(tmp_path), args=args)
    assert tower(torch.zeros(1, 3, 64, 64)).shape == (1, 64, 96)
    assert tower.image_processor.crop_size["height"] == 64


def test_other_image_towers_are_refused(tmp_path: Path) -> None:
    other = SimpleNamespace(visual=torch.nn.Identity())
    with pytest.raises(ValueError, match="is a Identity"):
        save_clip_vision(other, tmp_path)
