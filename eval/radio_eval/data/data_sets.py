"""The data sets of the evaluations: which files they have, and where these come from."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from radio_core.data.images import printable


@dataclass(frozen=True, kw_only=True)
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
        name: as users call it.
        task: the command that reads it.
        page: official page.
        parts: its files.
        alternatives: other parts that do as well; a complete alternative is enough.
        note: what to know about it.
    """

    name: str
    task: str
    page: str
    parts: tuple[Part, ...]
    alternatives: tuple[tuple[Part, ...], ...] = ()
    note: str = ""


_IMAGENET_PAGE = "https://image-net.org/download.php"
_VAL_FOLDERS = (
    f"ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz from {_IMAGENET_PAGE}; its images "
    "come without folders: torchvision.datasets.ImageNet(ROOT, 'val') sorts them into val/<class>/ "
    "when it finds both files in ROOT"
)
_COCO_PAGE = "https://cocodataset.org/#download"
_LLAVA_EVAL = (
    "eval.zip of LLaVA, linked at https://github.com/haotian-liu/LLaVA/blob/main/docs/Evaluation.md"
)
_TOY = "radio toyworld export --out DIR"


def _splits(first: str, second: str) -> tuple[str, ...]:
    """A pattern below the folder itself, and below ImageNet's own folders."""
    folders = ("", "ILSVRC/Data/CLS-LOC/", "Data/CLS-LOC/")
    return tuple(f"{folder}{first}/{second}" for folder in folders)


def _ade_parts() -> tuple[Part, ...]:
    source = "ADEChallengeData2016.zip from http://sceneparsing.csail.mit.edu/"
    names = Part(what="class names", patterns=("objectInfo150.txt", "classes.json"), source=source)
    files = (
        Part(what=f"{split} {kind}", patterns=(f"{kind}/{split}/*.{e}",), source=source, count=n)
        for split, n in (("training", 20_210), ("validation", 2_000))
        for kind, e in (("images", "jpg"), ("annotations", "png"))
    )
    return (*files, names)


def _vqa(name: str, page: str, questions: str, images: tuple[str, str], *labels: Part) -> DataSet:
    """A VQA task as LLaVA's playground/data/eval has it."""
    pattern, source = images
    return DataSet(
        name=name,
        task=f"radio eval vqa --task {name}",
        page=page,
        parts=(
            Part(what="questions", patterns=(f"{name}/{questions}",), source=_LLAVA_EVAL),
            Part(what="images", patterns=(f"{name}/{pattern}",), source=source),
            *labels,
        ),
        note="--data is the folder that LLaVA calls playground/data/eval",
    )


