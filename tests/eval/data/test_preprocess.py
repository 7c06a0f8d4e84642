"""Images become what a model sees."""

import json
from pathlib import Path

import pytest
from PIL import Image

from radio_core.open import open_model
from radio_core.vision import CentreCrop, ModelSpec
from radio_eval.data.preprocess import How, Preprocess


class Model:
    """What preprocessing asks of a model."""

    def __init__(self, crop: CentreCrop | None = None, **spec: bool) -> None:
        numbers = {"input_size": 32, "patch_size": 16, "summary_dim": 3, "feature_dim": 3}
        self.spec = ModelSpec(name="m", **numbers, **spec)  # type: ignore[arg-type]
        self.crop = crop


def of(model: Model, size: int | None = None, how: How = "auto") -> Preprocess:
    return Preprocess.of(model, size, how)  # type: ignore[arg-type]


CROP = CentreCrop(size=32, resize=40)


def test_shapes() -> None:
    image = Image.new("RGB", (100, 50))
    radio, square, cut = Model(square=False), Model(), Model(CROP)
    assert of(radio)(image).shape == of(radio).whole(image).shape == (3, 32, 64)
    for model in (square, cut):
        assert of(model)(image).shape == of(model).whole(image).shape == (3, 32, 32)
    left = Image.new("L", (50, 50), 255)
    image.paste(Image.merge("RGB", (left,) * 3), (0, 0))
    columns = of(cut).whole(image)[0].mean(0)  # squeezed, not cut
    assert (columns[8] > 0.9, columns[24] < 0.1) == (True, True)


def test_the_size_is_rounded_to_the_step_or_refused() -> None:
    radio = Model(square=False)
    assert [of(radio, size).size for size in (97, 1, 40, 56)] == [96, 16, 32, 64]
    assert of(Model(CROP, square=False), 45).crop == CentreCrop(size=48, resize=60)
    assert of(Model(), 32) == of(Model())
    with pytest.raises(ValueError, match="takes images of 32 pixels only, not 48: leave out"):
        of(Model(), 48)


def test_the_way_can_be_chosen() -> None:
    radio, cut = Model(square=False), Model(CROP, square=False)
    assert of(cut, how="radio").crop is None
    assert of(radio, 48, "center-crop").crop == CentreCrop(size=48, resize=48)
    assert of(radio, how="dinov2").crop == CentreCrop(size=224, resize=256)
    assert of(Model(), how="dinov2").crop == CentreCrop(size=32, resize=37)


def test_other_libraries_say_how_they_crop(tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip", reason="needs the extra 'clip'")
    torch = pytest.importorskip("torch")
    tower = {"layers": 1, "width": 16, "head_width": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    vision = {"image_size": 32, "patch_size": 8, **tower}
    shape = {"embed_dim": 12, "vision_cfg": vision, "text_cfg": text}
    network = open_clip.CLIP(**shape)
    torch.save(network.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
    config = {"model_cfg": shape, "preprocess_cfg": {**preprocess, "interpolation": "bilinear"}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    model = open_model(f"open_clip:local-dir:{tmp_path}")
    squash = CentreCrop(size=32, resize=32, squash=True, interpolation="bilinear")
    assert Preprocess.of(model) == Preprocess(size=32, step=8, square=True, crop=squash)
