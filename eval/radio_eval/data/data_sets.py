"""The data sets of the evaluations: which files they have, and where these come from."""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from radio_core.data.images import printable


@dataclass(frozen=True)
class Part:
    """Some files of a data set.

    Attributes:
        what: for people.
        patterns: of the files below the data set's folder; those of the first that fits count.
        source: where they come from.
        count: files (or folders) that a complete data set has; None if that does not matter.
        needed: an evaluation cannot do without it.
    """

    what: str
    patterns: tuple[str, ...]
    source: str
    count: int | None = None
    needed: bool = True


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set that evaluations read.

    Attributes:
        task: the command that reads it.
        page: official page.
        parts: its files.
        alternatives: other parts that do as well; a complete alternative is enough.
        note: what to know about it.
    """

    task: str
    page: str
    parts: tuple[Part, ...]
    alternatives: tuple[tuple[Part, ...], ...] = ()
    note: str = ""


_IMAGENET = "https://image-net.org/download.php"
_IMAGENET_TRAIN = f"ILSVRC2012_img_train.tar from {_IMAGENET}"
_IMAGENET_VAL = (
    f"ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz from {_IMAGENET}; its images "
    "come without folders: torchvision.datasets.ImageNet(ROOT, 'val') sorts them into val/<class>/ "
    "when it finds both files in ROOT"
)
_IMAGENET_SHARDS = "https://huggingface.co/datasets/timm/imagenet-1k-wds"
_ADE = "ADEChallengeData2016.zip from http://sceneparsing.csail.mit.edu/"
_VOC = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/"
_COCO = "http://images.cocodataset.org"
_GQA = "https://cs.stanford.edu/people/dorarad/gqa/download.html"
_TEXTVQA = "https://textvqa.org/dataset/"
_SCIENCEQA = "https://github.com/lupantech/ScienceQA"
_LLAVA_EVAL = (
    "eval.zip of LLaVA, linked at https://github.com/haotian-liu/LLaVA/blob/main/docs/Evaluation.md"
)
_TOY = "radio toyworld export --out DIR"


def _in_imagenet(pattern: str) -> tuple[str, ...]:
    """A pattern below the folder itself, and below ImageNet's own folders."""
    return tuple(f"{folder}{pattern}" for folder in ("", "ILSVRC/Data/CLS-LOC/", "Data/CLS-LOC/"))


def _in_voc(pattern: str) -> tuple[str, ...]:
    return tuple(f"{folder}{pattern}" for folder in ("", "VOC2012/", "VOCdevkit/VOC2012/"))


def _vqa(name: str, page: str, questions: str, images: str, source: str, *labels: Part) -> DataSet:
    """A VQA task as LLaVA's playground/data/eval has it."""
    return DataSet(
        task=f"radio eval vqa --task {name}",
        page=page,
        parts=(
            Part("questions", (f"{name}/{questions}",), _LLAVA_EVAL),
            Part("images", (f"{name}/{images}",), source),
            *labels,
        ),
        note="--data is the folder that LLaVA calls playground/data/eval",
    )


