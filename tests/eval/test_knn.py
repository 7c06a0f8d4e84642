"""kNN beyond the reference cases."""

import numpy as np
import pytest
import torch
from PIL import Image

from radio_core.data.images import UnreadableImage
from radio_eval.contract import run_evaluator
from radio_eval.data import LabelledImages
from radio_eval.eval_model import EvalModel
from radio_eval.knn import KnnEvaluator, KnnParameters, knn_votes
from radio_eval.summaries.extract import Extraction


class Pictures:
    """Images of one colour each; None stands for a file that cannot be read."""

    def __init__(self, colours: list[tuple[int, int, int] | None]) -> None:
        self.colours = colours

    def __len__(self) -> int:
        return len(self.colours)

    def read(self, index: int) -> Image.Image:
        colour = self.colours[index]
        if colour is None:
            raise UnreadableImage(str(index), "broken")
        return Image.new("RGB", (20 + index % 2 * 8, 20), colour)


def colour_model(**changes: object) -> EvalModel:
    return EvalModel(
        **{
            "name": "mean colour",
            "image_size": 16,
            "resize_step": 8,
            "summary": lambda images: images.mean(dim=(2, 3)),
            **changes,
        }
    )


def labelled(colours: list[tuple[int, int, int] | None], labels: list[int]) -> LabelledImages:
    return LabelledImages(
        images=Pictures(colours), labels=torch.tensor(labels), class_names=("red", "green", "blue")
    )


def test_evaluator_skips_unreadable_images_and_keeps_labels_in_step() -> None:
    red, green, blue = (250, 10, 5), (10, 250, 5), (5, 10, 250)
    train = labelled([red, None, green, blue, red], [0, 1, 1, 2, 0])
    val = labelled([green, None, blue, red, red], [1, 2, 2, 0, 1])
    evaluator = KnnEvaluator(
        train=train,
        val=val,
        parameters=KnnParameters(k=2),
        extraction=Extraction(batch_size=2),
    )
    result = run_evaluator(evaluator, colour_model())
    assert result.value == 75.0
    assert (result.metrics["train_images"], result.metrics["val_images"]) == (4, 4)
    assert result.parameters["temperature"] == 0.07


def test_a_model_without_summaries_is_refused() -> None:
    evaluator = KnnEvaluator(train=labelled([(0, 0, 0)], [0]), val=labelled([(0, 0, 0)], [0]))
    with pytest.raises(ValueError, match="'mean colour' cannot be evaluated on knn"):
        run_evaluator(evaluator, colour_model(summary=None))


def test_labels_outside_the_classes_are_refused() -> None:
    features = torch.from_numpy(np.eye(3, dtype=np.float32))
    with pytest.raises(ValueError, match=r"\[0, 2\)"):
        knn_votes(
            features,
            torch.tensor([0, 1, 2]),
            features,
            num_classes=2,
            parameters=KnnParameters(),
        )


def test_unreadable_validation_set_is_an_error() -> None:
    evaluator = KnnEvaluator(train=labelled([(1, 2, 3)], [0]), val=labelled([None], [0]))
    with pytest.raises(ValueError, match="none of the images"):
        run_evaluator(evaluator, colour_model())
