"""Training data by name, and what tells two sets of data apart."""

from collections.abc import Callable
from pathlib import Path

import pytest

from radio_core.data.folder import FolderError, ImageFiles
from radio_core.data.shards import ShardImages
from radio_core.data.sources import Mixture, data_identity, data_layout, faults, open_source
from radio_core.data.storage import Storage, cache_folder
from radio_core.data.toyworld import ToyWorldImages

Make = Callable[..., Path]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path / "storage")


def test_sources_by_name(
    make_folder: Make, make_shard: Make, tmp_path: Path, storage: Storage
) -> None:
    toy = open_source(["toyworld"], scenes=5)
    assert isinstance(toy, ToyWorldImages)
    assert len(toy) == 5
    folder = open_source([str(make_folder(tmp_path / "photos", range(12)))], storage=storage)
    assert isinstance(folder, ImageFiles)
    assert len(folder) == 12
    make_shard(tmp_path / "a.tar", range(3))
    shards = open_source([f"shards:{tmp_path}/a.tar"], storage=storage)
    assert isinstance(shards, ShardImages)
    assert len(shards) == 3


def test_a_cache_of_replaced_shards_is_another_one(
    make_shard: Make, tmp_path: Path, storage: Storage
) -> None:
    path = make_shard(tmp_path / "a.tar", range(3))
    first = open_source([f"shards:{path}"], storage=storage)
    identity, layout = data_identity(first), data_layout(first)
    path.write_bytes(path.read_bytes() + b"\0" * 10240)
    second = open_source([f"shards:{path}"], storage=storage)
    assert data_layout(second) == layout
    assert data_identity(second) != identity


def test_a_link_to_nowhere_is_no_obstacle(make_folder: Make, tmp_path: Path) -> None:
    photos = make_folder(tmp_path / "photos", range(3))
    (photos / "lost.jpg").symlink_to(tmp_path / "nowhere.jpg")
    lost = data_identity(ImageFiles(photos))
    (tmp_path / "nowhere.jpg").write_bytes(b"found")
    assert data_identity(ImageFiles(photos)) != lost


def test_tables_by_name(make_parquet: Make, tmp_path: Path, storage: Storage) -> None:
    pytest.importorskip("datasets", reason="needs the extra 'train'")
    make_parquet(tmp_path / "a.parquet", range(3))
    table = open_source([f"parquet:{tmp_path}/a.parquet#image"], storage=storage)
    assert [table.read(index).getpixel((0, 0))[0] for index in range(3)] == [0, 1, 2]


def test_several_names_are_mixed(make_folder: Make, make_shard: Make, tmp_path: Path) -> None:
    photos = make_folder(tmp_path / "photos", range(12))
    (photos / "broken.png").write_bytes(b"no picture")
    (photos / "notes.txt").write_text("hello")
    shard = make_shard(tmp_path / "a.tar", range(3))
    shard.write_bytes(shard.read_bytes()[:5000])
    names = ["toyworld", str(photos), f"shards:{shard}"]
    mixture = open_source(names, [8, 1, 1], scenes=4, storage=Storage(tmp_path / "storage"))
    assert isinstance(mixture, Mixture)
    assert mixture.starts[:3] == [0, 4, 17]
    assert mixture.shares == [0.8, 0.1, 0.1]
    assert mixture.read(4).getpixel((0, 0)) == (0, 0, 0)
    assert mixture.read(18).getpixel((0, 0)) == (1, 1, 1)
    with pytest.raises(ValueError, match="not an image"):
        mixture.read(16)
    assert len(mixture.sources[1].skipped) == 1  # reading for training keeps no record
    found = {Path(path).name: reason.split(":")[0] for path, reason in faults(mixture)}
    assert found == {"notes.txt": "not an image", "a.tar": "truncated"}


def test_bad_names_are_refused(tmp_path: Path, storage: Storage) -> None:
    with pytest.raises(FolderError, match="cannot read folder"):
        open_source([str(tmp_path / "nowhere")], storage=storage)
    with pytest.raises(ValueError, match="no training data"):
        open_source([], storage=storage)
    with pytest.raises(ValueError, match=r"3 data weights for 2 sources \(toyworld, toyworld\)"):
        open_source(["toyworld", "toyworld"], [1, 2, 3], storage=storage)


def test_identity_and_layout_change_with_the_data(make_folder: Make, tmp_path: Path) -> None:
    photos = make_folder(tmp_path / "photos", range(4))
    identity, layout = data_identity(ImageFiles(photos)), data_layout(ImageFiles(photos))
    assert data_identity(ImageFiles(f"{photos}/.")) == identity
    (photos / "0/0.png").write_bytes((photos / "0/0.png").read_bytes() + b" ")
    changed = data_identity(ImageFiles(photos))
    assert changed != identity
    assert data_layout(ImageFiles(photos)) == layout  # the same samples in the same order
    (photos / "0/0.png").rename(photos / "0/00.png")
    assert data_layout(ImageFiles(photos)) != layout
    toys = [ToyWorldImages(count) for count in (5, 6)]
    mixtures = [Mixture(toys), Mixture(toys, [1, 1]), Mixture([toys[0], ImageFiles(photos)])]
    others = {data_identity(source) for source in (*toys, *mixtures)}
    assert len({identity, changed, *others}) == 7
    assert data_identity(toys[0]) == "toyworld:5"


def test_the_cache_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("RADIO_CACHE", raising=False)
    assert cache_folder() == tmp_path / "radio"
    monkeypatch.setenv("RADIO_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


OWN = """
from PIL import Image

class Squares:
    def __init__(self, count="3"):
        self.count = int(count)

    def __len__(self):
        return self.count

    def read(self, index):
        return Image.new("RGB", (8, 8), (index,) * 3)

def four():
    return Squares(4)

five = Squares(5)
nothing = Squares(0)
number = 7
"""


def test_sources_of_peoples_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_squares.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    expected = {"Squares": 3, "Squares#12": 12, "four": 4, "five": 5}
    for name, count in expected.items():
        source = open_source([f"own_squares:{name}"])
        assert len(source) == count
        assert source.read(2).getpixel((0, 0)) == (2, 2, 2)
        assert data_layout(source) == data_identity(source) == f"own_squares:Squares:{count}"
        assert faults(source) == []
    mixture = open_source(["own_squares:five", "toyworld:2"])
    assert len(mixture) == 7
    with pytest.raises(ValueError, match=r"'own_squares:number' is no data source.*read\(index\)"):
        open_source(["own_squares:number"])
    with pytest.raises(ValueError, match="'own_squares:nothing' has no images"):
        open_source(["own_squares:nothing"])
    with pytest.raises(ValueError, match="own_squares has no 'Circles'"):
        open_source(["own_squares:Circles"])
    with pytest.raises(ValueError, match="did you mean 'shards'"):
        open_source(["shard:x"])
    with pytest.raises(ValueError, match="toyworld:many"):
        open_source(["toyworld:many"])
