"""Images in Hugging Face datasets and parquet files."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

datasets = pytest.importorskip("datasets", reason="needs the extra 'train'")
pyarrow = pytest.importorskip("pyarrow", reason="needs the extra 'train'")
parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra 'train'")

from radio_core.data.images import UnreadableImage  # noqa: E402
from radio_core.data.storage import Storage  # noqa: E402
from radio_core.data.tables import TableImages, open_hugging_face, open_parquet  # noqa: E402

MakeParquet = Callable[..., Path]


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hugging-face"))
    datasets.disable_progress_bars()
    return Storage(tmp_path / "storage")


@pytest.fixture
def files(make_parquet: MakeParquet, tmp_path: Path) -> Path:
    make_parquet(tmp_path / "part-0.parquet", range(3))
    make_parquet(tmp_path / "part-1.parquet", range(3, 8))
    return tmp_path


def shades(table: TableImages) -> list[int]:
    return [table.read(index).getpixel((0, 0))[0] for index in range(len(table))]


def test_parquet_files_in_order(files: Path, storage: Storage) -> None:
    table = open_parquet(f"{files}/part-*.parquet", storage)
    assert table.column == "image"
    assert shades(table) == list(range(8))
    assert shades(open_parquet(f"{files}/part-1.parquet#image", storage)) == list(range(3, 8))
    assert {path.name for path in files.glob("*.parquet")} == {"part-0.parquet", "part-1.parquet"}


def test_columns_of_bytes_with_faults(files: Path, storage: Storage) -> None:
    rows = parquet.read_table(files / "part-0.parquet")["image"].to_pylist()
    content = [row["bytes"] for row in rows]
    table = pyarrow.table({"raw": [content[0], b"no picture", None, b"", content[1][:45]]})
    parquet.write_table(table, files / "raw.parquet")
    images = open_parquet(f"{files}/raw.parquet", storage)
    assert images.read(0).size == (12, 10)
    reasons = []
    for row in range(1, 5):
        with pytest.raises(UnreadableImage) as caught:
            images.read(row)
        assert caught.value.name == f"parquet:{files}/raw.parquet[{row}].raw"
        reasons.append(caught.value.reason.split(":")[0])
    assert reasons == ["not an image", "missing", "empty file", "truncated"]


def test_bad_parquet_is_named_before_training(
    files: Path, storage: Storage, make_parquet: MakeParquet
) -> None:
    def refused(pattern: str) -> str:
        with pytest.raises(ValueError, match=r".") as caught:
            open_parquet(f"{files}/{pattern}", storage)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "matches no file" in refused("none-*.parquet")
    assert "none.parquet is no readable parquet file" in refused("none.parquet")
    assert "part-0.parquet has no column 'img'; known: number, image" in refused("part-*#img")
    assert "column 'number' of" in refused("part-*#number")
    assert "holds no images; those that do: image" in refused("part-*#number")
    make_parquet(files / "part-2.parquet", range(2), column="picture")
    assert "part-2.parquet has no column 'image'; known: number, picture" in refused("part-*")
    whole = (files / "part-1.parquet").read_bytes()
    (files / "part-2.parquet").write_bytes(whole[:-20])
    assert "part-2.parquet is no readable parquet file" in refused("part-*")
    (files / "part-2.parquet").write_bytes(whole[:4] + bytes(300) + whole[304:])
    assert "part-2.parquet is no readable parquet file" in refused("part-*")


def test_several_columns_of_images_must_be_chosen_from(files: Path, storage: Storage) -> None:
    table = pyarrow.table({"left": [b"x"], "right": [b"y"], "label": [1]})
    parquet.write_table(table, files / "two.parquet")
    with pytest.raises(ValueError, match="has 2 columns of images among left, right, label"):
        open_parquet(f"{files}/two.parquet", storage)
    assert open_parquet(f"{files}/two.parquet#right", storage).column == "right"


@pytest.fixture
def saved(tmp_path: Path, storage: Storage) -> Path:
    """A dataset with the splits train (4 rows) and test (2 rows), as `save_to_disk` writes it."""
    pictures = [Image.new("RGB", (6, 5), (shade,) * 3) for shade in range(6)]
    rows = datasets.Dataset.from_dict(
        {"picture": pictures, "label": list(range(6))},
        features=datasets.Features({"picture": datasets.Image(), "label": datasets.Value("int64")}),
    )
    splits = {"train": rows.select(range(4)), "test": rows.select(range(4, 6))}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    return tmp_path / "saved"


def test_saved_datasets_by_split_and_column(saved: Path) -> None:
    assert shades(open_hugging_face(str(saved))) == [0, 1, 2, 3]
    assert shades(open_hugging_face(f"{saved}@test#picture")) == [4, 5]
    assert shades(open_hugging_face(str(saved / "test"))) == [4, 5]
    with pytest.raises(ValueError, match=r"hf:.*no split 'val'; known: train, test"):
        open_hugging_face(f"{saved}@val")
    with pytest.raises(ValueError, match=r"has no column 'image'; known: picture, label"):
        open_hugging_face(f"{saved}#image")


def test_folders_of_data_files(files: Path, storage: Storage) -> None:
    assert shades(open_hugging_face(f"{files}#image")) == list(range(8))
    with pytest.raises(ValueError, match=r'hf:.*@nope cannot be opened: Unknown split "nope"'):
        open_hugging_face(f"{files}@nope")


def test_code_beside_the_data_is_not_run(tmp_path: Path, storage: Storage) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    proof = tmp_path / "proof"
    (folder / "photos.py").write_text(f"open({str(proof)!r}, 'w').close()\n")
    with pytest.raises(ValueError, match=r"hf:.*photos cannot be opened"):
        open_hugging_face(str(folder))
    assert not proof.exists()


def test_unknown_names_are_refused(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="hf:nobody/nothing cannot be opened"):
        open_hugging_face("nobody/nothing")
    with pytest.raises(ValueError, match="hf: needs the path or the hub id"):
        open_hugging_face("")


def test_identity_follows_the_rows(
    files: Path, saved: Path, storage: Storage, make_parquet: MakeParquet
) -> None:
    pattern = f"{files}/part-*.parquet"
    first = open_parquet(pattern, storage).layout()
    os.utime(files / "part-0.parquet", (0, 0))  # a copy of the files is the same data
    assert open_parquet(pattern, storage).layout() == first
    make_parquet(files / "part-2.parquet", range(1))
    assert open_parquet(pattern, storage).layout() != first
    train, test = (open_hugging_face(f"{saved}@{split}").layout() for split in ("train", "test"))
    assert train == open_hugging_face(str(saved)).layout() != test
