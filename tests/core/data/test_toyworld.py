"""The toy world: two numbers give one scene, whose ground truth fills the field's formats."""

import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from radio_core.cli import main
from radio_core.data.folder import ImageFiles
from radio_core.data.toyworld import (
    CLASS_NAMES,
    COLOURS,
    SEMANTIC_NAMES,
    SHAPES,
    TEXTURES,
    WORDS,
    Scene,
    ToyWorldImages,
    render_scene,
)
from radio_core.data.toyworld.export import HELD_OUT_START, PARTS, export

HASH = """
import hashlib
from radio_core.data.toyworld import render_scene
digest = hashlib.sha256()
for index in range(40):
    scene = render_scene(3, index)
    digest.update(scene.image.tobytes() + scene.semantic.tobytes())
    digest.update(f"{scene.caption} {scene.text} {[o.bbox for o in scene.objects]}".encode())
print(digest.hexdigest())
"""
TRAIN, VAL, SEED = 30, 12, 3
INDICES = {
    "train": list(range(TRAIN)),
    "val": list(range(HELD_OUT_START, HELD_OUT_START + VAL)),
}


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [render_scene(0, index) for index in range(300)]


def test_a_scene_is_the_same_in_every_process() -> None:
    command = [sys.executable, "-c", HASH]
    other = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    digest = hashlib.sha256()
    for index in reversed(range(40)):  # in whatever order
        render_scene(3, index)
    for index in range(40):
        scene = render_scene(3, index)
        digest.update(scene.image.tobytes() + scene.semantic.tobytes())
        boxes = [o.bbox for o in scene.objects]
        digest.update(f"{scene.caption} {scene.text} {boxes}".encode())
    assert other.strip() == digest.hexdigest()


def test_shapes_types_and_ranges(scenes: list[Scene]) -> None:
    for scene in scenes[:50]:
        assert scene.image.shape == (128, 128, 3)
        assert scene.semantic.shape == (128, 128)
        assert scene.image.dtype == scene.semantic.dtype == np.uint8
        assert scene.image.std() > 5
        assert 1 <= len(scene.objects) <= 4
        for thing in scene.objects:
            assert thing.mask.shape == (128, 128)
            assert thing.mask.dtype == bool
            assert thing.shape in SHAPES
            assert thing.colour in COLOURS
            assert thing.texture in TEXTURES


