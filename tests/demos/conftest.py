"""The whole app, served once for all tests, with a tiny random LLaVA for its chat."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from radio_core.data.toyworld import Scene, render_scene
from radio_core.zoo.load import load_model


@pytest.fixture(scope="session")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA of the bundled parts with a projector that was never trained."""
    transformers = pytest.importorskip("transformers", reason="needs the extra 'llava'")
    pytest.importorskip("sentencepiece", reason="needs the extra 'llava'")
    from radio_llava.features import TowerConfig
    from radio_llava.hf import build_llava, build_processor
    from radio_llava.hf.processing import LLAVA_V1
    from radio_llava.toy import toy_llm_folder

    tokenizer = transformers.AutoTokenizer.from_pretrained(toy_llm_folder())
    tokenizer.pad_token = tokenizer.unk_token
    language = transformers.LlamaForCausalLM.from_pretrained(toy_llm_folder())
    torch.manual_seed(0)
    tower = TowerConfig(model="toy", resolution=64)
    model = build_llava(load_model("toy"), tower, language, tokenizer)
    processor = build_processor(model.config.vision_config, tokenizer, LLAVA_V1)
    folder = tmp_path_factory.mktemp("llava") / "tiny"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def server(llava: Path) -> Iterator[str]:
    """Address of the app with all tabs."""
    pytest.importorskip("gradio", reason="needs the extra 'demo'")
    pytest.importorskip("open_clip", reason="needs the extra 'clip'")
    pytest.importorskip("segment_anything", reason="needs the extra 'sam'")
    from radio_core.teachers.load import TOY_TEACHERS
    from radio_demos import build_app, launch

    app = build_app(load_model("toy"), teachers=TOY_TEACHERS, llava=llava)
    yield launch(app, block=False)
    app.close()


@pytest.fixture(scope="session")
def client(server: str) -> Iterator[Any]:
    """A `gradio_client.Client` of the app."""
    gradio_client = pytest.importorskip("gradio_client", reason="needs the extra 'demo'")
    found = gradio_client.Client(server, verbose=False, analytics_enabled=False)
    yield found
    found.close()


@pytest.fixture(scope="session")
def scene() -> Scene:
    """A scene with one object that is found well, a dotted red square."""
    return render_scene(2024, 2)


@pytest.fixture(scope="session")
def scene_file(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its picture."""
    path = tmp_path_factory.mktemp("scene") / "scene.png"
    Image.fromarray(scene.image).save(path)
    return path


@pytest.fixture(scope="session")
def wide_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JPEG of two scenes side by side, 256 x 128 pixels."""
    pixels = np.concatenate([render_scene(2024, index).image for index in (5, 26)], axis=1)
    path = tmp_path_factory.mktemp("wide") / "wide.jpg"
    Image.fromarray(pixels).save(path)
    return path
