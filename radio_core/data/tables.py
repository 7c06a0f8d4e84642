"""Images in a column of a Hugging Face dataset or of parquet files, read by row."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from radio_core.data.images import UnreadableImage, decode_rgb, load_rgb, printable
from radio_core.data.shards import local_files
from radio_core.data.storage import Storage, digest
from radio_core.extras import require


class TableImages:
    """One column of images, memory-mapped from Arrow files; an `ImageSource`.

    The column is of the library's Image type, or holds the bytes of image files, or structs of
    "bytes" and "path". Images are decoded by `decode_rgb`, not by the library.
    `column` "" takes the only one that holds images; `state` changes when the rows do (by default
    the library's own fingerprint).
    """

    def __init__(self, name: str, table: Any, column: str = "", state: str = "") -> None:
        datasets = require("datasets", extra="train")
        self.name = name
        self.column = _choose_column(name, table.features, column)
        rows = table.select_columns([self.column])
        if isinstance(table.features[self.column], datasets.Image):
            rows = rows.cast_column(self.column, datasets.Image(decode=False))
        self._rows = rows
        self._state = state or rows._fingerprint
        if not len(self):
            raise ValueError(f"{printable(name)} has no rows")

    def __len__(self) -> int:
        """Number of rows, those without a readable image included."""
        return len(self._rows)

    def read(self, index: int) -> Image.Image:
        """The image in a row as 8-bit RGB."""
        name = f"{self.name}[{index}].{self.column}"
        try:
            value = self._rows[index][self.column]
        except Exception as error:  # damage in an Arrow file has many names
            raise UnreadableImage(name, f"broken: {error}") from error
        content, path = value, None
        if isinstance(value, Mapping):
            content, path = value.get("bytes"), value.get("path")
        if content is not None:
            return decode_rgb(content, name)
        if path is None:
            raise UnreadableImage(name, "missing: the row has no image")
        return load_rgb(path)

    def layout(self) -> str:
        """Changes when the rows do."""
        return f"table:{len(self)}:{self._state}"


def open_hugging_face(spec: str, storage: Storage | None = None) -> TableImages:
    """Open "PATH_OR_ID[@split][#column]".

    PATH is what `datasets.save_to_disk` wrote, or a folder of data files; ID is one of the hub.
    Code that comes with a dataset is never run. The split is "train" unless named.
    """
    datasets = require("datasets", extra="train")
    source, _, column = spec.partition("#")
    where, _, split = source.partition("@")
    split = split or "train"
    name = f"hf:{source}"
    if not where:
        raise ValueError("hf: needs the path or the hub id of a dataset, e.g. hf:cifar10@train#img")
    path = Path(where).expanduser()
    try:
        if (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file():
            table = datasets.load_from_disk(str(path))
            if isinstance(table, datasets.DatasetDict):
                if split not in table:
                    raise ValueError(f"no split {split!r}; known: {', '.join(table)}")
                table = table[split]
        else:
            table = datasets.load_dataset(str(path) if path.exists() else where, split=split)
    except Exception as error:  # the library's errors have no common base
        raise ValueError(f"{printable(name)} cannot be opened: {_one_line(error)}") from error
    return TableImages(name, table, column)


def open_parquet(spec: str, storage: Storage) -> TableImages:
    """Open "PATTERN[#column]": parquet files by path, with {000..099}, {a,b} or * ? [ ].

    The column is converted once to Arrow files, which are kept in the storage's folder.
    """
    datasets = require("datasets", extra="train")
    pattern, _, column = spec.partition("#")
    name = f"parquet:{pattern}"
    files = local_files(pattern, "parquet")
    schemas = [_schema(file) for file in files]
    column = _choose_column(files[0], datasets.Features.from_arrow_schema(schemas[0]), column)
    for file, schema in zip(files, schemas, strict=True):
        if column not in schema.names:
            known = ", ".join(schema.names)
            raise ValueError(f"{printable(file)} has no column {column!r}; known: {known}")
    try:
        table = datasets.load_dataset(
            "parquet",
            data_files=[os.path.abspath(file) for file in files],
            split="train",
            columns=[column],
            cache_dir=str(storage.folder / "parquet"),
        )
    except Exception as error:
        for file in files:
            _schema(file, column)
        raise ValueError(f"{printable(name)} cannot be read: {_one_line(error)}") from error
    sizes = [(os.path.basename(file), os.path.getsize(file)) for file in files]
    return TableImages(name, table, column, digest([column, sizes]))


def _schema(file: str, column: str = "") -> Any:
    """The schema of a parquet file, which is at its end: a cut file has none.

    With a column all of it is read, to find out which of several files is damaged.
    """
    try:
        opened = require("pyarrow.parquet", extra="train").ParquetFile(file)
        if column:
            for _ in opened.iter_batches(columns=[column]):
                pass
        return opened.schema_arrow
    except Exception as error:  # the library's errors have no common base
        raise ValueError(
            f"{printable(file)} is no readable parquet file ({_one_line(error)}): restore it or "
            "leave it out of the pattern"
        ) from error


def _choose_column(name: str, features: Mapping[str, Any], column: str) -> str:
    fitting = [key for key, feature in features.items() if _holds_images(feature)]
    known = ", ".join(features)
    if column and column not in features:
        raise ValueError(f"{printable(name)} has no column {column!r}; known: {known}")
    if column and column not in fitting:
        raise ValueError(
            f"column {column!r} of {printable(name)} holds no images; those that do: "
            f"{', '.join(fitting) or 'none'}"
        )
    if not column and len(fitting) != 1:
        raise ValueError(
            f"{printable(name)} has {len(fitting)} columns of images among {known}: name one "
            "with #column"
        )
    return column or fitting[0]


def _holds_images(feature: Any) -> bool:
    datasets = require("datasets", extra="train")
    if isinstance(feature, Mapping):
        return "bytes" in feature
    is_bytes = isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary")
    return is_bytes or isinstance(feature, datasets.Image)


def _one_line(error: BaseException) -> str:
    """What the error says, or the one behind it, which the library hides in the cause."""
    cause = error.__cause__ or error
    return " ".join(str(cause).split()) or type(cause).__name__
