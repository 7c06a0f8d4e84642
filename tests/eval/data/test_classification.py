"""The layouts in which kNN and zero-shot find labelled images."""

import io
import json
import tarfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from radio_core.data.folder import FolderError
from radio_core.data.images import UnreadableImage
from radio_eval.data.classification import (
    ClassificationSet,
    FolderSplit,
    Layout,
    find_tar_shards,
    read_splits,
)
from radio_eval.data.imagenet import imagenet_wnids, readable_names

KOALA, GOLDFISH = "n01882714", "n01443537"


def picture(colour: int, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), (colour, 0, 0)).save(buffer, format=kind)
    return buffer.getvalue()


def write_tar(path: Path, members: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def write_folders(root: Path, *files: str) -> None:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10)).save(root / name)


def read_split(root: Path, split: str, layout: Layout = "auto", **how: bool) -> ClassificationSet:
    return read_splits(root, (split,), layout, **how)[split]


def read_train_and_val(root: Path) -> tuple[ClassificationSet, ClassificationSet]:
    train, val = read_splits(root, ("train", "val")).values()
    return train, val


def read(data: ClassificationSet) -> list[tuple[str, int, str]]:
    """Last part of the name, label, and "read" or why not, of every image."""
    found = []
    for block in data.blocks(2):
        for item in block.items():
            try:
                assert item.read().mode == "RGB"
                found.append((Path(item.name).name, item.label, "read"))
            except UnreadableImage as error:
                found.append((Path(item.name).name, item.label, error.reason))
    return found


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_tar(
        tmp_path / "train-000.tar",
        {"a.jpg": picture(1), "a.cls": b"1", "b.cls": b"0\n", "b.png": picture(2, "PNG")},
    )
    write_tar(tmp_path / "train-001.tar", {"c.jpg": picture(3), "c.cls": b"1", "c.txt": b"hi"})
    write_tar(tmp_path / "val-000.tar", {"d.jpg": picture(4), "d.cls": b"0"})
    (tmp_path / "classnames.json").write_text('["cat", "dog"]')
    return tmp_path


def test_tar_shards(shards: Path) -> None:
    train, val = read_train_and_val(shards)
    assert train.class_names == val.class_names == ("cat", "dog")
    assert read(train) == [("a", 1, "read"), ("b", 0, "read"), ("c", 1, "read")]
    assert [block.count for block in train.blocks(5)] == [None, None]
    assert read(val) == [("d", 0, "read")]
    identity = train.identity()
    write_tar(shards / "train-001.tar", {"c.jpg": picture(9), "c.cls": b"1"})
    assert read_split(shards, "train").identity() != identity


def test_imagenets_own_archives_are_no_shards(shards: Path) -> None:
    (shards / "classnames.json").unlink()
    for split in ("train", "val"):
        for path in shards.glob(f"{split}-*.tar"):
            path.rename(shards / f"ILSVRC2012_img_{path.name}")
        for name in ("cat", "dog"):
            (shards / split / name).mkdir(parents=True)
            (shards / split / name / "a.jpg").write_bytes(picture(1))
        (shards / split / "n1.tar").write_bytes(b"what is left of unpacking")
    train, val = read_train_and_val(shards)
    assert len(read(train)) == len(read(val)) == 2
    assert find_tar_shards(shards / "train", "val") == []


def test_shards_in_folders_and_names_by_class(shards: Path) -> None:
    for split in ("train", "val"):
        (shards / split).mkdir()
        for path in shards.glob(f"{split}-*.tar"):
            path.rename(shards / split / path.name.removeprefix(split))
    (shards / "classnames.json").write_text('{"n2": "dog", "n1": "cat"}')
    assert read_split(shards, "train").class_names == ("cat", "dog")
    assert len(read(read_split(shards, "train", "webdataset"))) == 3


def test_what_is_wrong_inside_a_shard_is_skipped_or_named(shards: Path) -> None:
    members = {"a.jpg": b"no image", "a.cls": b"0", "b.jpg": picture(1), "c.jpg": picture(2)}
    write_tar(shards / "train-000.tar", {**members, "c.cls": b"1", "d.cls": b"1"})
    found = {name: reason for name, _, reason in read(read_split(shards, "train"))}
    assert found["a"] == "not an image"
    assert found["c"] == "read"
    assert "no .cls" in found["b"]
    assert "no image of the kinds" in found["d"]


@pytest.mark.parametrize(("size", "labels"), [(1200, []), (2600, [1]), (2560, [1])])
def test_a_truncated_shard_gives_what_comes_before(
    shards: Path, size: int, labels: list[int]
) -> None:
    path = shards / "train-000.tar"
    path.write_bytes(path.read_bytes()[:size])
    items = read_split(shards, "train").blocks(1)[0].items()
    found: list[int] = []

    def read_all() -> None:
        for item in items:
            with suppress(UnreadableImage):  # the image is there, its label is not
                item.read()
                found.append(item.label)

    with pytest.raises(UnreadableImage, match=r"train-000\.tar: (broken|truncated)"):
        read_all()
    assert found == labels


@pytest.mark.parametrize(
    ("label", "message"),
    [(b"2", r"a\.cls is 2, but there are 2 classes: labels are 0 to 1"), (b"cat", "not 'cat'")],
)
def test_labels_outside_the_range_name_the_file(shards: Path, label: bytes, message: str) -> None:
    write_tar(shards / "train-000.tar", {"a.jpg": picture(1), "a.cls": label})
    with pytest.raises(FolderError, match=message):
        read(read_split(shards, "train"))


