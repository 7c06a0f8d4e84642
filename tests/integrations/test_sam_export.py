"""The encoder of a RADIO-SAM as a file: the same embeddings, and the same masks behind it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from radio_core.cli import main
from radio_core.export.graph import trace
from radio_core.export.runtime import load_exported
from radio_core.models import AdaptorConfig, HeadConfig, RadioConfig, RadioModel, vit_config
from radio_core.zoo.load import load_model

pytest.importorskip("segment_anything", reason="needs the extra 'sam'")
pytest.importorskip("onnxscript", reason="needs the extra 'export'")
pytest.importorskip("onnxruntime", reason="needs the extra 'export'")

from radio_sam.export import OUTPUT, sam_exportable
from radio_sam.load import load_radio_sam
from radio_sam.vision import open_sam, sam_of

SIZE = 64


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sam") / "encoder.onnx"
    argv = ["export", "onnx", "toy", str(path), "--for", "sam=toy-sam", "--size", str(SIZE)]
    assert main(argv) == 0
    return path


@pytest.mark.slow
def test_the_file_is_the_encoder_and_segments_like_it(encoder: Path) -> None:
    from segment_anything import SamPredictor

    exported, plain = sam_of(open_sam(str(encoder))), load_radio_sam(image_size=SIZE)
    assert exported.image_encoder.img_size == SIZE
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        wanted = plain.image_encoder(images)
        torch.testing.assert_close(exported.image_encoder(images), wanted, atol=1e-4, rtol=1e-4)
    picture = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    masks = []
    for sam in (exported, plain):
        predictor = SamPredictor(sam)
        predictor.set_image(picture)
        masks.append(predictor.predict(np.array([[30, 20]]), np.array([1]), return_logits=True)[0])
    np.testing.assert_allclose(masks[0], masks[1], atol=1e-3)
    with pytest.raises(ValueError, match="pad them with Sam"):
        exported.image_encoder(torch.zeros(1, 3, 32, 32))


@pytest.mark.slow
def test_the_file_is_no_whole_model_and_a_model_no_encoder(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'sam', not a whole model"):
        load_exported(encoder)
    assert main(["export", "torch", "toy", str(tmp_path / "m.pt2"), "--size", "32"]) == 0
    with pytest.raises(ValueError, match="holds no image encoder"):
        open_sam(str(tmp_path / "m.pt2"))


def test_the_card_has_what_a_decoder_needs() -> None:
    card = sam_exportable(load_model("toy"), "toy").card
    assert (card.purpose, card.outputs, card.fixed_size) == ("sam", (OUTPUT,), (128, 128))
    assert card.embed_dim == load_radio_sam().prompt_encoder.embed_dim


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of SAM's patch size"):
        sam_exportable(load_model("toy"), "toy", size=(60, 64))
    with pytest.raises(ValueError, match="unknown SAM"):
        sam_exportable(load_model("toy"), "toy", "no-such-sam")


def test_the_resize_to_other_patches_is_in_the_graph() -> None:
    toy = load_model("toy")
    torch.manual_seed(0)
    width = next(spec.feature_dim for spec in toy.config.adaptors if spec.name == "sam")
    radio = RadioModel(
        RadioConfig(
            backbone=vit_config("base", depth=1, embed_dim=16, num_heads=2, patch_size=6),
            adaptors=(AdaptorConfig(name="sam", features=HeadConfig(out_dim=width, hidden_dim=8)),),
        )
    ).eval()
    exportable = sam_exportable(radio, "coarse", size=(SIZE, SIZE))
    graph = trace(exportable.prepared("float32"))
    assert not [node for node in graph.graph.nodes if "_aa" in str(node.target)]
    images = torch.randn(3, 3, SIZE, SIZE)
    with torch.no_grad():
        (found,), (wanted,) = graph.module()(images), exportable.module(images)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
