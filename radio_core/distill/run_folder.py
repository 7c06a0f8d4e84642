"""The folder of a run: who may write there, what it was configured as, its logs."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from radio_core.config_file import to_mapping, write_config
from radio_core.data.sources import ImageSource, data_layout
from radio_core.distill.config import RUN_CONTROL, TrainConfig
from radio_core.distill.targets import CACHE_FOLDER

CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.jsonl"
_DATA_FILE = "data.json"
_SKIPPED_FILE = "skipped.jsonl"


class RunFolder:
    """`out` of a run; nothing is written there before `claim`.

    Args:
        config: the run that wants to work there.

    Attributes:
        path: the folder.
        checkpoints: a folder in it.
        student: of the model that comes out.

    Raises:
        ValueError: the folder holds something else, or a run with another config.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.path = config.run.out
        self.checkpoints, self.student = self.path / "checkpoints", self.path / "student"
        self._config = config
        self._temporary = self.path / f".{CONFIG_FILE}.tmp"
        stored = self.path / CONFIG_FILE
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"--out {self.path} is a file, not a folder")
        # A cache may be filled before the run, and a kill may leave the temporary file.
        harmless = {CACHE_FOLDER, self._temporary.name}
        entries = self.path.iterdir() if self.path.is_dir() else ()
        if any(entry.name not in harmless for entry in entries):
            if not config.run.resume:
                what = "another run" if stored.is_file() else "other files"
                raise ValueError(
                    f"--out {self.path} holds {what}: choose an empty folder"
                    + (", or continue that run with --resume" if stored.is_file() else "")
                )
            if not stored.is_file():
                raise ValueError(f"--out {self.path} holds no run that could be resumed")
            _check_stored(stored, config)
        self._skipped = {str(entry["path"]) for entry in read_metrics(self.path / _SKIPPED_FILE)}

    @property
    def num_skipped(self) -> int:
        """Unreadable files met so far, also before a resume."""
        return len(self._skipped)

    def check_data(self, source: ImageSource) -> None:
        """Refuse to resume over other images: the samples would not be those of the run.

        Raises:
            ValueError: images were added to the data, or removed, since the run started.
        """
        before, now = read_metrics(self.path / _DATA_FILE), _describe(source)
        if before and before[0] != now and not self._config.run.override:
            raise ValueError(
                f"this run was started with other training data: {before[0].get('images')} images "
                f"then, {now['images']} now. Restore it, or insist with --override"
            )

    def claim(self, source: ImageSource) -> None:
        """Write the resolved config, and what its data is: from now on the folder is this run's."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_config(reusable(self._config), self._temporary)
        self._temporary.replace(self.path / CONFIG_FILE)
        self._temporary.write_text(json.dumps(_describe(source)), encoding="utf-8")
        self._temporary.replace(self.path / _DATA_FILE)

    def add_skipped(self, entries: list[tuple[str, str]]) -> None:
        """List unreadable files in skipped.jsonl, each once."""
        new = {path: reason for path, reason in entries if path not in self._skipped}
        if new:
            self._skipped.update(new)
            with (self.path / _SKIPPED_FILE).open("a", encoding="utf-8") as file:
                for path, reason in new.items():
                    file.write(json.dumps({"path": path, "reason": reason}) + "\n")


class MetricsLog:
    """metrics.jsonl, one row a logged step, and the same numbers for TensorBoard.

    The rows depend on config and step alone (no times), so a resumed run writes the same file.

    Args:
        folder: the run's folder.
        step: rows after this step are dropped: they were written after the last checkpoint.
        keep_last: the row of `step` itself stays: not if it was only written because the run was
            to end there.
    """

    def __init__(self, folder: Path, step: int, keep_last: bool = True) -> None:
        path = folder / METRICS_FILE
        last = step if keep_last else step - 1
        kept = [row for row in read_metrics(path) if row["step"] <= last]
        temporary = folder / f".{METRICS_FILE}.tmp"
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
        temporary.replace(path)
        self._file = path.open("a", encoding="utf-8")
        self._board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:  # without the extra "train" there is no TensorBoard
            return
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def add(self, row: Mapping[str, Any], images_per_second: float) -> None:
        """Write one row; the throughput goes to TensorBoard only."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._board is not None:
            numbers = {key: value for key, value in row.items() if isinstance(value, float)}
            for key, value in {**numbers, "images_per_second": images_per_second}.items():
                self._board.add_scalar(key, value, row["step"])

    def close(self) -> None:
        """Flush everything."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of a .jsonl file of a run; a last line that a crash has cut off is left out."""
    rows: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def reusable(config: TrainConfig) -> TrainConfig:
    """The config without what belongs to one start only, so that another run can take it up."""
    once = {"resume": False, "override": False, "dry_run": False}
    return config.changed(run=once, data={"refresh_index": False})


def _describe(source: ImageSource) -> dict[str, Any]:
    return {"images": len(source), "layout": data_layout(source)}


def _check_stored(path: Path, config: TrainConfig) -> None:
    """Refuse to resume a run whose results would be another's."""
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not the config of a run: {error}") from error
    if not isinstance(stored, dict):
        raise ValueError(f"{path} is not the config of a run")
    if stored.keys() != {field.name for field in dataclasses.fields(TrainConfig)}:
        raise ValueError(
            f"{path} was written by another version, whose configs have other fields: finish that "
            "run with it, or start anew in an empty folder"
        )
    differences = [
        f"{name}: {old!r} -> {new!r}"
        for name, (old, new) in sorted(_differences(stored, to_mapping(config)).items())
        if name not in RUN_CONTROL and not name.endswith(".rank_share")
    ]
    if differences and not config.run.override:
        raise ValueError(
            "this run was started with another config; differing fields: "
            + "; ".join(differences)
            + ". Start it with the old values, or insist with --override"
        )


def _differences(old: Any, new: Any, where: str = "") -> dict[str, tuple[Any, Any]]:
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        old, new = dict(enumerate(old)), dict(enumerate(new))
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return {} if old == new else {where: (old, new)}
    found: dict[str, tuple[Any, Any]] = {}
    for key in {**old, **new}:
        inner = f"{where}.{key}" if where else str(key)
        found |= _differences(old.get(key), new.get(key), inner)
    return found
