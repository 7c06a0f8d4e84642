"""Folders of photos: what is found, in which order, what is told of the rest, what is kept."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from radio_core.data import folder
from radio_core.data.folder import (
    FolderError,
    FolderScan,
    ImageFiles,
    indexed_scan,
    scan_folder,
)
from radio_core.data.images import UnreadableImage
from radio_core.data.storage import PackedNames, Storage

MakeFolder = Callable[..., Path]


def put(path: Path, shade: int = 128) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (shade, shade, shade)).save(path)
    return path


def names(files: ImageFiles) -> list[str]:
    return list(files.names)


def test_recursive_in_the_order_of_the_names(tmp_path: Path) -> None:
    expected = ["a.png", "b/1.jpg", "b/2.PNG", "b/c/0.bmp", "b-0.gif", "z.tiff"]
    for name in reversed(expected):
        put(tmp_path / name)
    files = ImageFiles(tmp_path)
    assert names(files) == sorted(expected, key=lambda name: name.split("/"))
    assert len(files.skipped) == 0
    assert files.read(0).size == (4, 4)
    assert files.path(0) == tmp_path / "a.png"


def test_damaged_files_are_counted_and_listed(tmp_path: Path) -> None:
    put(tmp_path / "good.png")
    whole = put(tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[:-40])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    files = ImageFiles(tmp_path)
    assert len(files) == 5
    for index in [*range(5), *range(5)]:  # a second epoch records nothing twice
        try:
            assert files.read(index).size == (4, 4)
        except UnreadableImage as error:
            files.skipped[error.name] = error.reason
    skipped = {Path(path).name: reason for path, reason in files.skipped.items()}
    assert set(skipped) == {"cut.jpg", "empty.jpg", "text.jpg", "notes.txt", "gone.jpg"}
    assert len(files.skipped) == 5


def test_link_loops_end(tmp_path: Path) -> None:
    put(tmp_path / "root/a/1.png")
    put(tmp_path / "elsewhere/2.png")
    (tmp_path / "root/a/up").symlink_to(tmp_path / "root")
    (tmp_path / "root/self").symlink_to(tmp_path / "root/self")
    (tmp_path / "root/linked").symlink_to(tmp_path / "elsewhere")
    files = ImageFiles(tmp_path / "root")
    assert names(files) == ["a/1.png", "linked/2.png"]


def message(root: Path) -> str:
    with pytest.raises(FolderError) as caught:
        ImageFiles(root)
    assert isinstance(caught.value, ValueError)
    text = str(caught.value)
    assert "\n" not in text
    assert str(root) in text
    return text


def test_unusable_folders_give_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "words").mkdir()
    (tmp_path / "words/a.txt").write_text("hello")
    (tmp_path / "damaged").mkdir()
    for number in range(3):
        (tmp_path / f"damaged/{number}.jpg").write_text("hello")
    assert "no images" in message(tmp_path / "empty")
    assert "no images" in message(tmp_path / "words")
    assert re.search("none of the 3 .*: 3 not an image", message(tmp_path / "damaged"))
    assert "no such file" in message(tmp_path / "missing")
    assert "not a directory" in message(tmp_path / "words/a.txt")


def test_closed_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "root/a.png")
    put(tmp_path / "root/closed/b.png")
    scan = os.scandir

    def refuse(path: str) -> object:  # chmod would not stop root
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    files = ImageFiles(tmp_path / "root")
    assert names(files) == ["a.png"]
    assert files.skipped == {str(tmp_path / "root/closed"): "permission denied"}
    assert "permission denied" in message(tmp_path / "root/closed")


def test_real_photos_with_foreign_files(shared: Path) -> None:
    root = shared / "data/coco"
    if not root.is_dir():
        pytest.skip("the folder of COCO photos is not there")
    files = ImageFiles(root)
    assert len(files) == 96
    assert all(files.read(index).mode == "RGB" for index in range(0, 96, 8))
    assert {Path(path).suffix for path in files.skipped} == {".json"}
    assert len(files.skipped) == 4


class Lister:
    """Counts how often a folder is listed, and what is told."""

    def __init__(self, storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[str] = []
        self.lists = 0
        self.storage = Storage(storage, tell=self.told.append)
        monkeypatch.setattr(folder, "scan_folder", self._scan)

    def _scan(self, *args: object, **options: object) -> FolderScan:
        self.lists += 1
        return scan_folder(*args, **options)

    def __call__(self, root: Path, refresh: bool = False) -> ImageFiles:
        storage = Storage(self.storage.folder, refresh=refresh, tell=self.storage.tell)
        return ImageFiles(root, scan=indexed_scan(root, storage, keep_from=5))


@pytest.fixture
def lister(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lister:
    return Lister(tmp_path / "storage", monkeypatch)


@pytest.fixture
def photos(make_folder: MakeFolder, tmp_path: Path) -> Path:
    root = make_folder(tmp_path / "photos", range(25))
    (root / "notes.txt").write_text("hello")
    (root / "odd\udcff.png").write_bytes((root / "0/0.png").read_bytes())
    settle(root)
    return root


def settle(root: Path) -> None:
    """Let the last change be an hour ago, as time stamps of right now are not trusted."""
    for place, _, _ in os.walk(root):
        status = os.stat(place)
        os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns - 3600 * 10**9))


def test_the_second_time_nothing_is_listed_and_the_user_is_told(
    lister: Lister, photos: Path, tmp_path: Path
) -> None:
    before = sorted(photos.rglob("*"))
    first, second = lister(photos), lister(photos)
    assert lister.lists == 1
    assert list(first.names) == list(second.names) == list(ImageFiles(photos).names)
    assert first.skipped == second.skipped
    assert len(first.skipped) == 1
    assert second.path(len(second) - 1).exists()
    assert len(lister.told) == 1
    assert "26 images by the index of" in lister.told[0]
    assert "--refresh-index" in lister.told[0]
    assert sorted(photos.rglob("*")) == before
    assert [path.suffix for path in (tmp_path / "storage").rglob("*.*")] == [".npz"]


@pytest.mark.parametrize("change", ["add", "remove", "rename", "new folder", "remove folder"])
def test_any_change_of_names_is_noticed(lister: Lister, photos: Path, change: str) -> None:
    lister(photos)
    content = (photos / "1/12.png").read_bytes()
    if change == "add":
        (photos / "1/new.png").write_bytes(content)
    elif change == "remove":
        (photos / "1/12.png").unlink()
    elif change == "rename":
        (photos / "1/12.png").rename(photos / "1/renamed.png")
    elif change == "new folder":
        (photos / "2/deep").mkdir()
        (photos / "2/deep/new.png").write_bytes(content)
    else:
        for path in (photos / "1").iterdir():
            path.unlink()
        (photos / "1").rmdir()
    assert list(lister(photos).names) == list(scan_folder(photos).images)
    assert lister.lists == 2
    settle(photos)
    lister(photos)
    lister(photos)
    assert lister.lists == 3


def test_a_changed_folder_and_a_refresh_list_again(lister: Lister, photos: Path) -> None:
    os.utime(photos / "1")
    lister(photos)
    lister(photos)
    assert lister.lists == 2
    settle(photos)
    for refresh, lists in ((False, 3), (True, 4), (False, 4)):
        lister(photos, refresh=refresh)
        assert lister.lists == lists


def test_a_damaged_index_is_made_again(lister: Lister, photos: Path, tmp_path: Path) -> None:
    lister(photos)
    (index,) = (tmp_path / "storage").rglob("*.npz")
    whole = index.read_bytes()
    for content in (b"", b"rubbish", whole[: len(whole) // 2]):
        index.write_bytes(content)
        assert len(lister(photos)) == 26
    assert lister.lists == 4
    assert index.read_bytes() != whole[: len(whole) // 2]


def test_what_cannot_be_kept_is_told_and_does_no_harm(
    lister: Lister, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "storage").write_text("a file where the folder should be")
    assert len(lister(photos)) == 26
    assert "cannot keep an index" in lister.told[0]


def test_short_lists_are_not_kept(photos: Path, tmp_path: Path) -> None:
    indexed_scan(photos, Storage(tmp_path / "storage"))
    assert not (tmp_path / "storage").exists()


def test_listing_tells_how_far_it_is(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "_REPORT_EVERY", 10)
    reports: list[tuple[int, int | None]] = []
    storage = Storage(tmp_path, progress=lambda what, done, total: reports.append((done, total)))
    indexed_scan(photos, storage)
    assert reports == [(10, None), (20, None)]


def test_packed_names_are_a_sequence() -> None:
    names = ["", "a", "ä/b", "odd\udcff"]
    packed = PackedNames.of(names)
    assert list(packed) == names
    assert packed[-1] == names[-1]
    assert PackedNames.of(names).digest() == packed.digest() != PackedNames.of(names[1:]).digest()
    with pytest.raises(IndexError):
        packed[4]
