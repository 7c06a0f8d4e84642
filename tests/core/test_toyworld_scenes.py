"""The toy world: the same two numbers give the same scene, with ground truth that adds up."""

import hashlib
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

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
from radio_core.data.toyworld.export import HELD_OUT_START

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


def test_seed_and_index_both_matter() -> None:
    images = {render_scene(seed, index).image.tobytes() for seed in range(3) for index in range(9)}
    assert len(images) == 27


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
        main = scene.objects[0]
        assert CLASS_NAMES[scene.label] == main.name == f"{main.colour} {main.shape}"
        assert scene.caption.startswith(f"a large {main.texture} {main.name}")
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


def test_small_objects_touch_the_main_one_now_and_then(scenes: list[Scene]) -> None:
    pairs = [(s.objects[0], other) for s in scenes for other in s.objects[1:]]
    touching = 0
    for main, other in pairs:
        x, y, width, height = other.bbox
        near = main.mask[max(y - 1, 0) : y + height + 1, max(x - 1, 0) : x + width + 1]
        touching += bool(near.any())
    assert touching / len(pairs) > 0.1


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