def test_shards_need_the_names_of_the_classes_or_imagenets(shards: Path) -> None:
    (shards / "classnames.json").unlink()
    with pytest.raises(FolderError, match=r"add .*classnames\.json.*--imagenet-labels"):
        read_split(shards, "train")
    assert read_split(shards, "train", imagenet_labels=True).class_names == imagenet_wnids()
    (shards / "classnames.json").write_text("[1]")
    with pytest.raises(FolderError, match="must hold a list of class names"):
        read_split(shards, "train")


def test_nothing_in_a_shard_is_executed(shards: Path) -> None:
    trap = shards / "trap"
    code = b"cposix\nsystem\n(S'touch %s'\ntR." % str(trap).encode()
    members = {"a.jpg": picture(1), "a.cls": b"0", "a.pyd": code, "a.pickle": code}
    write_tar(shards / "train-000.tar", {**members, "../../evil.jpg": b"x"})
    read(read_split(shards, "train"))
    assert not trap.exists()
    assert not (shards.parent.parent / "evil.jpg").exists()


def test_imagenets_own_folders_are_found_and_have_open_clips_names(tmp_path: Path) -> None:
    pytest.importorskip("open_clip", reason="needs the extra 'clip'")
    root = tmp_path / "ILSVRC/Data/CLS-LOC"
    write_folders(root, f"val/{KOALA}/1.JPEG", f"val/{GOLDFISH}/2.JPEG")
    assert read_split(tmp_path, "val").class_names == (GOLDFISH, KOALA)
    val = read_split(tmp_path, "val", readable=True)
    assert val.class_names == ("goldfish", "koala")
    assert read(val) == [("2.JPEG", 0, "read"), ("1.JPEG", 1, "read")]


def test_names_of_classes() -> None:
    open_clip = pytest.importorskip("open_clip", reason="needs the extra 'clip'")
    assert len(imagenet_wnids()) == 1000
    assert readable_names(imagenet_wnids()) == tuple(open_clip.IMAGENET_CLASSNAMES)
    assert readable_names(["cat", KOALA]) == ("cat", KOALA)
    with pytest.raises(FolderError, match=r"n99999999 is not one of ImageNet-1k's.*classnames"):
        readable_names([KOALA, "n99999999"])


def test_classnames_win_over_wordnet_ids(tmp_path: Path) -> None:
    write_folders(tmp_path, f"val/{KOALA}/1.png")
    (tmp_path / "classnames.json").write_text(json.dumps({KOALA: "bear"}))
    assert read_split(tmp_path, "val", readable=True).class_names == ("bear",)


def test_validation_images_without_folders_are_refused_with_the_way_to_make_them(
    tmp_path: Path,
) -> None:
    write_folders(tmp_path, "val/ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(FolderError, match=r"no class folder: .*ILSVRC2012_devkit.*torchvision"):
        read_split(tmp_path, "val")
    write_folders(tmp_path, "train/1.png", f"train/{KOALA}/2.png")
    with pytest.raises(FolderError, match=r"1\.png lies in no class folder: put every image"):
        read_split(tmp_path, "train")


def test_splits_with_other_classes_name_them(tmp_path: Path) -> None:
    write_folders(tmp_path, "train/cat/1.png", "train/dog/1.png", "val/cat/1.png", "val/eel/1.png")
    with pytest.raises(FolderError, match=r"dog is only in train; eel is only in val\. Add a"):
        read_train_and_val(tmp_path)
    (tmp_path / "classnames.json").write_text('{"cat": "c", "dog": "d", "eel": "e"}')
    train, val = read_train_and_val(tmp_path)
    assert train.class_names == val.class_names == ("c", "d", "e")
    assert [label for _, label, _ in read(val)] == [0, 2]


def test_class_folders_and_their_names(tmp_path: Path) -> None:
    write_folders(
        tmp_path, "train/n2/a.png", "train/n1/b.png", "train/n1/sub/c.png", "val/n2/d.png"
    )
    train = FolderSplit(tmp_path, "train")
    assert (train.class_names, train.labels) == (("n1", "n2"), [0, 0, 1])
    (tmp_path / "classnames.json").write_text('{"n2": "cat", "n1": "dog"}')
    val = FolderSplit(tmp_path, "val")
    assert (val.class_names, val.labels) == (("dog", "cat"), [1])
    (tmp_path / "classnames.json").write_text('{"n1": "dog"}')
    with pytest.raises(FolderError, match="n2 is not among the 1 classes"):
        FolderSplit(tmp_path, "train")
    for content in ("{", "[]", '{"a": 1}'):
        (tmp_path / "classnames.json").write_text(content)
        with pytest.raises(FolderError, match=r"classnames\.json"):
            FolderSplit(tmp_path, "train")


def test_real_class_folders(shared: Path) -> None:
    root = shared / "data/tiny_imagenet_50"
    if not root.is_dir():
        pytest.skip("the folder of small photos is not there")
    val = FolderSplit(root, "val")
    assert (len(val.images), len(val.class_names), val.class_names[0]) == (600, 50, "goldfish")
    assert all(val.labels.count(label) == 12 for label in range(50))
