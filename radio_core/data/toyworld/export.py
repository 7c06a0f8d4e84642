"""Write the toy world as files in the field's standard formats."""

import io
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from radio_core.data.toyworld import questions
from radio_core.data.toyworld.scenes import (
    CLASS_NAMES,
    SCENE_SIZE,
    SEMANTIC_NAMES,
    TEMPLATES,
    Scene,
    render_scene,
)
from radio_core.progress import Progress, silent

Json = dict[str, Any]

HELD_OUT_START = 1_000_000_000
"""First index of the held-out scenes; teachers and students train on indices below it."""

MANIFEST = "toyworld.json"
SPLITS = ("train", "val")
_QUESTION_STREAM = 1  # keeps the questions' random numbers apart from the scene's own


class _Part:
    """Writes one part of the export below its folder, scene by scene."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed

    def add(self, split: str, index: int, scene: Scene, png: bytes) -> None:
        """Take one scene of `split` ("train" or "val"); `png` is its encoded image."""
        raise NotImplementedError

    def close(self) -> None:
        """Write what can only be written once all scenes are known."""
        raise NotImplementedError

    def write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        try:
            path.write_bytes(content)
        except FileNotFoundError:  # the first file of its folder
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def write_json(self, name: str, content: Json | list[Any]) -> None:
        """A .jsonl file gets a line for each item of the list."""
        parts = content if name.endswith(".jsonl") else [content]
        self.write(name, "".join(json.dumps(part) + "\n" for part in parts).encode())


class _Classification(_Part):
    """ImageFolder: {train,val}/<slug>/<index>.png, classnames.json {slug: name}, templates.json.

    A slug is a class name with "_" for the space; a class without a scene has no folder.
    """

    def add(self, split: str, index: int, scene: Scene, png: bytes) -> None:
        slug = CLASS_NAMES[scene.label].replace(" ", "_")
        self.write(f"{split}/{slug}/{file_name(index)}", png)

    def close(self) -> None:
        self.write_json("classnames.json", {n.replace(" ", "_"): n for n in CLASS_NAMES})
        self.write_json("templates.json", list(TEMPLATES))


class _Segmentation(_Part):
    """ADE20K: {images,annotations}/{training,validation}/<index>.png and classes.json.

    Annotations are 8-bit: 0 unlabelled (does not occur), k + 1 for class k of SEMANTIC_NAMES,
    which classes.json lists in that order.
    """

    def add(self, split: str, index: int, scene: Scene, png: bytes) -> None:
        place = {"train": "training", "val": "validation"}[split]
        self.write(f"images/{place}/{file_name(index)}", png)
        self.write(f"annotations/{place}/{file_name(index)}", _png(scene.semantic + 1))

    def close(self) -> None:
        self.write_json("classes.json", list(SEMANTIC_NAMES))


class _Coco(_Part):
    """COCO: {train,val}2017/<id>.png, annotations/{instances,captions}_{train,val}2017.json.

    Categories are CLASS_NAMES from id 1; masks are uncompressed RLE, the image id is the scene's
    index.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder, seed)
        self.images: dict[str, list[Json]] = {split: [] for split in SPLITS}
        self.instances: dict[str, list[Json]] = {split: [] for split in SPLITS}
        self.captions: dict[str, list[Json]] = {split: [] for split in SPLITS}

    def add(self, split: str, index: int, scene: Scene, png: bytes) -> None:
        self.write(f"{split}2017/{file_name(index)}", png)
        self.images[split].append(
            {"id": index, "file_name": file_name(index), "width": SCENE_SIZE, "height": SCENE_SIZE}
        )
        captions, instances = self.captions[split], self.instances[split]
        captions.append({"id": len(captions) + 1, "image_id": index, "caption": scene.caption})
        for thing in scene.objects:
            size = [SCENE_SIZE, SCENE_SIZE]
            instances.append(
                {
                    "id": len(instances) + 1,
                    "image_id": index,
                    "category_id": CLASS_NAMES.index(thing.name) + 1,
                    "bbox": [float(value) for value in thing.bbox],
                    "area": float(thing.mask.sum()),
                    "iscrowd": 0,
                    "segmentation": {"size": size, "counts": rle_counts(thing.mask)},
                }
            )

    def close(self) -> None:
        categories = [
            {"id": number, "name": name, "supercategory": name.split()[1]}
            for number, name in enumerate(CLASS_NAMES, start=1)
        ]
        for split in SPLITS:
            info = {"description": "toy world"}
            head: Json = {"info": info, "licenses": [], "images": self.images[split]}
            instances = {**head, "annotations": self.instances[split], "categories": categories}
            self.write_json(f"annotations/instances_{split}2017.json", instances)
            captions = {**head, "annotations": self.captions[split]}
            self.write_json(f"annotations/captions_{split}2017.json", captions)


