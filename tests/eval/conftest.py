"""What the tests of evaluators share."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from radio_core.data.toyworld.export import export
from radio_core.teachers.base import Teacher
from radio_core.teachers.segment_anything import SamConfig, build_sam
from radio_core.vision import ModelSpec, Output


class MeanColour(Teacher):
    """Its summary is the mean colour, weighted; it counts images, and can be made to stop."""

    def __init__(
        self, weights: tuple[float, float, float] = (1, 1, 1), *, summary: bool = True
    ) -> None:
        super().__init__(
            ModelSpec(
                name="mean colour",
                input_size=16,
                patch_size=8,
                summary_dim=3 if summary else None,
                feature_dim=3,
                flexible=True,
                square=False,
                text=True,
            )
        )
        self.weights = torch.nn.Parameter(torch.tensor(weights, dtype=torch.float32))
        self.seen, self.most, self.asked = 0, 10**9, list[str]()
        self.freeze()

    def extract(self, images: Tensor) -> Output:
        if self.seen + len(images) > self.most:
            raise KeyboardInterrupt
        self.seen += len(images)
        summary = images.mean(dim=(2, 3)) * self.weights
        features = torch.nn.functional.avg_pool2d(images, 8)
        return Output(summary if self.spec.summary_dim else None, features)

    def image_text(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        summary = self(images, size).summary
        assert summary is not None
        return summary

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Colour words become their axis, with lengths that must not matter."""
        self.asked += texts
        names = ("red", "green", "blue")
        axes = [torch.tensor([float(name in text) for name in names]) for text in texts]
        return torch.stack([(1 + len(t)) * axis for t, axis in zip(texts, axes, strict=True)])


@pytest.fixture(scope="session")
def mean_colour() -> type[MeanColour]:
    """A model whose answers are known."""
    return MeanColour


@pytest.fixture(scope="session")
def toy_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """14 train and 9 validation scenes of the toy world in class folders."""
    out = tmp_path_factory.mktemp("classes")
    export(out, 14, 9, parts=("classification",))
    return out / "classification"


class PatchColours(Teacher):
    """Its features are the mean colours of patches of 8 pixels, times a weight, or as given."""

    def __init__(
        self,
        features: Callable[[Tensor], Tensor] = lambda images: F.avg_pool2d(images, 8),
        *,
        square: bool = False,
        factor: float = 1.0,
    ) -> None:
        super().__init__(
            ModelSpec(
                name="patch colours",
                input_size=32,
                patch_size=8,
                summary_dim=None,
                feature_dim=3,
                flexible=not square,
                square=square,
            )
        )
        self.factor = torch.nn.Parameter(torch.tensor(factor))
        self.features = features
        self.freeze()

    def extract(self, images: Tensor) -> Output:
        return Output(None, self.features(images) * self.factor)


@pytest.fixture(scope="session")
def patch_colours() -> type[PatchColours]:
    """A model of colours, for images of any size or of 32 pixels."""
    return PatchColours


class CocoFiles:
    """A COCO folder with a split val2017 of plain pictures and one class."""

    SIZES: ClassVar = {1: (40, 30), 2: (40, 30), 3: (40, 30), 4: (40, 30)}
    """Image id -> width and height."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(
        self,
        annotations: Sequence[Mapping[str, Any]],
        sizes: Mapping[int, tuple[int, int]] = SIZES,
    ) -> Path:
        (self.root / "annotations").mkdir(parents=True, exist_ok=True)
        (self.root / "val2017").mkdir(exist_ok=True)
        images = []
        for index, (width, height) in sizes.items():
            Image.new("RGB", (width, height), (9 * index, 99, 0)).save(
                self.root / f"val2017/{index}.png"
            )
            name = f"{index}.png"
            images.append({"id": index, "file_name": name, "width": width, "height": height})
        content = {
            "images": images,
            "annotations": list(annotations),
            "categories": [{"id": 1, "name": "thing"}],
        }
        (self.root / "annotations/instances_val2017.json").write_text(json.dumps(content))
        return self.root

    @staticmethod
    def annotation(number: int, image: int, **changes: object) -> dict[str, Any]:
        """A rectangle on an image."""
        return {
            "id": number,
            "image_id": image,
            "category_id": 1,
            "bbox": [5, 5, 15, 10],
            "area": 150,
            "iscrowd": 0,
            "segmentation": [[5, 5, 20, 5, 20, 15, 5, 15]],
            **changes,
        }


@pytest.fixture
def coco_files(tmp_path: Path) -> CocoFiles:
    """Writes a small COCO folder."""
    return CocoFiles(tmp_path / "coco")


@pytest.fixture(scope="session")
def tiny_sam() -> Any:
    """A Sam of random weights that sees 128 pixels."""
    pytest.importorskip("segment_anything", reason="needs the extra 'sam'")
    torch.manual_seed(0)
    config = SamConfig(
        image_size=128,
        patch_size=8,
        embed_dim=16,
        depth=1,
        num_heads=2,
        window_size=8,
        global_blocks=(0,),
        neck_dim=16,
        decoder_heads=2,
        decoder_mlp_dim=16,
    )
    return build_sam(config).eval()


@pytest.fixture(scope="session")
def toy_coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scenes of the toy world in COCO's layout."""
    out = tmp_path_factory.mktemp("toy")
    export(out, 1, 4, parts=("coco",))
    return out / "coco"
