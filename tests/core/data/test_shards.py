"""WebDataset shards: which images they hold, read by index, and what is told of damaged ones."""

import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from radio_core.data import shards
from radio_core.data.images import UnreadableImage
from radio_core.data.shards import ShardImages, ShardIndex, index_shard, read_samples
from radio_core.data.sources import BlockSource, RemoteSource
from radio_core.data.storage import Storage

MakeShard = Callable[..., Path]
PNG = (".png",)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path / "storage")


@pytest.fixture
def set_of_three(make_shard: MakeShard, tmp_path: Path) -> Path:
    """Shards 0, 1 and 2 with 5, 3 and 4 pictures whose shades count on."""
    for number, pictures in enumerate((range(5), range(5, 8), range(8, 12))):
        make_shard(tmp_path / f"set/cc-{number:03d}.tar", pictures)
    return tmp_path / "set"


def shades(images: ShardImages) -> list[int | None]:
    found: list[int | None] = []
    for index in range(len(images)):
        try:
            found.append(images.read(index).getpixel((0, 0))[0])
        except UnreadableImage:
            found.append(None)
    return found


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def png(shade: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (shade,) * 3).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("pattern", ["cc-{000..002}.tar", "cc-*.tar", "cc-00[0-2].tar", "**/*.tar"])
def test_images_of_all_shards_in_order(set_of_three: Path, storage: Storage, pattern: str) -> None:
    if "{" in pattern:
        pytest.importorskip("braceexpand", reason="needs the extra 'train'")
    images = ShardImages(f"{set_of_three}/{pattern}", storage)
    assert isinstance(images, BlockSource)
    assert isinstance(images, RemoteSource)
    assert not images.is_remote
    assert shades(images) == list(range(12))
    assert images.block_lengths().tolist() == [5, 3, 4]
    assert images.faults == []
    assert shades(pickle.loads(pickle.dumps(images))) == list(range(12))


def test_webdatasets_own_writer_is_understood(storage: Storage, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="needs the extra 'train'")
    with webdataset.ShardWriter(str(tmp_path / "w-%03d.tar"), maxcount=4, verbose=0) as writer:
        for shade in range(10):
            sample = {"__key__": f"{shade:04d}", "png": png(shade), "json": {"shade": shade}}
            writer.write(sample)
    images = ShardImages(f"{tmp_path}/w-*.tar", storage)
    assert shades(images) == list(range(10))
    assert images.block_lengths().tolist() == [4, 4, 2]


