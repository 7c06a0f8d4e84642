"""The folder of a run: who may write there, what it was configured as, its logs."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from radio_core.config_file import to_mapping, write_config
from radio_core.data.sources import ImageSource, data_layout
from radio_core.distill.config import RUN_CONTROL, TrainConfig

CONFIG_FILE = "config.yaml"
DATA_FILE = "data.json"
CACHE_FOLDER = "cache"
METRICS_FILE = "metrics.jsonl"
SKIPPED_FILE = "skipped.jsonl"


class RunFolder:
    """`out` of a run; nothing is written there before `claim`.

    Args:
        config: the run that wants to work there.

    Raises:
        ValueError: the folder holds something else, or a run with another config.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.path = config.out
        self.checkpoints = self.path / "checkpoints"
        self.student = self.path / "student"
        self._config = config
        self._temporary = self.path / f".{CONFIG_FILE}.tmp"
        self._check(config)
        self._skipped = {str(entry["path"]) for entry in _read_rows(self.path / SKIPPED_FILE)}

    def _check(self, config: TrainConfig) -> None:
        """Refuse a folder that this run must not write to."""
        stored = self.path / CONFIG_FILE
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"--out {self.path} is a file, not a folder")
        # A cache may be filled before the run, and a kill may leave the temporary file.
        harmless = {CACHE_FOLDER, self._temporary.name}
        entries = self.path.iterdir() if self.path.is_dir() else ()
        occupied = any(entry.name not in harmless for entry in entries)
        if occupied and not config.resume:
            what = "another run" if stored.is_file() else "other files"
            raise ValueError(
                f"--out {self.path} holds {what}: choose an empty folder"
                + (", or continue that run with --resume" if stored.is_file() else "")
            )
        if occupied and not stored.is_file():
            raise ValueError(f"--out {self.path} holds no run that could be resumed")
        if occupied and not config.override:
            _require_same(_read(stored), to_mapping(config))

    def check_data(self, source: ImageSource) -> None:
        """Refuse to resume over other images: the samples would not be those of the run.

        Raises:
            ValueError: images were added to the data, or removed, since the run started.
        """
        before, now = _read_rows(self.path / DATA_FILE), _describe(source)
        if before and before[0] != now and not self._config.override:
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
        self._temporary.replace(self.path / DATA_FILE)

    def add_skipped(self, entries: list[tuple[str, str]]) -> None:
        """List unreadable files in skipped.jsonl, each once."""
        new = {path: reason for path, reason in entries if path not in self._skipped}
        if not new:
            return
        self._skipped.update(new)
        with (self.path / SKIPPED_FILE).open("a", encoding="utf-8") as file:
            for path, reason in new.items():
                file.write(json.dumps({"path": path, "reason": reason}) + "\n")

    @property
    def num_skipped(self) -> int:
        """Unreadable files met so far, also before a resume."""
        return len(self._skipped)


class MetricsLog:
    """metrics.jsonl, one row a logged step, and the same numbers for TensorBoard.

    The rows depend on config and step alone (no times), so a resumed run writes the same file.

    Args:
        folder: the run's folder.
        step: rows after this step are dropped: they were written after the last checkpoint.
        keep_last: whether the row of `step` itself stays: not if it was only written because the
            run was to end there.
    """

    def __init__(self, folder: Path, step: int, keep_last: bool = True) -> None:
        path = folder / METRICS_FILE
        last = step if keep_last else step - 1
        kept = [row for row in read_metrics(path) if row["step"] <= last]
        temporary = folder / f".{METRICS_FILE}.tmp"
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
        temporary.replace(path)
        self._file = path.open("a", encoding="utf-8")
        self._board = _tensorboard(folder / "tensorboard", step)

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
    """Rows of a metrics.jsonl; a last line cut off by a crash is left out."""
    return _read_rows(path)


def reusable(config: TrainConfig) -> TrainConfig:
    """The config without what belongs to one start only, so that another run can take it up."""
    return replace(config, resume=False, override=False, dry_run=False, refresh_index=False)


def _describe(source: ImageSource) -> dict[str, Any]:
    return {"images": len(source), "layout": data_layout(source)}


def _read_rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows


def _tensorboard(folder: Path, step: int) -> Any:
    """A TensorBoard writer, or None where tensorboard (extra "train") is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)


def _read(path: Path) -> Any:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not the config of a run: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not the config of a run")
    return content


def _require_same(stored: Any, wanted: Any) -> None:
    """Refuse to resume a run whose results would be another's."""
    differences = [
        f"{name}: {old!r} -> {new!r}"
        for name, (old, new) in sorted(_differences(stored, wanted).items())
        if name.split(".")[0] not in RUN_CONTROL and not name.endswith(".rank_share")
    ]
    if differences:
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
