"""The evaluators against numbers that the field's own evaluators computed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from radio_eval.scores.knn import knn_votes
from radio_eval.scores.masks import mask_iou, mean_iou
from radio_eval.scores.segmentation import ConfusionMatrix
from radio_eval.scores.zero_shot import zero_shot_classifier, zero_shot_logits
from radio_sam.prompts import PredictedMasks, best_masks


def cases(shared: Path, name: str) -> list[dict[str, Any]]:
    path = shared / "reference" / "eval_cases" / f"{name}.json"
    return list(json.loads(path.read_text())["cases"])


@pytest.mark.parametrize("chunks", [(1, 1), (3, 2), (1024, 65536)])
def test_knn(shared: Path, chunks: tuple[int, int]) -> None:
    for case in cases(shared, "knn"):
        given, expected = case["input"], case["expected"]
        votes = knn_votes(
            torch.tensor(given["train_features"]),
            torch.tensor(given["train_labels"]),
            torch.tensor(given["val_features"]),
            num_classes=given["num_classes"],
            k=given["k"],
            temperature=given["temperature"],
            query_chunk=chunks[0],
            train_chunk=chunks[1],
        )
        assert votes.argmax(dim=1).tolist() == expected["radio_pred"], case["name"]
        np.testing.assert_allclose(votes, expected["dinov2_probas"], atol=1e-4)


@pytest.mark.parametrize("classes_per_batch", [1, 2, 10])
def test_zero_shot(shared: Path, classes_per_batch: int) -> None:
    for case in cases(shared, "zero_shot"):
        given, expected = case["input"], case["expected"]
        asked: list[str] = []

        def encode(texts: Any, table: Any = given, seen: list[str] = asked) -> torch.Tensor:
            seen.extend(texts)
            return torch.tensor([table["raw_text_embeddings"][text] for text in texts])

        classifier = zero_shot_classifier(
            encode, given["classnames"], given["templates"], classes_per_batch
        )
        logits = zero_shot_logits(torch.tensor(given["image_embeddings"]), classifier)
        assert asked == expected["text_order"]
        np.testing.assert_allclose(classifier, expected["classifier_DxC"], atol=1e-5)
        np.testing.assert_allclose(logits, expected["logits"], atol=1e-5)
        assert logits.argmax(dim=1).tolist() == expected["pred"]


def test_segmentation_scores(shared: Path) -> None:
    for case in cases(shared, "seg_miou"):
        given, expected = case["input"], case["expected"]
        confusion = ConfusionMatrix(given["num_classes"], given["ignore_index"])
        for prediction, label in zip(given["preds"], given["labels"], strict=True):
            confusion.update(torch.tensor(prediction), torch.tensor(label))
        scores = confusion.scores()
        assert scores.miou == pytest.approx(expected["mIoU"], abs=1e-4), case["name"]
        assert scores.pixel_accuracy == pytest.approx(expected["aAcc"], abs=1e-4)
        assert scores.class_accuracy == pytest.approx(expected["mAcc"], abs=1e-4)
        assert list(scores.iou_per_class) == pytest.approx(expected["IoU_per_class"], abs=1e-4)


def test_sam_scores(shared: Path) -> None:
    for case in cases(shared, "sam_miou"):
        given, expected, name = case["input"], case["expected"], case["name"]
        if "gt" in given:
            iou = mask_iou(np.array(given["pred"]), np.array(given["gt"]))
            assert iou == pytest.approx(expected["paper_version"], abs=1e-9), name
        elif "results" in given:
            summary = mean_iou([(row["area"], row["iou"]) for row in given["results"]])
            if isinstance(expected, dict):
                assert {n: summary[n] for n in expected["paper_version"]} == pytest.approx(
                    expected["paper_version"]
                )
                assert summary["count"] == len(given["results"])
            else:  # the reference divides by zero in an empty bin
                assert summary["large"] is None
                assert summary["all"] == given["results"][0]["iou"]
        elif "predicted_iou" in given:
            ious = torch.tensor([given["predicted_iou"]])
            masks = torch.eye(ious.shape[1], dtype=torch.bool)[None, :, None]  # [1, M, 1, M]
            best = best_masks(PredictedMasks(masks, ious, torch.zeros(0)))
            assert best.flatten().nonzero().item() == expected["selected_index"]
        else:
            empty = np.zeros((4, 4), dtype=bool)
            assert mask_iou(empty, empty) == expected["current_version"]
