"""The linear segmentation probe: protocols, head, scores and bad input."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from radio_core.data.folder import FolderError
from radio_eval.contract import TaskResult, run_evaluator
from radio_eval.eval_model import EvalModel
from radio_eval.linear_seg.evaluator import LinearSegEvaluator
from radio_eval.linear_seg.features import Backbone
from radio_eval.linear_seg.head import backward_pixel_loss, learning_rate_at, pixel_loss
from radio_eval.linear_seg.protocol import LinearSegParameters, mmseg_protocol, toy_protocol
from radio_eval.linear_seg.slide import predict_labels
from radio_eval.segmentation.data import read_ade
from radio_eval.segmentation.metrics import ConfusionMatrix

COLOURS = np.array([(0, 0, 0), (220, 30, 30), (30, 30, 220)], dtype=np.uint8)


def write_ade(
    root: Path, count: int = 12, sizes: tuple[tuple[int, int], ...] = ((32, 32),)
) -> Path:
    """Scenes of coloured blocks in the ADE layout; the colour tells the class."""
    rng = np.random.default_rng(0)
    for split in ("training", "validation"):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            height, width = sizes[index % len(sizes)]
            coarse = rng.integers(0, 3, (height // 8, width // 8))
            stored = coarse.repeat(8, 0).repeat(8, 1).astype(np.uint8)  # 0 is unlabelled
            Image.fromarray(COLOURS[stored]).save(root / "images" / split / f"{index}.png")
            Image.fromarray(stored).save(root / "annotations" / split / f"{index}.png")
    (root / "classes.json").write_text('["red", "blue"]')
    return root


def patch_colours(
    features: Callable[[Tensor], Tensor] = lambda images: F.avg_pool2d(images, 8),
    square: bool = False,
) -> EvalModel:
    return EvalModel(
        name="patch colours", image_size=32, resize_step=8, features=features, square=square
    )


def evaluator(root: Path, parameters: LinearSegParameters) -> LinearSegEvaluator:
    return LinearSegEvaluator(
        train=read_ade(root, "train"), val=read_ade(root, "val"), parameters=parameters
    )


def small_mmseg(**changes: object) -> LinearSegParameters:
    return mmseg_protocol(
        **{"image_size": 32, "iterations": 40, "batch_size": 4, "learning_rate": 0.05, **changes}  # type: ignore[arg-type]
    )


def blind(images: Tensor) -> Tensor:
    return torch.zeros(len(images), 3, 4, 4)


@pytest.mark.parametrize("square", [False, True])
def test_toy_protocol_tells_good_features_from_blind_ones(tmp_path: Path, square: bool) -> None:
    probe = evaluator(
        write_ade(tmp_path), toy_protocol(iterations=150, batch_size=4, learning_rate=0.05)
    )
    result = run_evaluator(probe, patch_colours(square=square))
    assert result.value > 80
    assert result.parameters["augmentation"] is None
    assert run_evaluator(probe, patch_colours(blind)).value < 50
    assert run_evaluator(probe, patch_colours(square=square)).metrics == result.metrics


@pytest.mark.parametrize("inference", ["slide", "whole"])
@pytest.mark.parametrize("square", [False, True])
def test_mmseg_protocol_takes_images_of_any_size(
    tmp_path: Path, inference: str, square: bool
) -> None:
    root = write_ade(tmp_path, sizes=((32, 32), (24, 64), (56, 32), (16, 88)))
    probe = evaluator(root, small_mmseg(inference=inference))
    result = run_evaluator(probe, patch_colours(square=square))
    assert result.value > 60
    assert result.parameters["augmentation"]["max_class_share"] == 0.75
    assert result.metrics["crop"] == 32
    assert set(probe.class_iou) == {"red", "blue"}


def test_features_are_frozen(tmp_path: Path) -> None:
    weight = torch.full((3, 1, 1), 1.0, requires_grad=True)

    def features(images: Tensor) -> Tensor:
        pooled = F.avg_pool2d(images * weight, 8)
        assert not pooled.requires_grad
        return pooled

    run_evaluator(
        evaluator(write_ade(tmp_path), small_mmseg(iterations=2)), patch_colours(features)
    )
    assert weight.grad is None


def test_toy_protocol_refuses_images_of_several_sizes(tmp_path: Path) -> None:
    root = write_ade(tmp_path, count=2, sizes=((32, 32), (32, 48)))
    with pytest.raises(ValueError, match="use the protocol mmseg"):
        run_evaluator(evaluator(root, toy_protocol(iterations=1)), patch_colours())


@pytest.mark.parametrize("protocol", [small_mmseg, toy_protocol])
def test_unreadable_files_are_skipped_and_named(
    tmp_path: Path, protocol: Callable[..., LinearSegParameters]
) -> None:
    root = write_ade(tmp_path, count=4)
    (root / "images/training/1.png").write_bytes(b"broken")
    (root / "annotations/validation/2.png").write_bytes(b"broken")
    probe = evaluator(root, protocol(iterations=5, batch_size=4))
    result = run_evaluator(probe, patch_colours())
    assert (result.metrics["train_images"], result.metrics["val_images"]) == (3, 3)
    skipped = probe.skipped()
    [name] = skipped["train images"]["each"]
    assert name.endswith("training/1.png")
    [name] = skipped["val images"]["each"]
    assert name.endswith("validation/2.png")


@pytest.mark.parametrize("protocol", [small_mmseg, toy_protocol])
@pytest.mark.parametrize("split", ["training", "validation"])
def test_nothing_readable_is_an_error(
    tmp_path: Path, protocol: Callable[..., LinearSegParameters], split: str
) -> None:
    root = write_ade(tmp_path, count=2)
    for path in (root / "annotations" / split).iterdir():
        path.write_bytes(b"broken")
    word = "train" if split == "training" else "val"
    with pytest.raises(ValueError, match=rf"none of the {word} images can be used; .*\.png"):
        run_evaluator(evaluator(root, protocol(iterations=1)), patch_colours())


@pytest.mark.parametrize("workers", [0, 1])
def test_label_maps_that_do_not_fit_end_the_run(tmp_path: Path, workers: int) -> None:
    root = write_ade(tmp_path, count=2)
    Image.fromarray(np.full((32, 32), 3, np.uint8)).save(root / "annotations/training/0.png")
    probe = dataclasses.replace(evaluator(root, small_mmseg()), workers=workers)
    with pytest.raises(FolderError, match=r"^label map .*training/0\.png holds value 3"):
        run_evaluator(probe, patch_colours())


def test_workers_change_nothing(tmp_path: Path) -> None:
    root = write_ade(tmp_path, sizes=((32, 32), (24, 64)))

    def result(workers: int) -> TaskResult:
        probe = dataclasses.replace(evaluator(root, small_mmseg()), workers=workers)
        return run_evaluator(probe, patch_colours())

    assert result(0).metrics == result(2).metrics


def test_pictures(tmp_path: Path) -> None:
    root = write_ade(tmp_path / "data", count=3)
    for parameters in (small_mmseg(iterations=1), toy_protocol(iterations=1)):
        out = tmp_path / parameters.protocol
        probe = dataclasses.replace(evaluator(root, parameters), out=out, pictures=2)
        run_evaluator(probe, patch_colours())
        names = {path.name for path in (out / "images").iterdir()}
        assert names == {"0000_0.png", "0001_1.png", "legend.png"}
        picture = np.array(Image.open(out / "images/0001_1.png"))
        assert picture.shape == (32, 96, 3)
        assert np.array_equal(picture[:, :32], Image.open(root / "images/validation/1.png"))
        label = np.array(Image.open(root / "annotations/validation/1.png"))
        legend = np.array([(224, 224, 192), (0, 0, 0), (128, 0, 0)])  # VOC's first colours
        assert np.array_equal(picture[:, 32:64], legend[label])


def test_the_papers_numbers_are_the_defaults() -> None:
    p = LinearSegParameters()
    assert p == mmseg_protocol()
    assert (p.iterations, p.batch_size, p.learning_rate, p.weight_decay) == (160_000, 16, 1e-3, 0)
    assert (p.scale, p.crop, p.stride, p.inference) == ((2048, 512), 512, 341, "slide")
    assert p.warmup_iterations == 1500
    assert mmseg_protocol(iterations=20).warmup_iterations == 2
    assert mmseg_protocol(image_size=128).scale == (512, 128)


def test_crops_are_fitted_to_the_models_patches() -> None:
    dino = EvalModel(name="dino", image_size=518, resize_step=14)
    fitted = mmseg_protocol().fitted(dino)
    assert (fitted.crop, fitted.stride) == (518, 345)
    assert mmseg_protocol(stride=100).fitted(dino).stride == 100
    radio = EvalModel(name="radio", image_size=432, resize_step=16)
    assert mmseg_protocol().fitted(radio) == mmseg_protocol()
    square = EvalModel(name="clip", image_size=224, resize_step=14, square=True)
    assert mmseg_protocol().fitted(square) == mmseg_protocol()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative"),
        ({"stride": 600}, "stride 600 must be at most the crop 512"),
        ({"inference": "tiled"}, "'tiled' must be 'slide' or 'whole'"),
        ({"scale": None}, "augmentation needs the parameters scale and crop"),
        ({"crop": None, "augmentation": None}, "slide inference needs the parameters crop"),
        ({"crop": 0}, "crop must be at least 1"),
    ],
)
def test_numbers_that_do_not_go_together(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LinearSegParameters(**changes)  # type: ignore[arg-type]


def test_windows_between_patches_are_padded() -> None:
    seen: list[tuple[int, ...]] = []

    def features(images: Tensor) -> Tensor:
        seen.append(tuple(images.shape))
        return F.avg_pool2d(images, 8)

    backbone = Backbone(patch_colours(features))
    logits = backbone.logits(torch.nn.Identity(), torch.ones(2, 3, 20, 30))
    assert seen == [(2, 3, 24, 32)]
    assert logits.shape == (2, 3, 20, 30)
    torch.testing.assert_close(logits[:, :, :12, :20], torch.ones(2, 3, 12, 20))


def test_loss_divides_by_ignored_pixels_too() -> None:
    logits = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[[0, 255], [2, 255]]])
    kept = F.cross_entropy(logits, labels, ignore_index=255)  # mean over the labelled half
    torch.testing.assert_close(pixel_loss(logits, labels), kept / 2)


def test_gradients_in_parts_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(5, 3, 4, 4, generator=generator)
    labels = torch.randint(0, 3, (5, 16, 16), generator=generator)
    labels[0, :4] = 255
    whole, parts = (weights.clone().requires_grad_() for _ in range(2))
    pixel_loss(whole * 2, labels).backward()
    monkeypatch.setattr("radio_eval.linear_seg.head._FLOATS_AT_ONCE", 2 * 3 * 16 * 16)
    backward_pixel_loss(parts * 2, labels)
    torch.testing.assert_close(parts.grad, whole.grad)


def test_argmax_in_parts_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(7, 5, 6, generator=torch.Generator().manual_seed(0))
    logits[4] = logits[1]  # of equals, the first counts
    resized = F.interpolate(logits[None], size=(20, 30), mode="bilinear", align_corners=False)[0]
    monkeypatch.setattr("radio_eval.linear_seg.slide._FLOATS_AT_ONCE", 3 * 20 * 30)
    assert torch.equal(predict_labels(logits, (20, 30)), resized.argmax(dim=0))


def test_learning_rate_is_mmengines() -> None:
    parameters = mmseg_protocol(iterations=100, warmup_iterations=10)
    rates = [learning_rate_at(step, parameters) for step in range(100)]
    assert rates[0] == 1e-6
    assert rates[3] == pytest.approx(1e-6 + (1e-3 - 1e-6) * 3 / 9)
    assert rates[9] == rates[10] == max(rates) == 1e-3
    assert rates[55] == pytest.approx(1e-3 * (1 - 45 / 89))
    assert rates[99] == 0
    square = dataclasses.replace(parameters, poly_power=2.0)
    assert learning_rate_at(55, square) == pytest.approx(1e-3 * (1 - 45 / 89) ** 2)
    shortest = mmseg_protocol(iterations=1, warmup_iterations=1)
    assert math.isfinite(learning_rate_at(0, shortest))


def test_confusion_refuses_what_it_cannot_count() -> None:
    confusion = ConfusionMatrix(2)
    with pytest.raises(ValueError, match="differ in size"):
        confusion.update(torch.zeros(2, 2), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="label holds class 7"):
        confusion.update(torch.zeros(1, 1), torch.full((1, 1), 7))
