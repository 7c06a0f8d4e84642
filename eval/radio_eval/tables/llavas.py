"""The LLaVAs that answer for the models: trained ones that are given, or toy ones made here."""

import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from radio_core.devices import choose_device
from radio_core.teachers.load import is_teacher
from radio_eval.data.files import file_stamp
from radio_eval.llava_toy import ToyLlavaSizes
from radio_eval.results import Json, digest
from radio_eval.tables.filling import slug
from radio_llava.toy import FINISHED, TRAINED, ToyTraining, train_toy_llava

if TYPE_CHECKING:
    from radio_llava.answering import Answerer


@dataclass(kw_only=True)
class Llavas:
    """Trained LLaVAs, by the model that each has for its eyes."""

    folders: Mapping[str, Path] = field(default_factory=dict)
    device: str
    _loaded: "tuple[Path, Answerer] | None" = field(default=None, repr=False)

    def lacks(self, source: str) -> str:
        """Why there is none for the model; "" if there is one."""
        if source in self.folders:
            return ""
        return f"no LLaVA of {source} was given (--llava {source}=DIR)"

    def identity(self, source: str) -> Json:
        """What tells the model's LLaVA from others, as JSON types: sizes and times of the files."""
        folder = self.folders[source]
        patterns = ("*.json", "*.safetensors", "*.bin")
        files = sorted(path for pattern in patterns for path in folder.glob(pattern))
        if not files:
            raise ValueError(f"--llava: {folder} is no directory with a trained LLaVA")
        stamps = {path.name: file_stamp(path).decode() for path in files}
        return {"folder": str(folder.resolve()), "files": stamps}

    def answerer(self, source: str, identity: Json) -> "Answerer":
        """The model's LLaVA, ready to be asked; the last one is kept in memory."""
        return self._load(self.folders[source])

    def _load(self, folder: Path) -> "Answerer":
        from radio_llava.answering import load_answerer

        if self._loaded is None or self._loaded[0] != folder:
            self._loaded = None  # frees the memory before the next one needs it
            self._loaded = folder, load_answerer(folder, device=choose_device(self.device))
        return self._loaded[1]


@dataclass(kw_only=True)
class ToyLlavas(Llavas):
    """A small LLaVA for each model, trained on the toy world when it is first asked."""

    out: Path
    data: Path
    sizes: ToyLlavaSizes
    training: ToyTraining
    resolution: int
    announce: Callable[[str], None]

    def lacks(self, source: str) -> str:
        """See `Llavas`."""
        from radio_llava.tower import is_radio_tower

        if is_teacher(source) or is_radio_tower(source):
            return ""
        return f"LLaVA takes RADIO models and teachers for its eyes, and not {source}"

    def identity(self, source: str) -> Json:
        """See `Llavas`."""
        return {
            "training": asdict(self.training),
            "sizes": asdict(self.sizes),
            "options": self._options(source),
        }

    def answerer(self, source: str, identity: Json) -> "Answerer":
        """See `Llavas`; train it, unless that is done."""
        place = self.out / f"{slug(source)}-{digest(identity)}"
        if not (place / TRAINED / FINISHED).is_file():
            self.announce(f"{source}: training its LLaVA")
        with redirect_stdout(sys.stderr):  # it prints what it does
            folder = train_toy_llava(
                place,
                tower=source,
                data=self.data,
                images=self.data / "images",
                training=self.training,
                options=self._options(source),
            )
        return self._load(folder)

    def _options(self, source: str) -> dict[str, str]:
        return {} if is_teacher(source) else {"radio_resolution": str(self.resolution)}
