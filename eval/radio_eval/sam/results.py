"""Results of Segment Anything on COCO, on disk image by image, so that a run can be continued.

A folder holds, while processes work, `images.part-<rank>.jsonl`, and afterwards `images.jsonl`:
a first line that says what was evaluated how, then one line an image with the results of its
annotations and detections. The lines of an image are written at once or not at all.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from radio_core.data.images import printable
from radio_eval.coco.masks import Rle

if TYPE_CHECKING:
    pass

IMAGES_FILE = "images.jsonl"
ANNOTATIONS_FILE, DETECTIONS_FILE = "annotations.json", "detections.json"
_PARTS = "images.part-*.jsonl"
_FORMAT = "radio eval sam-coco, 1"


@dataclass(frozen=True, kw_only=True)
class AnnotationResult:
    """What came out for one annotation.

    Attributes:
        annotation_id: COCO's id.
        image_id: of its image.
        area: the annotation's `area` field, square pixels.
        iou: of the mask with the annotation's, percent.
        predicted_iou: what the model thinks of its mask, a fraction.
        segmentation: the mask, if it is kept.
    """

    annotation_id: int
    image_id: int
    area: float
    iou: float
    predicted_iou: float
    segmentation: Rle | None = None


@dataclass(frozen=True, kw_only=True)
class DetectionResult:
    """The mask of one detected box, as COCO's results have it.

    Attributes:
        image_id: of its image.
        category_id: the detector's class.
        score: the detector's score.
        predicted_iou: what the model thinks of its mask, a fraction.
        segmentation: the mask.
    """

    image_id: int
    category_id: int
    score: float
    predicted_iou: float
    segmentation: Rle


@dataclass(frozen=True, kw_only=True)
class ImageResult:
    """What came out for one image.

    Attributes:
        image_id: COCO's id.
        annotations: in the file's order.
        detections: in the file's order.
        skipped: why the image could not be used; None if it could.
    """

    image_id: int
    annotations: tuple[AnnotationResult, ...] = ()
    detections: tuple[DetectionResult, ...] = ()
    skipped: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON types, without what is None."""
        if self.skipped is not None:
            return {"image_id": self.image_id, "skipped": self.skipped}
        return {
            "image_id": self.image_id,
            "annotations": [_without_none(a) for a in self.annotations],
            "detections": [_without_none(d) for d in self.detections],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ImageResult":
        """The inverse of `to_json`; KeyError or TypeError for anything else."""
        return cls(
            image_id=values["image_id"],
            annotations=tuple(AnnotationResult(**a) for a in values.get("annotations", ())),
            detections=tuple(DetectionResult(**d) for d in values.get("detections", ())),
            skipped=values.get("skipped"),
        )


def _without_none(result: AnnotationResult | DetectionResult) -> dict[str, Any]:
    return {k: v for k, v in dataclasses.asdict(result).items() if v is not None}


class ResultFolder:
    """Where the results of one evaluation are collected.

    Args:
        folder: made if it is not there.
        identity: JSON types: all that decides the results; a folder is continued only if it is
            the same.

    Raises:
        ValueError: the folder holds results of another evaluation, or a damaged file.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._header = json.loads(json.dumps({"format": _FORMAT, **identity}))
        self.done: dict[int, ImageResult] = {}
        for path in self._files():
            for result in self._read(path):
                if result.skipped is None:  # what could not be read may have been repaired
                    self.done[result.image_id] = result

    def _files(self) -> list[Path]:
        return sorted([*self.folder.glob(IMAGES_FILE), *self.folder.glob(_PARTS)])

    def _read(self, path: Path) -> Iterator[ImageResult]:
        """The results in a file; a last line that was not written to its end does not count."""
        lines = path.read_bytes().split(b"\n")[:-1]
        for number, line in enumerate(lines):
            try:
                values = json.loads(line)
                if number > 0:
                    yield ImageResult.from_json(values)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{printable(path)}: line {number + 1} is damaged; remove the file, or pass "
                    "--overwrite to begin anew"
                ) from error
            if number == 0:
                self._check_header(values, path)

    def _check_header(self, found: Any, path: Path) -> None:
        if found == self._header:
            return
        found = found if isinstance(found, dict) else {}
        names = [n for n in {**self._header, **found} if found.get(n) != self._header.get(n)]
        differences = "; ".join(f"{n}: {found.get(n)}, now {self._header.get(n)}" for n in names)
        raise ValueError(
            f"{printable(path)} holds results of another evaluation ({differences}); "
            "choose another --out, or pass --overwrite to remove them"
        )

    @classmethod
    def clear(cls, folder: Path) -> None:
        """Remove the files of an earlier evaluation, and nothing else."""
        names = (IMAGES_FILE, _PARTS, ANNOTATIONS_FILE, DETECTIONS_FILE)
        for path in [path for name in names for path in folder.glob(name)]:
            path.unlink()

    def open_part(self, rank: int) -> "PartFile":
        """The file that the process of this rank appends to."""
        return PartFile(self.folder / _PARTS.replace("*", str(rank)), self._header)

    def finish(self, results: Sequence[ImageResult]) -> None:
        """Replace the parts by one file, and write all annotations and detections as JSON lists.

        Args:
            results: of all images, in the order wanted.
        """
        rows = [self._header, *(result.to_json() for result in results)]
        _write_lines(self.folder / IMAGES_FILE, (_line(row) for row in rows))
        for path in self.folder.glob(_PARTS):
            path.unlink()
        annotations = [_without_none(a) for result in results for a in result.annotations]
        _write_list(self.folder / ANNOTATIONS_FILE, annotations)
        detections = [_without_none(d) for result in results for d in result.detections]
        if detections:
            _write_list(self.folder / DETECTIONS_FILE, detections)


class PartFile:
    """A file of results that survives the end of its process at any moment.

    Args:
        path: continued if it is there; an unfinished last line is cut off.
        header: its first line.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        whole_lines = path.read_bytes().rfind(b"\n") + 1 if path.is_file() else 0
        self._file: IO[bytes] = path.open("ab")
        self._file.truncate(whole_lines)
        if not whole_lines:
            self._append([header])

    def write(self, results: Iterable[ImageResult]) -> None:
        """Append the results of images; they are the system's when this returns."""
        self._append([result.to_json() for result in results])

    def _append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._file.write("".join(map(_line, rows)).encode())
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row) + "\n"


def _write_list(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A JSON list, one item a line."""
    inside = ",\n".join(json.dumps(row) for row in rows)
    _write_lines(path, [f"[\n{inside}\n]\n" if rows else "[]\n"])


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a file, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(lines)
    os.replace(partial, path)
