"""The layouts of the export: one writer a part, fed scene by scene."""

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from radio_core.data.toyworld import export_vqa_formats as formats
from radio_core.data.toyworld.export_questions import absent_names, ask, present_names
from radio_core.data.toyworld.scenes import (
    CLASS_NAMES,
    SCENE_SIZE,
    SEMANTIC_NAMES,
    TEMPLATES,
    Scene,
)

Json = dict[str, Any]

SPLITS = ("train", "val")
_ADE_SPLITS = {"train": "training", "val": "validation"}
_QUESTION_STREAM = 1  # keeps the questions' random numbers apart from the scene's own


class PartWriter(Protocol):
    """Writes one part of the export below its folder."""

    def add(self, split: str, index: int, scene: Scene, png: bytes) -> None:
        """Take one scene of `split` ("train" or "val"); `png` is its encoded image."""
        ...

    def close(self) -> None:
        """Write what can only be written once all scenes are known."""
        ...


def file_name(index: int) -> str:
    """Name of a scene's files, the same in every part: twelve digits, as in COCO."""
    return f"{index:012d}.png"


def slug(name: str) -> str:
    """Class name -> folder name, e.g. "red circle" -> "red_circle"."""
    return name.replace(" ", "_")


def rle_counts(mask: NDArray[np.bool_]) -> list[int]:
    """Mask [H, W] -> COCO's uncompressed run lengths: column by column, zeros first."""
    flat = mask.flatten(order="F")
    borders = np.flatnonzero(np.diff(flat)) + 1
    runs = [int(run) for run in np.diff(np.concatenate(([0], borders, [flat.size])))]
    return [0, *runs] if flat[0] else runs


class ClassificationWriter:
    """ImageFolder: {train,val}/<slug>/<index>.png, classnames.json {slug: name}, templates.json.

    A class without a scene has no folder.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder

    def add(self, split: str, index: int, scene: Scene, png: bytes) -> None:
        """File the scene under the class of its main object."""
        _write(self._folder / split / slug(CLASS_NAMES[scene.label]) / file_name(index), png)

    def close(self) -> None:
        """Write the names and the prompt templates."""
        _write_json(self._folder / "classnames.json", {slug(name): name for name in CLASS_NAMES})
        _write_json(self._folder / "templates.json", list(TEMPLATES))


class SegmentationWriter:
    """ADE20K: {images,annotations}/{training,validation}/<index>.png and classes.json.

    Annotations are 8-bit: 0 unlabelled (does not occur), k + 1 for class k of SEMANTIC_NAMES.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder

    def add(self, split: str, index: int, scene: Scene, png: bytes) -> None:
        """Write the image and its map."""
        place = _ADE_SPLITS[split]
        _write(self._folder / "images" / place / file_name(index), png)
        annotation = self._folder / "annotations" / place / file_name(index)
        annotation.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.semantic + 1).save(annotation, compress_level=1)

    def close(self) -> None:
        """Write the class names, a list in the order of the labels 1, 2, ..."""
        _write_json(self._folder / "classes.json", list(SEMANTIC_NAMES))