def test_members_are_chosen_by_their_ending(storage: Storage, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        add(archive, "deep/" + "long" * 60 + "/1.input.PNG", png(1))
        add(archive, "2.mask.png", png(2))
        add(archive, "3.cls", b"7")
        link = tarfile.TarInfo("4.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        folder = tarfile.TarInfo("5.png")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        add(archive, "../../escape.png", png(6))  # nothing is ever unpacked
    assert shades(ShardImages(f"{tmp_path}/a.tar", storage)) == [1, 2, 6]
    assert shades(ShardImages(f"{tmp_path}/a.tar#input.png", storage)) == [1]
    assert shades(ShardImages(f"{tmp_path}/a.tar#.mask.png", storage)) == [2]
    with pytest.raises(
        ValueError, match=r"no images in 1 shards.*holds no file that ends in \.jpg"
    ):
        ShardImages(f"{tmp_path}/a.tar#jpg", storage)


def test_damaged_pictures_are_named_by_shard_and_member(storage: Storage, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "0.png", b"no picture")
        add(archive, "1.png", png(1))
        add(archive, "2.jpg", b"")
    images = ShardImages(f"{tmp_path}/a.tar", storage)
    assert shades(images) == [None, 1, None]
    with pytest.raises(UnreadableImage) as caught:
        images.read(0)
    assert caught.value.name == f"{tmp_path}/a.tar/0.png"
    assert caught.value.reason == "not an image"


def test_of_a_truncated_shard_what_is_whole_is_used(
    set_of_three: Path, storage: Storage, make_shard: MakeShard
) -> None:
    whole = (set_of_three / "cc-001.tar").read_bytes()
    offsets = index_shard(set_of_three / "cc-001.tar", PNG).offsets.tolist()
    expected = {offsets[2] - 600: 2, offsets[2] + 10: 2, offsets[1] + 10: 1, offsets[0] + 1: 0}
    for length, usable in expected.items():
        (set_of_three / "cc-001.tar").write_bytes(whole[:length])
        images = ShardImages(f"{set_of_three}/cc-*.tar", storage)
        assert shades(images) == [*range(5), *range(5, 5 + usable), *range(8, 12)]
        ((shard, reason),) = images.faults
        assert shard.endswith("cc-001.tar")
        assert f"the {usable} images before" in reason if usable else "no readable tar" in reason
    (set_of_three / "cc-001.tar").write_bytes(whole)  # repaired: indexed again
    assert ShardImages(f"{set_of_three}/cc-*.tar", storage).faults == []


def test_every_cut_and_flipped_byte_is_survived(make_shard: MakeShard, tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a.tar", range(3))
    whole = shard.read_bytes()
    for length in range(0, len(whole), 97):
        shard.write_bytes(whole[:length])
        index = index_shard(shard, PNG)
        assert all(index.offsets + index.sizes <= length)
        assert index.fault or len(index) == 3
    for position in range(0, 3 * 512, 7):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        shard.write_bytes(damaged)
        index = index_shard(shard, PNG)
        assert all(index.offsets + index.sizes <= len(whole))


def test_headers_that_point_backwards_end_the_list(make_shard: MakeShard, tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "a.tar", range(2))
    content = bytearray(shard.read_bytes())
    negative = b"\xff" * 4 + (2**64 - 2048).to_bytes(8, "big")  # base 256, below zero
    content[124:136] = negative
    content[148:156] = b" " * 8
    content[148:155] = b"%06o\0" % sum(content[:512])
    shard.write_bytes(content)
    index = index_shard(shard, PNG)
    assert index.fault
    assert len(index) <= 1


@pytest.mark.parametrize("magic", ["gz", "bz2", "xz"])
def test_compressed_shards_say_what_to_do(magic: str, storage: Storage, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", f"w:{magic}") as archive:
        add(archive, "0.png", png())
    with pytest.raises(ValueError, match=r"unpack it to a plain \.tar first"):
        ShardImages(f"{tmp_path}/a.tar", storage)


def test_a_shard_without_images_is_left_out_and_listed(
    set_of_three: Path, storage: Storage
) -> None:
    with tarfile.open(set_of_three / "cc-001.tar", "w") as archive:
        add(archive, "0.txt", b"hello")
    images = ShardImages(f"{set_of_three}/cc-*.tar", storage)
    assert shades(images) == [*range(5), *range(8, 12)]
    assert images.block_lengths().tolist() == [5, 4]
    assert "holds no file that ends in" in images.faults[0][1]
    (set_of_three / "cc-001.tar").write_bytes(b"<html>not found</html>")
    images = ShardImages(f"{set_of_three}/cc-*.tar", storage)
    assert images.faults[0][1] == "broken: no readable tar archive"


def test_patterns_that_match_nothing_are_refused(set_of_three: Path, storage: Storage) -> None:
    pytest.importorskip("braceexpand", reason="needs the extra 'train'")
    with pytest.raises(ValueError, match=r"shards:.*none-\*\.tar matches no file"):
        ShardImages(f"{set_of_three}/none-*.tar", storage)
    with pytest.raises(ValueError, match="shards: needs a pattern"):
        ShardImages("", storage)
    with pytest.raises(ValueError, match=r"2 of 5 shards are missing: .*cc-003.tar, .*cc-004.tar"):
        ShardImages(f"{set_of_three}/cc-{{000..004}}.tar", storage)
    with pytest.raises(ValueError, match="Unbalanced braces"):
        ShardImages(f"{set_of_three}/cc-{{000..002.tar", storage)


def test_the_index_is_kept_until_a_shard_changes(
    set_of_three: Path, tmp_path: Path, make_shard: MakeShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed: list[str] = []
    told: list[str] = []

    def watch(path: Path, endings: frozenset[str]) -> ShardIndex:
        indexed.append(path.name)
        return index_shard(path, endings)

    monkeypatch.setattr(shards, "index_shard", watch)
    storage = Storage(tmp_path / "storage", tell=told.append)
    before = sorted(set_of_three.rglob("*"))
    for _ in range(3):
        assert shades(ShardImages(f"{set_of_three}/*.tar", storage)) == list(range(12))
    assert indexed == ["cc-000.tar", "cc-001.tar", "cc-002.tar"]
    assert "12 images in 3 shards by the kept index (--refresh-index" in told[-1]
    make_shard(set_of_three / "cc-001.tar", [50])
    assert shades(ShardImages(f"{set_of_three}/*.tar", storage)) == [*range(5), 50, *range(8, 12)]
    assert indexed[3:] == ["cc-001.tar"]
    ShardImages(f"{set_of_three}/*.tar", Storage(tmp_path / "storage", refresh=True))
    assert len(indexed) == 7
    assert sorted(set_of_three.rglob("*")) == before


def test_with_stated_sizes_nothing_is_counted(
    set_of_three: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"cc-000.tar": 5, "cc-001.tar": 4, "cc-002.tar": 3, "other": "x"}
    (set_of_three / "sizes.json").write_text(json.dumps(sizes))
    with monkeypatch.context() as patched:
        patched.setattr(shards, "index_shard", None)
        images = ShardImages(f"{set_of_three}/*.tar", storage)
    assert images.counts.tolist() == [5, 4, 3]
    # One picture fewer than stated is a fault, one more is left out.
    assert shades(images) == [*range(8), None, *range(8, 11)]
    with pytest.raises(UnreadableImage, match=r"cc-001.tar: missing: 3 images are there, not 4"):
        images.read(8)


def test_a_shard_that_goes_away_while_training_is_a_fault(
    set_of_three: Path, storage: Storage
) -> None:
    images = ShardImages(f"{set_of_three}/*.tar", storage)
    (set_of_three / "cc-001.tar").unlink()
    assert shades(images) == [*range(5), None, None, None, *range(8, 12)]
    with pytest.raises(UnreadableImage) as caught:
        images.read(5)
    assert caught.value.name == str(set_of_three / "cc-001.tar")
    assert caught.value.reason == "missing: No such file or directory"


def test_identity_follows_the_shards_and_their_counts(
    set_of_three: Path, storage: Storage, make_shard: MakeShard
) -> None:
    def identity(pattern: str) -> str:
        return ShardImages(f"{set_of_three}/{pattern}", storage).layout()

    first = identity("*.tar")
    assert first == identity("cc-00[0-2].tar")
    assert first != identity("cc-00[0-1].tar")
    assert first != identity("*.tar#png")
    make_shard(set_of_three / "cc-002.tar", range(3))
    assert first != identity("*.tar")


def test_one_process_keeps_few_shards_open(
    set_of_three: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "_OPEN", 2)
    images = ShardImages(f"{set_of_three}/*.tar", storage)
    for index in (0, 5, 8, 1, 9, 6, 0):
        assert images.read(index).getpixel((0, 0))[0] == index


def test_labelled_samples_come_in_their_order(tmp_path: Path) -> None:
    shard = tmp_path / "a.tar"
    with tarfile.open(shard, "w") as archive:
        for name in ("x/0.jpg", "x/0.cls", "1.input.PNG", "1.CLS", "2.cls", "3.json", "x.y/4.jpg"):
            add(archive, name, name.encode())
    endings = {".jpg", ".png", ".cls"}
    samples = list(read_samples(shard, endings))
    assert [(sample.name, set(sample.files)) for sample in samples] == [
        ("x/0", {"jpg", "cls"}),
        ("1", {"input.png", "cls"}),
        ("2", {"cls"}),
        ("x.y/4", {"jpg"}),
    ]
    assert samples[0].files["cls"] == b"x/0.cls"
    shard.write_bytes(shard.read_bytes()[: index_shard(shard, endings).offsets[4]])
    whole = read_samples(shard, endings)
    assert [next(whole).name for _ in range(2)] == ["x/0", "1"]
    with pytest.raises(UnreadableImage, match="truncated"):
        next(whole)
