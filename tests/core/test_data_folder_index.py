"""A large folder is listed once; its kept list is used while no folder has changed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from radio_core.data import folder, folder_index
from radio_core.data.folder import FolderError, FolderScan, ImageFiles, scan_folder
from radio_core.data.folder_index import indexed_scan
from radio_core.data.storage import PackedNames, Storage

MakeFolder = Callable[..., Path]


class Lister:
    """Counts how often a folder is listed, and what is told."""

    def __init__(self, storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[str] = []
        self.lists = 0
        self.storage = Storage(storage, tell=self.told.append)
        monkeypatch.setattr(folder_index, "scan_folder", self._scan)

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
    assert list(first.skipped) == list(second.skipped)
    assert first.skipped.count == 1
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
    assert list(lister(photos).names) == list(ImageFiles(photos).names)
    assert lister.lists == 2
    settle(photos)
    lister(photos)
    lister(photos)
    assert lister.lists == 3


def test_a_folder_that_has_just_changed_is_listed_again(lister: Lister, photos: Path) -> None:
    os.utime(photos / "1")
    lister(photos)
    lister(photos)
    assert lister.lists == 2


def test_refresh_lists_again(lister: Lister, photos: Path) -> None:
    lister(photos)
    lister(photos, refresh=True)
    assert lister.lists == 2
    lister(photos)
    assert lister.lists == 2


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


def test_errors_are_those_of_a_fresh_look(lister: Lister, tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="no such file"):
        lister(tmp_path / "nowhere")


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
    assert packed[1:3] == names[1:3]
    assert PackedNames.of(names).digest() == packed.digest() != PackedNames.of(names[1:]).digest()
    with pytest.raises(IndexError):
        packed[4]