DATA_SETS: dict[str, DataSet] = {
    "imagenet": DataSet(
        task="radio eval knn, radio eval zero-shot",
        page=_IMAGENET,
        parts=(
            Part(
                "train class folders (zero-shot needs none)",
                _in_imagenet("train/n*/"),
                f"{_IMAGENET_TRAIN}, one tar a class in it",
                1000,
            ),
            Part("train images", _in_imagenet("train/n*/*.JPEG"), _IMAGENET_TRAIN, 1_281_167),
            Part("validation class folders", _in_imagenet("val/n*/"), _IMAGENET_VAL, 1000),
            Part("validation images", _in_imagenet("val/n*/*.JPEG"), _IMAGENET_VAL, 50_000),
        ),
        alternatives=(
            (
                Part("train shards (WebDataset)", ("*train*.tar", "train/*.tar"), _IMAGENET_SHARDS),
                Part(
                    "validation shards (WebDataset)", ("*val*.tar", "val/*.tar"), _IMAGENET_SHARDS
                ),
            ),
        ),
        note="terms of use: non-commercial research; an account is needed",
    ),
    "ade20k": DataSet(
        task="radio eval linear-seg",
        page="https://groups.csail.mit.edu/vision/datasets/ADE20K/",
        parts=(
            Part("training images", ("images/training/*.jpg",), _ADE, 20_210),
            Part("training annotations", ("annotations/training/*.png",), _ADE, 20_210),
            Part("validation images", ("images/validation/*.jpg",), _ADE, 2_000),
            Part("validation annotations", ("annotations/validation/*.png",), _ADE, 2_000),
            Part("class names", ("objectInfo150.txt", "classes.json"), _ADE),
        ),
    ),
    "voc2012": DataSet(
        task="radio eval linear-seg",
        page=_VOC,
        parts=tuple(
            Part(what, _in_voc(pattern), f"VOCtrainval_11-May-2012.tar from {_VOC}", count)
            for what, pattern, count in (
                ("images", "JPEGImages/*.jpg", 17_125),
                ("label maps", "SegmentationClass/*.png", 2_913),
                ("train list", "ImageSets/Segmentation/train.txt", None),
                ("val list", "ImageSets/Segmentation/val.txt", None),
            )
        ),
    ),
    "coco": DataSet(
        task="radio eval sam-coco",
        page="https://cocodataset.org/#download",
        parts=(
            Part("validation images", ("val2017/*.jpg",), f"{_COCO}/zips/val2017.zip", 5_000),
            Part(
                "instance annotations",
                ("annotations/instances_val2017.json",),
                f"{_COCO}/annotations/annotations_trainval2017.zip",
            ),
            Part(
                "train images", ("train2017/*.jpg",), f"{_COCO}/zips/train2017.zip", 118_287, False
            ),
        ),
    ),
    "gqa": _vqa(
        "gqa",
        _GQA,
        "llava_gqa_testdev_balanced.jsonl",
        "data/images/*.jpg",
        f"images.zip from {_GQA}",
        Part(
            "right answers",
            (
                "gqa/data/testdev_balanced_questions.json",
                "gqa/data/questions*/testdev_balanced_questions.json",
            ),
            f"questions1.2.zip from {_GQA}",
        ),
    ),
    "textvqa": _vqa(
        "textvqa",
        _TEXTVQA,
        "llava_textvqa_val_v051_ocr.jsonl",
        "train_images/*.jpg",
        f"train_val_images.zip from {_TEXTVQA}",
        Part(
            "right answers",
            ("textvqa/TextVQA_0.5.1_val.json",),
            f"TextVQA_0.5.1_val.json from {_TEXTVQA}",
        ),
    ),
    "pope": _vqa(
        "pope",
        "https://github.com/AoiDragon/POPE",
        "llava_pope_test.jsonl",
        "val2014/*.jpg",
        f"{_COCO}/zips/val2014.zip",
        Part(
            "right answers",
            ("pope/coco/coco_pope_*.json", "pope/coco_pope_*.json"),
            "output/coco of https://github.com/AoiDragon/POPE",
            3,
        ),
    ),
    "vqav2": _vqa(
        "vqav2",
        "https://visualqa.org/download.html",
        "llava_vqav2_mscoco_test-dev2015.jsonl",
        "test2015/*.jpg",
        f"{_COCO}/zips/test2015.zip",
    ),
    "scienceqa": _vqa(
        "scienceqa",
        "https://scienceqa.github.io/",
        "llava_test_CQM-A.json",
        "images/test/*/image.png",
        "test.zip, linked at https://scienceqa.github.io/",
        *(
            Part("right answers", (f"scienceqa/{name}",), f"data/scienceqa/{name} of {_SCIENCEQA}")
            for name in ("problems.json", "pid_splits.json")
        ),
    ),
    "toy": DataSet(
        task="all; --data DIR/classification, DIR/segmentation, DIR/coco, DIR/vqa",
        page=f"no page: `{_TOY}` makes it",
        parts=tuple(
            Part(what, (pattern,), _TOY)
            for what, pattern in (
                ("train images of classes", "classification/train/*/*"),
                ("validation images of classes", "classification/val/*/*"),
                ("class names", "classification/classnames.json"),
                ("segmentation images", "segmentation/images/validation/*"),
                ("segmentation label maps", "segmentation/annotations/validation/*.png"),
                ("COCO images", "coco/val2017/*"),
                ("COCO annotations", "coco/annotations/instances_val2017.json"),
                ("questions", "vqa/*/llava_*"),
            )
        ),
    ),
}


class Finding(NamedTuple):
    """What was found of a part: a number of files."""

    part: Part
    found: int

    @property
    def is_complete(self) -> bool:
        """Whether all of it is there."""
        return self.found >= (self.part.count or 1)

    @property
    def is_missing(self) -> bool:
        """Whether nothing of it is there although an evaluation needs it."""
        return self.part.needed and self.found == 0


def check_data_set(data_set: DataSet, folder: Path) -> list[Finding]:
    """Look for the files of a data set; nothing is read, downloaded or written.

    Args:
        data_set: one of `DATA_SETS`.
        folder: where it should be.

    Returns:
        What was found of each part; of an alternative, if nothing of one of its parts is missing.

    Raises:
        ValueError: no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"no folder {printable(folder)}")
    for parts in (*data_set.alternatives, data_set.parts):
        findings = []
        for part in parts:
            counts = (_count(folder, pattern, part.count) for pattern in part.patterns)
            findings.append(Finding(part, next(filter(None, counts), 0)))
        if not any(finding.is_missing for finding in findings):
            break
    return findings


def _count(folder: Path, pattern: str, most: int | None) -> int:
    """How many files fit, at most one more than is expected."""
    folders_only = pattern.endswith("/")
    paths = folder.glob(pattern.rstrip("/"))
    fitting = (path for path in paths if not folders_only or path.is_dir())
    return sum(1 for _ in (fitting if most is None else islice(fitting, most + 1)))