DATA_SETS: dict[str, DataSet] = {
    data_set.name: data_set
    for data_set in (
        DataSet(
            name="imagenet",
            task="radio eval knn, radio eval zero-shot",
            page=_IMAGENET_PAGE,
            parts=(
                Part(
                    what="train class folders (zero-shot needs none)",
                    patterns=_splits("train", "n*/"),
                    source=f"ILSVRC2012_img_train.tar from {_IMAGENET_PAGE}, one tar a class in it",
                    count=1000,
                ),
                Part(
                    what="train images",
                    patterns=_splits("train", "n*/*.JPEG"),
                    source=f"ILSVRC2012_img_train.tar from {_IMAGENET_PAGE}",
                    count=1_281_167,
                ),
                Part(
                    what="validation class folders",
                    patterns=_splits("val", "n*/"),
                    source=_VAL_FOLDERS,
                    count=1000,
                ),
                Part(
                    what="validation images",
                    patterns=_splits("val", "n*/*.JPEG"),
                    source=_VAL_FOLDERS,
                    count=50_000,
                ),
            ),
            alternatives=(
                (
                    Part(
                        what="train shards (WebDataset)",
                        patterns=("*train*.tar", "train/*.tar"),
                        source="https://huggingface.co/datasets/timm/imagenet-1k-wds",
                    ),
                    Part(
                        what="validation shards (WebDataset)",
                        patterns=("*val*.tar", "val/*.tar"),
                        source="https://huggingface.co/datasets/timm/imagenet-1k-wds",
                    ),
                ),
            ),
            note="terms of use: non-commercial research; an account is needed",
        ),
        DataSet(
            name="ade20k",
            task="radio eval linear-seg",
            page="https://groups.csail.mit.edu/vision/datasets/ADE20K/",
            parts=_ade_parts(),
        ),
        DataSet(
            name="voc2012",
            task="radio eval linear-seg",
            page="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
            parts=tuple(
                Part(
                    what=what,
                    patterns=tuple(f"{root}{p}" for root in ("", "VOC2012/", "VOCdevkit/VOC2012/")),
                    source="VOCtrainval_11-May-2012.tar from "
                    "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
                    count=count,
                )
                for what, p, count in (
                    ("images", "JPEGImages/*.jpg", 17_125),
                    ("label maps", "SegmentationClass/*.png", 2_913),
                    ("train list", "ImageSets/Segmentation/train.txt", None),
                    ("val list", "ImageSets/Segmentation/val.txt", None),
                )
            ),
        ),
        DataSet(
            name="coco",
            task="radio eval sam-coco",
            page=_COCO_PAGE,
            parts=(
                Part(
                    what="validation images",
                    patterns=("val2017/*.jpg",),
                    source="http://images.cocodataset.org/zips/val2017.zip",
                    count=5_000,
                ),
                Part(
                    what="instance annotations",
                    patterns=("annotations/instances_val2017.json",),
                    source="http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
                ),
                Part(
                    what="train images",
                    patterns=("train2017/*.jpg",),
                    source="http://images.cocodataset.org/zips/train2017.zip",
                    count=118_287,
                    needed=False,
                ),
            ),
        ),
        _vqa(
            "gqa",
            "https://cs.stanford.edu/people/dorarad/gqa/download.html",
            "llava_gqa_testdev_balanced.jsonl",
            (
                "data/images/*.jpg",
                "images.zip from https://cs.stanford.edu/people/dorarad/gqa/download.html",
            ),
            Part(
                what="right answers",
                patterns=(
                    "gqa/data/testdev_balanced_questions.json",
                    "gqa/data/questions*/testdev_balanced_questions.json",
                ),
                source="questions1.2.zip from "
                "https://cs.stanford.edu/people/dorarad/gqa/download.html",
            ),
        ),
        _vqa(
            "textvqa",
            "https://textvqa.org/dataset/",
            "llava_textvqa_val_v051_ocr.jsonl",
            ("train_images/*.jpg", "train_val_images.zip from https://textvqa.org/dataset/"),
            Part(
                what="right answers",
                patterns=("textvqa/TextVQA_0.5.1_val.json",),
                source="TextVQA_0.5.1_val.json from https://textvqa.org/dataset/",
            ),
        ),
        _vqa(
            "pope",
            "https://github.com/AoiDragon/POPE",
            "llava_pope_test.jsonl",
            ("val2014/*.jpg", "http://images.cocodataset.org/zips/val2014.zip"),
            Part(
                what="right answers",
                patterns=("pope/coco/coco_pope_*.json", "pope/coco_pope_*.json"),
                source="output/coco of https://github.com/AoiDragon/POPE",
                count=3,
            ),
        ),
        _vqa(
            "vqav2",
            "https://visualqa.org/download.html",
            "llava_vqav2_mscoco_test-dev2015.jsonl",
            ("test2015/*.jpg", "http://images.cocodataset.org/zips/test2015.zip"),
        ),
        _vqa(
            "scienceqa",
            "https://scienceqa.github.io/",
            "llava_test_CQM-A.json",
            ("images/test/*/image.png", "test.zip, linked at https://scienceqa.github.io/"),
            *(
                Part(
                    what="right answers",
                    patterns=(f"scienceqa/{name}",),
                    source=f"data/scienceqa/{name} of https://github.com/lupantech/ScienceQA",
                )
                for name in ("problems.json", "pid_splits.json")
            ),
        ),
        DataSet(
            name="toy",
            task="all; --data DIR/classification, DIR/segmentation, DIR/coco, DIR/vqa",
            page=f"no page: `{_TOY}` makes it",
            parts=tuple(
                Part(what=what, patterns=(pattern,), source=_TOY)
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
    )
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found of a part.

    Attributes:
        part: what was looked for.
        found: number of files.
    """

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
    for parts in data_set.alternatives:
        findings = list(_findings(parts, folder))
        if not any(finding.is_missing for finding in findings):
            return findings
    return list(_findings(data_set.parts, folder))


def _findings(parts: tuple[Part, ...], folder: Path) -> Iterator[Finding]:
    for part in parts:
        counts = (_count(folder, pattern, part.count) for pattern in part.patterns)
        yield Finding(part=part, found=next((count for count in counts if count), 0))


def _count(folder: Path, pattern: str, most: int | None) -> int:
    """How many files fit, at most one more than is expected."""
    folders_only = pattern.endswith("/")
    paths = folder.glob(pattern.rstrip("/"))
    fitting = (path for path in paths if not folders_only or path.is_dir())
    return sum(1 for _ in (fitting if most is None else islice(fitting, most + 1)))