class CocoWriter:
    """COCO: {train,val}2017/<id>.png, annotations/{instances,captions}_{train,val}2017.json.

    Categories are CLASS_NAMES from id 1; masks are uncompressed RLE, the image id is the scene's
    index.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._images: dict[str, list[Json]] = {split: [] for split in SPLITS}
        self._instances: dict[str, list[Json]] = {split: [] for split in SPLITS}
        self._captions: dict[str, list[Json]] = {split: [] for split in SPLITS}

    def add(self, split: str, index: int, scene: Scene, png: bytes) -> None:
        """Write the image, keep its annotations."""
        _write(self._folder / f"{split}2017" / file_name(index), png)
        self._images[split].append(
            {"id": index, "file_name": file_name(index), "width": SCENE_SIZE, "height": SCENE_SIZE}
        )
        captions = self._captions[split]
        captions.append({"id": len(captions) + 1, "image_id": index, "caption": scene.caption})
        for thing in scene.objects:
            self._instances[split].append(
                {
                    "id": len(self._instances[split]) + 1,
                    "image_id": index,
                    "category_id": CLASS_NAMES.index(thing.name) + 1,
                    "bbox": [float(value) for value in thing.bbox],
                    "area": float(thing.mask.sum()),
                    "iscrowd": 0,
                    "segmentation": {
                        "size": [SCENE_SIZE, SCENE_SIZE],
                        "counts": rle_counts(thing.mask),
                    },
                }
            )

    def close(self) -> None:
        """Write the annotation files."""
        categories = [
            {"id": number, "name": name, "supercategory": name.split()[1]}
            for number, name in enumerate(CLASS_NAMES, start=1)
        ]
        for split in SPLITS:
            head: Json = {
                "info": {"description": "toy world"},
                "licenses": [],
                "images": self._images[split],
            }
            instances = {**head, "annotations": self._instances[split], "categories": categories}
            captions = {**head, "annotations": self._captions[split]}
            place = self._folder / "annotations"
            _write_json(place / f"instances_{split}2017.json", instances)
            _write_json(place / f"captions_{split}2017.json", captions)


class VqaWriter:
    """Questions in the formats of LLaVA, GQA, VQAv2, TextVQA, POPE and ScienceQA.

    All refer to images/{train,val}/<index>.png by paths below images/:

        llava/{pretrain,instruct}_{split}.json
        gqa/{split}_balanced_questions.json           gqa/llava_gqa_{split}.jsonl
        vqav2/{split}_{questions,annotations}.json    vqav2/llava_vqav2_{split}.jsonl
        textvqa/TextVQA_0.5.1_{split}.json            textvqa/llava_textvqa_{split}.jsonl
        pope/{split}/coco_pope_{random,popular,adversarial}.json    pope/llava_pope_{split}.jsonl
        scienceqa/{problems,pid_splits}.json          scienceqa/llava_{split}_CQM-A.json
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._seed = seed
        self._records: dict[str, list[formats.SceneRecord]] = {split: [] for split in SPLITS}

    def add(self, split: str, index: int, scene: Scene, png: bytes) -> None:
        """Write the image, keep its questions."""
        image = f"{split}/{file_name(index)}"
        _write(self._folder / "images" / image, png)
        rng = np.random.default_rng((self._seed, index, _QUESTION_STREAM))
        self._records[split].append(
            formats.SceneRecord(
                image_id=index,
                image=image,
                caption=scene.caption,
                text=scene.text,
                present=present_names(scene),
                absent=absent_names(scene),
                questions=ask(scene, rng),
            )
        )

    def close(self) -> None:
        """Write all files of questions."""
        problems: Json = {}
        for number, (split, records) in enumerate(self._records.items()):
            rng = np.random.default_rng((self._seed, number, _QUESTION_STREAM))
            self._write_open_questions(split, records)
            labels, lines = formats.pope(records, rng)
            for kind, label_lines in labels.items():
                path = self._folder / "pope" / split / f"coco_pope_{kind}.json"
                _write_json_lines(path, label_lines)
            _write_json_lines(self._folder / "pope" / f"llava_pope_{split}.jsonl", lines)
            split_problems, entries = formats.scienceqa(records, split, rng)
            problems.update(split_problems)
            _write_json(self._folder / "scienceqa" / f"llava_{split}_CQM-A.json", entries)
        pids = {s: [str(r.image_id) for r in records] for s, records in self._records.items()}
        _write_json(self._folder / "scienceqa" / "problems.json", problems)
        _write_json(self._folder / "scienceqa" / "pid_splits.json", pids)

    def _write_open_questions(self, split: str, records: list[formats.SceneRecord]) -> None:
        """LLaVA, GQA, VQAv2 and TextVQA of one split."""
        place = self._folder
        _write_json(place / f"llava/pretrain_{split}.json", formats.llava_pretrain(records))
        _write_json(place / f"llava/instruct_{split}.json", formats.llava_instruct(records))
        questions, lines = formats.gqa(records)
        _write_json(place / f"gqa/{split}_balanced_questions.json", questions)
        _write_json_lines(place / f"gqa/llava_gqa_{split}.jsonl", lines)
        questions, annotations, lines = formats.vqav2(records, split)
        _write_json(place / f"vqav2/{split}_questions.json", questions)
        _write_json(place / f"vqav2/{split}_annotations.json", annotations)
        _write_json_lines(place / f"vqav2/llava_vqav2_{split}.jsonl", lines)
        annotations, lines = formats.textvqa(records, split)
        _write_json(place / f"textvqa/TextVQA_0.5.1_{split}.json", annotations)
        _write_json_lines(place / f"textvqa/llava_textvqa_{split}.jsonl", lines)


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except FileNotFoundError:  # the first file of its folder
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _write_json(path: Path, content: Json | list[Any]) -> None:
    _write(path, (json.dumps(content) + "\n").encode())


def _write_json_lines(path: Path, lines: list[Json]) -> None:
    _write(path, "".join(json.dumps(line) + "\n" for line in lines).encode())
