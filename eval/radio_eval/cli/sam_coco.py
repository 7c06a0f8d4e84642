"""The task `radio eval sam-coco`: Segment Anything on COCO, with RADIO inside or as it is."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from radio_core.cli import UsageError
from radio_core.devices import choose_device
from radio_core.models.fingerprint import files_fingerprint, weights_fingerprint
from radio_eval.cli.eval_options import EvalOptions, own_device
from radio_eval.coco.ap import read_detections
from radio_eval.coco.instances import CocoInstances
from radio_eval.contract import run_evaluator
from radio_eval.eval_model import EvalModel, need
from radio_eval.models import load_sam_model
from radio_eval.processes import Processes
from radio_eval.progress import Progress
from radio_eval.report.sam import sam_sections
from radio_eval.report.sections import Show
from radio_eval.sam.miou import SamEvaluator, SamParameters
from radio_eval.sam.results import ResultFolder
from radio_sam.swap import read_image_size

Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@dataclass(frozen=True, kw_only=True)
class SamCocoOptions(EvalOptions):
    """SAM's mIoU with ground-truth boxes, and AP with those of a detector, on COCO.

    Start it with torchrun to share the work among processes; the result is the same.
    """

    model: str
    """Image encoder: a RADIO release, a file or folder with a model, or "sam" for the SAM's own."""
    data: Annotated[Path, tyro.conf.arg(aliases=("--coco",))]
    """Folder with val2017/, train2017/ and annotations/instances_*.json."""
    sam_checkpoint: str = "toy-sam"
    """SAM that gives neck and mask decoder: "toy-sam", an official checkpoint ("vit_h:FILE.pth",
    or the file alone), or a folder with sam_config.json."""
    split: str = "val2017"
    """Folder of the images and end of the annotation file's name."""
    limit: int | None = None
    """Only the first images; all by default."""
    image_size: str = ""
    """Pixels that the encoder sees: "1024" for a square of that side, "768x1024" for height x
    width; the SAM's own if empty."""
    window_size: int | None = None
    """Side in patches of the encoder's attention windows; the model's own if None, 0 for global
    attention."""
    skip_padding: Switch = False
    """Do not compute the padding of images that are not square."""
    batch_size: int = 8
    """Images encoded at once."""
    prompts_per_batch: int = 32
    """Boxes decoded at once."""
    device: str = "auto"
    """Where the model runs, such as "cuda:1"; "auto" takes a GPU where there is one."""
    detections: Path | None = None
    """A detector's boxes, a JSON list of {"image_id", "category_id", "bbox", "score"}: their masks
    give COCO's AP."""
    out: Path | None = None
    """Folder for the results of every image, annotations.json and detections.json. A run that was
    interrupted goes on where it stopped when it is started again."""
    save_masks: Switch = False
    """Put every mask into annotations.json."""
    overwrite: Switch = False
    """Begin anew where --out holds results."""

    def __post_init__(self) -> None:
        if self.out is None and (self.save_masks or self.overwrite):
            raise UsageError("--save-masks and --overwrite need --out DIR")

    def evaluator(self) -> SamEvaluator:
        """Read the annotations, and the detector's boxes."""
        coco = CocoInstances(self.data, self.split, self.limit)
        parameters = SamParameters(
            images_per_batch=self.batch_size,
            prompts_per_batch=self.prompts_per_batch,
            keep_masks=self.save_masks,
        )
        if self.detections is None:
            return SamEvaluator(coco=coco, parameters=parameters)
        detections, skipped = read_detections(self.detections, coco)
        return SamEvaluator(
            coco=coco, parameters=parameters, detections=detections, skipped_detections=skipped
        )

    def load_model(self) -> EvalModel:
        """Load the model, with the chosen SAM behind it."""
        return self._load(choose_device(self.device, self.model))

    def run(
        self, progress: Progress, processes: Processes, show: Show | None = None
    ) -> dict[str, Any]:
        """Evaluate on this process's share, and return the result of all of them."""
        evaluator = self.evaluator()
        model = self._load(own_device(self.device, processes, self.model))
        evaluator = dataclasses.replace(
            evaluator, processes=processes, results=self._results(model, evaluator, processes)
        )
        result = run_evaluator(evaluator, model, progress).to_json()
        if show is not None:
            sam = need(model.sam, model, "Segment Anything decoder", evaluator.task)()
            show(sam_sections(evaluator, sam, result["metrics"]))
        return {
            **result,
            "data": self._data(evaluator),
            "encoder": {"sam_checkpoint": self.sam_checkpoint, **self._encoder()},
            "skipped": evaluator.skipped(),
            "processes": processes.count,
        }

    def _load(self, device: torch.device) -> EvalModel:
        return load_sam_model(
            self.model,
            self.sam_checkpoint,
            window_size=self.window_size,
            image_size=read_image_size(self.image_size),
            skip_padding=self.skip_padding,
            device=device,
        )

    def _encoder(self) -> dict[str, Any]:
        return {
            "image_size": read_image_size(self.image_size),
            "window_size": self.window_size,
            "skip_padding": self.skip_padding,
        }

    def _data(self, evaluator: SamEvaluator) -> dict[str, Any]:
        return {
            "split": self.split,
            "limit": self.limit,
            "annotations": evaluator.coco.fingerprint,
            "detections": None if self.detections is None else files_fingerprint(self.detections),
        }

    def _results(
        self, model: EvalModel, evaluator: SamEvaluator, processes: Processes
    ) -> ResultFolder | None:
        """The folder of results, if one is wanted; sizes of batches may change between runs."""
        if self.out is None:
            return None
        sam = need(model.sam, model, "Segment Anything decoder", "sam-coco")()
        identity = {
            "model": model.name,
            "weights": weights_fingerprint(sam) + model.weights,
            **self._encoder(),
            "prompt": evaluator.parameters.prompt,
            "mask": evaluator.parameters.mask,
            "keep_masks": self.save_masks,
            **self._data(evaluator),
        }
        if self.overwrite and processes.is_first:
            ResultFolder.clear(self.out)
        processes.wait()
        return ResultFolder(self.out, identity)