def test_visible_masks_are_disjoint_and_make_up_the_semantic_map(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert sum(thing.mask.astype(int) for thing in scene.objects).max() <= 1
        semantic = np.zeros((128, 128), np.uint8)
        for thing in scene.objects:
            semantic[thing.mask] = SEMANTIC_NAMES.index(thing.shape)
        assert np.array_equal(semantic, scene.semantic)


def test_boxes_are_tight(scenes: list[Scene]) -> None:
    for thing in (thing for scene in scenes for thing in scene.objects):
        x, y, width, height = thing.bbox
        assert thing.mask[y : y + height, x : x + width].sum() == thing.mask.sum() > 0
        inside = thing.mask[y : y + height, x : x + width]
        assert inside[0].any()
        assert inside[-1].any()
        assert inside[:, 0].any()
        assert inside[:, -1].any()


def test_the_main_object_comes_first_is_the_largest_and_names_the_class(
    scenes: list[Scene],
) -> None:
    largest = 0
    for scene in scenes:
        extent = [max(thing.bbox[2:]) for thing in scene.objects]
        largest += extent[0] == max(extent)
        large = scene.objects[0]
        assert CLASS_NAMES[scene.label] == large.name == f"{large.colour} {large.shape}"
        assert scene.caption.startswith(f"a large {large.texture} {large.name}")
        assert all(f"a small {o.texture} {o.name}" in scene.caption for o in scene.objects[1:])
    assert largest == len(scenes)


def test_every_class_texture_and_number_of_objects_occurs(scenes: list[Scene]) -> None:
    more = [*scenes, *(render_scene(1, index) for index in range(300))]
    labels = Counter(scene.label for scene in more)
    assert set(labels) == set(range(len(CLASS_NAMES)))
    assert len(CLASS_NAMES) == len(COLOURS) * len(SHAPES) == 36
    assert {thing.texture for scene in more for thing in scene.objects} == set(TEXTURES)
    assert {len(scene.objects) for scene in more} == {1, 2, 3, 4}
    with_text = [scene.text for scene in more if scene.text]
    assert 0.2 < len(with_text) / len(more) < 0.4
    assert set(with_text) <= set(WORDS)
    assert len(set(with_text)) > len(WORDS) / 2


def test_held_out_scenes_are_far_from_any_training_set() -> None:
    source = ToyWorldImages(5, seed=0)
    assert len(source) == 5
    assert np.array_equal(np.asarray(source.read(3)), render_scene(0, 3).image)
    held_out = render_scene(0, HELD_OUT_START).image
    assert all(not np.array_equal(np.asarray(source.read(i)), held_out) for i in range(5))
    shifted = ToyWorldImages(2, seed=0, first=HELD_OUT_START)
    assert np.array_equal(np.asarray(shifted.read(0)), held_out)
    with pytest.raises(ValueError, match="at least 1"):
        ToyWorldImages(0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("toyworld") / "new/folder"
    export(out, TRAIN, VAL, seed=SEED)
    return out


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def tree(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_same_call_same_bytes(world: Path, tmp_path: Path) -> None:
    calls: list[tuple[str, int, int | None]] = []
    export(tmp_path, TRAIN, VAL, seed=SEED, progress=lambda *call: calls.append(call))
    assert tree(tmp_path) == tree(world)
    assert calls == [("scenes", done, TRAIN + VAL) for done in range(1, TRAIN + VAL + 1)]


def test_classification(world: Path) -> None:
    for split, indices in INDICES.items():
        folder = ImageFiles(world / "classification" / split)
        names = read(world / "classification/classnames.json")
        assert sorted(names.values()) == sorted(CLASS_NAMES)
        assert len(folder) == len(indices)
        for number in range(len(folder)):
            path = folder.path(number)
            assert int(path.stem) in indices
            scene = render_scene(SEED, int(path.stem))
            assert names[path.parent.name] == CLASS_NAMES[scene.label]
            assert np.array_equal(np.asarray(folder.read(number)), scene.image)
    assert all("{}" in sentence for sentence in read(world / "classification/templates.json"))


def test_segmentation(world: Path) -> None:
    root = world / "segmentation"
    assert read(root / "classes.json") == list(SEMANTIC_NAMES)
    for split, folder in (("train", "training"), ("val", "validation")):
        maps = sorted((root / "annotations" / folder).iterdir())
        images = sorted((root / "images" / folder).iterdir())
        assert [path.name for path in maps] == [path.name for path in images]
        for path, index in zip(maps, INDICES[split], strict=True):
            assert int(path.stem) == index
            with Image.open(path) as image:
                assert image.mode == "L"
                assert np.array_equal(np.asarray(image), render_scene(SEED, index).semantic + 1)


def test_coco_reads_back(world: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco", reason="needs the extra 'eval'")
    for split, indices in INDICES.items():
        instances = coco.COCO(world / f"coco/annotations/instances_{split}2017.json")
        captions = coco.COCO(world / f"coco/annotations/captions_{split}2017.json")
        assert sorted(instances.imgs) == indices
        for index in indices:
            scene = render_scene(SEED, index)
            found = instances.imgToAnns[index]
            assert len(found) == len(scene.objects)
            for annotation, thing in zip(found, scene.objects, strict=True):
                mask = instances.annToMask(annotation).astype(bool)
                assert np.array_equal(mask, thing.mask)
                assert annotation["area"] == mask.sum()
                assert tuple(annotation["bbox"]) == thing.bbox
                assert instances.cats[annotation["category_id"]]["name"] == thing.name
            assert captions.imgToAnns[index][0]["caption"] == scene.caption
            name = instances.imgs[index]["file_name"]
            with Image.open(world / f"coco/{split}2017" / name) as image:
                assert np.array_equal(np.asarray(image), scene.image)


def test_llava_conversations(world: Path) -> None:
    for stage in ("pretrain", "instruct"):
        entries = read(world / f"vqa/llava/{stage}_train.json")
        assert len(entries) == TRAIN
        for entry in entries:
            assert (world / "vqa/images" / entry["image"]).is_file()
            turns = entry["conversations"]
            assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
            assert turns[0]["value"].startswith("<image>\n")
            assert sum(turn["value"].count("<image>") for turn in turns) == 1


def test_gqa_answers_are_true(world: Path) -> None:
    questions = read(world / "vqa/gqa/val_balanced_questions.json")
    lines = read_lines(world / "vqa/gqa/llava_gqa_val.jsonl")
    assert [line["question_id"] for line in lines] == list(questions)
    kinds = Counter()
    for question in questions.values():
        scene = render_scene(SEED, int(question["imageId"]))
        words, answer = question["question"].rstrip("?").split(), question["answer"]
        kind = question["types"]["detailed"]
        kinds[kind] += 1
        if kind == "count":
            assert answer == str(len(scene.objects))
        elif kind == "exist":
            names = [thing.name for thing in scene.objects]
            assert answer == ("yes" if " ".join(words[3:5]) in names else "no")
        elif kind in ("color", "choose"):
            shape = words[4] if kind == "color" else words[2]
            assert [answer] == [o.colour for o in scene.objects if o.shape == shape]
            assert kind == "color" or answer in (words[3], words[5])
        elif kind == "shape":
            assert [answer] == [o.shape for o in scene.objects if o.colour == words[4]]
        elif kind == "texture":
            textures = [o.texture for o in scene.objects if o.shape == words[2]]
            assert answer == ("yes" if textures == [words[3]] else "no")
        else:
            largest = max(scene.objects, key=lambda thing: thing.mask.sum())
            assert (kind, answer) == ("object", largest.name)
    assert set(kinds) == {"object", "count", "exist", "color", "choose", "texture", "shape"}


def test_vqav2_files_pair_up(world: Path) -> None:
    questions = read(world / "vqa/vqav2/val_questions.json")["questions"]
    annotations = read(world / "vqa/vqav2/val_annotations.json")["annotations"]
    lines = read_lines(world / "vqa/vqav2/llava_vqav2_val.jsonl")
    keys = [question["question_id"] for question in questions]
    assert len(set(keys)) == len(keys)
    assert keys == [a["question_id"] for a in annotations] == [x["question_id"] for x in lines]
    assert {a["answer_type"] for a in annotations} == {"yes/no", "number", "other"}
    for annotation in annotations:
        given = [answer["answer"] for answer in annotation["answers"]]
        assert given == [annotation["multiple_choice_answer"]] * 10


def test_vqav2_has_the_fields_of_the_real_files(world: Path, shared: Path) -> None:
    real = shared / "data/vqa"
    if not real.is_dir():
        pytest.skip("the real VQAv2 questions are not there")
    for kind in ("questions", "annotations"):
        theirs, ours = read(real / f"vqav2_{kind}.json"), read(world / f"vqa/vqav2/val_{kind}.json")
        assert theirs.keys() == ours.keys()
        assert theirs[kind][0].keys() == ours[kind][0].keys()
    ours = read_lines(world / "vqa/vqav2/llava_vqav2_val.jsonl")
    assert read_lines(real / "vqav2_llava.jsonl")[0].keys() == ours[0].keys()
    ours = read_lines(world / "vqa/pope/val/coco_pope_random.json")
    assert read_lines(real / "pope/coco_pope_random.json")[0].keys() == ours[0].keys()


def test_textvqa_reads_the_words(world: Path) -> None:
    data = read(world / "vqa/textvqa/TextVQA_0.5.1_train.json")["data"]
    lines = read_lines(world / "vqa/textvqa/llava_textvqa_train.jsonl")
    words = {f"{index:012d}": render_scene(SEED, index).text.lower() for index in INDICES["train"]}
    assert {d["image_id"]: d["answers"][0] for d in data} == {k: w for k, w in words.items() if w}
    joined = {(d["image_id"], d["question"].lower()) for d in data}
    assert joined == {(x["question_id"], x["text"].split("\n")[0].lower()) for x in lines}


def test_pope_is_balanced_true_and_in_line_order(world: Path) -> None:
    lines = read_lines(world / "vqa/pope/llava_pope_val.jsonl")
    assert len({line["question_id"] for line in lines}) == len(lines)
    files = {p.name for p in (world / "vqa/pope/val").iterdir()}
    assert files == {f"coco_pope_{split}.json" for split in ("random", "popular", "adversarial")}
    for split in ("random", "popular", "adversarial"):
        labels = read_lines(world / f"vqa/pope/val/coco_pope_{split}.json")
        asked = [line for line in lines if line["category"] == split]
        assert [x["question_id"] for x in labels] == [x["question_id"] for x in asked]
        assert Counter(x["label"] for x in labels)["yes"] * 2 == len(labels)
        for label in labels:
            scene = render_scene(SEED, int(Path(label["image"]).stem))
            name = label["text"].removeprefix("Is there a ").removesuffix(" in the image?")
            assert (label["label"] == "yes") == (name in [o.name for o in scene.objects])


def test_scienceqa(world: Path) -> None:
    root = world / "vqa/scienceqa"
    problems, splits = read(root / "problems.json"), read(root / "pid_splits.json")
    assert {split: len(ids) for split, ids in splits.items()} == {"train": TRAIN, "val": VAL}
    entries = read(root / "llava_val_CQM-A.json")
    assert [entry["id"] for entry in entries] == splits["val"]
    for entry in entries:
        problem = problems[entry["id"]]
        scene = render_scene(SEED, int(entry["id"]))
        names = {thing.name for thing in scene.objects}
        true = [number for number, name in enumerate(problem["choices"]) if name in names]
        assert true == [problem["answer"]]
        assert entry["conversations"][1]["value"] == f"The answer is {'ABCDE'[true[0]]}."
        assert ("image" in entry) == (problem["image"] is not None) == (problem["hint"] == "")
    assert any("image" not in entry for entry in entries)


def test_folders_are_never_overwritten_unasked(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["toyworld", "export", "--out", str(out), "--train", "3", "--val", "1"]) == 0
    assert main(["toyworld", "export", "--out", "x", "--parts", "imagenet"]) == 2
    before = tree(out)
    with pytest.raises(ValueError, match="--overwrite"):
        export(out, 2, 1)
    assert tree(out) == before
    (out / "mine.txt").write_text("keep")
    export(out, 2, 1, parts=["segmentation"], overwrite=True)
    assert (out / "mine.txt").read_text() == "keep"
    assert len(list((out / "segmentation/images/training").iterdir())) == 2
    assert len(list((out / "coco/train2017").iterdir())) == 3
    (out / "toyworld.json").unlink()
    with pytest.raises(ValueError, match="not an export"):
        export(out, 1, 1, overwrite=True)
    assert (out / "mine.txt").read_text() == "keep"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"parts": ["coco", "imagenet"]}, ", ".join(PARTS)),
        ({"parts": []}, "no parts"),
        ({"train": 0}, "train must be between"),
        ({"val": -1}, "val must be between"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_requests_write_nothing(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        export(tmp_path / "out", **{"train": 1, "val": 1, **change})
    assert not (tmp_path / "out").exists()