class _Vqa(_Part):
    """Questions in the formats of LLaVA, GQA, VQAv2, TextVQA, POPE and ScienceQA.

    All refer to images/{train,val}/<index>.png by paths below images/:

        llava/{pretrain,instruct}_{split}.json
        gqa/{split}_balanced_questions.json           gqa/llava_gqa_{split}.jsonl
        vqav2/{split}_{questions,annotations}.json    vqav2/llava_vqav2_{split}.jsonl
        textvqa/TextVQA_0.5.1_{split}.json            textvqa/llava_textvqa_{split}.jsonl
        pope/{split}/coco_pope_{random,popular,adversarial}.json    pope/llava_pope_{split}.jsonl
        scienceqa/{problems,pid_splits}.json          scienceqa/llava_{split}_CQM-A.json

    The files of labels of POPE have a line for each question, though they end in .json.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder, seed)
        self.records: dict[str, list[questions.SceneRecord]] = {split: [] for split in SPLITS}

    def add(self, split: str, index: int, scene: Scene, png: bytes) -> None:
        image = f"{split}/{file_name(index)}"
        self.write(f"images/{image}", png)
        rng = np.random.default_rng((self.seed, index, _QUESTION_STREAM))
        self.records[split].append(questions.SceneRecord.of(scene, index, image, rng))

    def close(self) -> None:
        write, problems = self.write_json, Json()
        for number, (split, records) in enumerate(self.records.items()):
            rng = np.random.default_rng((self.seed, number, _QUESTION_STREAM))
            write(f"llava/pretrain_{split}.json", questions.llava_pretrain(records))
            write(f"llava/instruct_{split}.json", questions.llava_instruct(records))
            asked, lines = questions.gqa(records)
            write(f"gqa/{split}_balanced_questions.json", asked)
            write(f"gqa/llava_gqa_{split}.jsonl", lines)
            asked, annotations, lines = questions.vqav2(records, split)
            write(f"vqav2/{split}_questions.json", asked)
            write(f"vqav2/{split}_annotations.json", annotations)
            write(f"vqav2/llava_vqav2_{split}.jsonl", lines)
            annotations, lines = questions.textvqa(records, split)
            write(f"textvqa/TextVQA_0.5.1_{split}.json", annotations)
            write(f"textvqa/llava_textvqa_{split}.jsonl", lines)
            labels, lines = questions.pope(records, rng)
            for kind, label_lines in labels.items():
                content = "".join(json.dumps(line) + "\n" for line in label_lines)
                self.write(f"pope/{split}/coco_pope_{kind}.json", content.encode())
            write(f"pope/llava_pope_{split}.jsonl", lines)
            split_problems, entries = questions.scienceqa(records, split, rng)
            problems |= split_problems
            write(f"scienceqa/llava_{split}_CQM-A.json", entries)
        pids = {s: [str(r.image_id) for r in records] for s, records in self.records.items()}
        write("scienceqa/problems.json", problems)
        write("scienceqa/pid_splits.json", pids)


_PARTS: dict[str, type[_Part]] = {
    "classification": _Classification,
    "segmentation": _Segmentation,
    "coco": _Coco,
    "vqa": _Vqa,
}
PARTS: tuple[str, ...] = tuple(_PARTS)
"""Parts that can be exported; each is a folder of that name, laid out as its class says."""


def export(
    out: str | os.PathLike[str],
    train: int,
    val: int,
    *,
    seed: int = 0,
    parts: Sequence[str] = PARTS,
    overwrite: bool = False,
    progress: Progress = silent,
) -> None:
    """Render scenes and write them below `out`, one folder a part; see their classes for layouts.

    The training split is scenes 0 .. train - 1 of world `seed`, the validation split is scenes
    HELD_OUT_START .. HELD_OUT_START + val - 1, which no trainer draws, so validation is always
    held out. The same arguments give the same bytes. `out`/toyworld.json tells what was written.
    `overwrite` replaces `parts` of an earlier export; nothing else in the folder is touched.
    """
    root, known = Path(out), ", ".join(PARTS)
    unknown = [part for part in parts if part not in _PARTS]
    if unknown or not parts:
        what = f"unknown export parts {', '.join(unknown)}" if unknown else "no parts to export"
        raise ValueError(f"{what}; known parts: {known}")
    for name, count in (("train", train), ("val", val)):
        if not 1 <= count <= HELD_OUT_START:
            raise ValueError(f"{name} must be between 1 and {HELD_OUT_START} scenes, not {count}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, but is {seed}")
    _clear(root, parts, overwrite)
    wanted = [part for part in PARTS if part in parts]
    manifest = {"seed": seed, "train": train, "val": val, "parts": wanted, "complete": False}
    (root / MANIFEST).write_text(json.dumps(manifest) + "\n", encoding="utf-8")
    writers = [_PARTS[part](root / part, seed) for part in wanted]
    scenes = [("train", index) for index in range(train)]
    scenes += [("val", HELD_OUT_START + index) for index in range(val)]
    for done, (split, index) in enumerate(scenes, start=1):
        scene = render_scene(seed, index)
        png = _png(scene.image)
        for writer in writers:
            writer.add(split, index, scene, png)
        progress("scenes", done, len(scenes))
    for writer in writers:
        writer.close()
    manifest["complete"] = True
    (root / MANIFEST).write_text(json.dumps(manifest) + "\n", encoding="utf-8")


def file_name(index: int) -> str:
    """Name of a scene's files, the same in every part: twelve digits, as in COCO."""
    return f"{index:012d}.png"


def rle_counts(mask: NDArray[np.bool_]) -> list[int]:
    """Mask [H, W] -> COCO's uncompressed run lengths: column by column, zeros first."""
    flat = mask.flatten(order="F")
    borders = np.flatnonzero(np.diff(flat)) + 1
    runs = [int(run) for run in np.diff(np.concatenate(([0], borders, [flat.size])))]
    return [0, *runs] if flat[0] else runs


def _png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _clear(root: Path, parts: Sequence[str], overwrite: bool) -> None:
    """Make `root` ready; only folders of an earlier export are ever removed."""
    if root.exists() and not root.is_dir():
        raise ValueError(f"{root} is a file; name a folder to export into")
    root.mkdir(parents=True, exist_ok=True)
    if not any(root.iterdir()):
        return
    if not (root / MANIFEST).is_file():
        raise ValueError(f"{root} is not empty and not an export of the toy world; name another")
    if not overwrite:
        raise ValueError(f"{root} holds an export already; name another folder or use --overwrite")
    for part in parts:
        shutil.rmtree(root / part, ignore_errors=True)
