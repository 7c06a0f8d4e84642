"""The LLaVAs that answer for the models: trained ones that are given, or toy ones made here."""

import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from radio_core.devices import choose_device
from radio_core.teachers.load import is_teacher
from radio_eval.data import file_stamp
from radio_eval.llava_toy import ToyLlavaSizes
from radio_eval.table1.cells import digest, slug
from radio_eval.table1.models import Subject
from radio_llava.toy import FINISHED, TRAINED, ToyTraining, train_toy_llava

if TYPE_CHECKING:
    from radio_llava.answering import Answerer

_FILES = ("*.json", "*.safetensors", "*.bin")


class Llavas(Protocol):
    """Where the LLaVA of a model comes from."""

    def missing(self, subject: Subject) -> str | None:
        """Why there is none for the model; None if there is one."""
        ...

    def identity(self, subject: Subject) -> dict[str, Any]:
        """What tells the model's LLaVA from others, as JSON types."""
        ...

    def answerer(self, subject: Subject) -> "Answerer":
        """The model's LLaVA, ready to be asked; the last one is kept in memory."""
        ...


@dataclass(kw_only=True)
class GivenLlavas:
    """Trained LLaVAs, by the model that each has for its eyes.

    Attributes:
        folders: model, as `--models` names it -> directory of its LLaVA.
        device: where they run.
    """

    folders: Mapping[str, Path]
    device: str
    _loaded: "tuple[Path, Answerer] | None" = field(default=None, repr=False)

    def missing(self, subject: Subject) -> str | None:
        """See `Llavas`."""
        if subject.source in self.folders:
            return None
        return f"no LLaVA of {subject.source} was given (--llava {subject.source}=DIR)"

    def identity(self, subject: Subject) -> dict[str, Any]:
        """See `Llavas`; sizes and times of the files."""
        folder = self.folders[subject.source]
        files = sorted(path for pattern in _FILES for path in folder.glob(pattern))
        if not files:
            raise ValueError(f"--llava: {folder} is no directory with a trained LLaVA")
        stamps = {path.name: file_stamp(path).decode() for path in files}
        return {**subject.identity(), "folder": str(folder.resolve()), "files": stamps}

    def answerer(self, subject: Subject) -> "Answerer":
        """See `Llavas`."""
        return self._load(self.folders[subject.source])

    def _load(self, folder: Path) -> "Answerer":
        """Load a LLaVA, unless it is the last one that was loaded."""
        from radio_llava.answering import load_answerer

        if self._loaded is None or self._loaded[0] != folder:
            self._loaded = None  # frees the memory before the next one needs it
            self._loaded = folder, load_answerer(folder, device=choose_device(self.device))
        return self._loaded[1]


@dataclass(kw_only=True)
class ToyLlavas(GivenLlavas):
    """A small LLaVA for each model, trained on the toy world when it is first asked.

    Attributes:
        out: folder for the trained models.
        data: the toy world's questions, the folder that `prepare_toy_vqa` returns.
        sizes: how much of the toy world that is.
        training: the same for all.
        resolution: long edge in pixels of the images that RADIO gets; teachers have their own.
        announce: hears that a training begins.
    """

    folders: Mapping[str, Path] = field(default_factory=dict)
    out: Path
    data: Path
    sizes: ToyLlavaSizes
    training: ToyTraining
    resolution: int
    announce: Callable[[str], None]

    def missing(self, subject: Subject) -> str | None:
        """See `Llavas`."""
        from radio_llava.tower import is_radio_tower

        if is_teacher(subject.source) or is_radio_tower(subject.source):
            return None
        return f"LLaVA takes RADIO models and teachers for its eyes, and not {subject.source}"

    def identity(self, subject: Subject) -> dict[str, Any]:
        """See `Llavas`."""
        return {
            **subject.identity(),
            "training": asdict(self.training),
            "sizes": asdict(self.sizes),
            "options": self._options(subject),
        }

    def answerer(self, subject: Subject) -> "Answerer":
        """See `Llavas`; train it, unless that is done."""
        place = self.out / f"{slug(subject.source)}-{digest(self.identity(subject))}"
        if not (place / TRAINED / FINISHED).is_file():
            self.announce(f"{subject.source}: training its LLaVA")
        with redirect_stdout(sys.stderr):  # it prints what it does
            folder = train_toy_llava(
                place,
                tower=subject.source,
                data=self.data,
                images=self.data / "images",
                training=self.training,
                options=self._options(subject),
            )
        return self._load(folder)

    def _options(self, subject: Subject) -> dict[str, str]:
        if is_teacher(subject.source):
            return {}
        return {"radio_resolution": str(self.resolution)}
