"""Teachers' files: where they are, reading them without trust, and whether weights fit a config."""

import pickle
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from radio_core.extras import require
from radio_core.models.weight_files import read_json
from radio_core.registry import UnknownName
from radio_core.zoo.hub import DownloadError, fetch_repository, why_not_fetched

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")
"""Owner, name and perhaps a revision of a repository on the Hugging Face hub."""

EXTRA_FILES = ("preprocessor_config.json", "*.safetensors.index.json", "README.md")
"""What is fetched of a repository besides its config.json and its weights, where it has it."""

_SHOWN = 3  # keys of each kind in an error
_SINCE = {"dinov2_with_registers": "4.48", "dinov3": "4.56", "sam2": "4.56", "sam3": "5.0"}
"""First version of transformers with the models whose `model_type` starts so."""


def model_folder(source: str) -> Path:
    """The directory of a model of transformers.

    Args:
        source: a directory, or a hub id ("owner/name" or "owner/name@revision"), of which
            config.json and the safetensors files are downloaded into the hub cache.

    Raises:
        UnknownName: neither a directory nor a hub id.
        DownloadError: the files cannot be had; the message says which, and where to put them.
        FileNotFoundError: the directory holds no config.json.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"{folder} has no config.json: not a model of transformers")
        return folder
    if HUB_ID.fullmatch(source) and not Path(source).parent.is_dir():
        return fetch_repository(source, EXTRA_FILES)
    raise UnknownName(
        f"{source!r} is no directory, and no hub id (owner/name) that could be downloaded"
    )


def read_config(teacher: str, folder: Path) -> Any:
    """The config of the model in a directory, as transformers' class of its kind.

    Raises:
        ValueError: damaged, or of a kind that the installed transformers does not know.
        ImportError: transformers is missing; the message names the extra.
    """
    transformers = require("transformers", extra="hf")
    kind = str(read_json(folder / "config.json").get("model_type", ""))
    try:
        return transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the library raises nearly everything on broken files
        raise ValueError(
            f"teacher {teacher}: transformers {transformers.__version__} cannot read the config of "
            f"the {kind!r} model in {folder}{_remedy(kind)}: {one_line(error)}"
        ) from error


def model_class(teacher: str, name: str, kind: str) -> Any:
    """The class `name` of transformers, for configs whose `model_type` is `kind`.

    Raises:
        ValueError: the installed transformers does not have it; the message says which does.
    """
    transformers = require("transformers", extra="hf")
    found = getattr(transformers, name, None)
    if found is None:
        raise ValueError(
            f"teacher {teacher} needs {name}, which transformers {transformers.__version__} does "
            f"not have{_remedy(kind)}"
        )
    return found


def load_network(
    teacher: str, kind: Any, folder: Path, part: str = "", **arguments: Any
) -> torch.nn.Module:
    """A network of transformers in float32 with all the weights that its config asks for.

    Files are read as safetensors, or else with `weights_only=True`.

    Args:
        teacher: its name, for the message of an error.
        kind: a model class.
        folder: directory with config.json and weights.
        part: prefix of the weights that are needed; what else is missing does not matter.
        **arguments: for the class.

    Raises:
        ValueError: weights that are damaged, or do not fit the config; the first missing,
            unexpected and ill-shaped ones are named. Weights of other heads may be there too.
    """
    transformers = require("transformers", extra="hf")
    try:
        with quiet(transformers.utils.logging, bars=False):
            network, report = kind.from_pretrained(
                folder,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                local_files_only=True,
                trust_remote_code=False,
                **arguments,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"teacher {teacher}: cannot read the weights in {folder}: {one_line(error)}"
        ) from error
    missing = [key for key in report["missing_keys"] if key.startswith(part)]
    shapes = {key: (have, want) for key, have, want in report["mismatched_keys"]}
    shapes = {key: value for key, value in shapes.items() if key.startswith(part)}
    # Other heads (a classifier, a text tower) are left out on purpose; more layers are not.
    own = {name.partition(".")[0] for name in network.state_dict() if name.startswith(part)}
    prefix = f"{network.base_model_prefix}."
    unexpected = [
        key
        for key in report["unexpected_keys"]
        if key.removeprefix(prefix).partition(".")[0] in own
    ]
    if missing or unexpected or shapes:
        raise misfit(teacher, folder, missing, unexpected, shapes)
    loaded: torch.nn.Module = network.float()
    return loaded


@contextmanager
def quiet(logging: Any, bars: bool) -> Iterator[None]:
    """Keep transformers from listing the weights that are left out on purpose.

    Its progress bars are wanted for a download, not for a file that is already there.
    """
    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def cannot_fetch(teacher: str, repo: str, files: str, instead: str, error: Exception) -> Exception:
    """The error for weights that a library could not download."""
    from huggingface_hub import constants

    told: BaseException = error  # what the hub's client said, under what the library made of it
    while not type(told).__module__.startswith("huggingface_hub"):
        inner = told.__cause__ or told.__context__
        if inner is None:
            break
        told = inner
    reason = why_not_fetched(told if isinstance(told, Exception) else error, repo)
    place = repo if "://" in repo else f"{constants.ENDPOINT}/{repo}/tree/main"
    return DownloadError(
        f"teacher {teacher}: cannot fetch {files} from {place}: {reason}. On another machine, "
        f"download them, and name them as {instead}"
    )


def misfit(
    teacher: str,
    file: str | Path,
    missing: Iterable[str],
    unexpected: Iterable[str],
    shapes: Mapping[str, tuple[Sequence[int], Sequence[int]]],
) -> ValueError:
    """The error for weights that do not fit the config beside them."""
    wrong = [f"{key} {list(have)} instead of {list(want)}" for key, (have, want) in shapes.items()]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": wrong}
    parts = []
    for kind, names in ((kind, sorted(names)) for kind, names in kinds.items()):
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        if names:
            parts.append(f"{kind}: {', '.join(names[:_SHOWN])}{more}")
    return ValueError(
        f"teacher {teacher}: the weights in {file} do not fit its config; {'; '.join(parts)}"
    )


def misfit_of_torch(teacher: str, file: str | Path, error: Exception) -> ValueError | None:
    """`misfit` out of what `load_state_dict` raised; None if the error is about something else."""
    text = str(error)
    shape = r"size mismatch for (\S+): .*?\(\[(.*?)\]\) from checkpoint.*?\(\[(.*?)\]\)"
    shapes = {
        name: tuple([int(n) for n in re.findall(r"\d+", side)] for side in sides)
        for name, *sides in re.findall(shape, text)
    }
    listed = {}
    for kind in ("Missing", "Unexpected"):
        found = re.search(rf"{kind} key\(s\) in state_dict: (.*?)\. *(\n|$)", text)
        listed[kind] = re.findall(r'"([^"]+)"', found.group(1)) if found else []
    if not (shapes or listed["Missing"] or listed["Unexpected"]):
        return None
    return misfit(teacher, file, listed["Missing"], listed["Unexpected"], shapes)  # type: ignore[arg-type]


def one_line(error: Exception, width: int = 300) -> str:
    """Why something could not be read, in one line."""
    if isinstance(error, pickle.UnpicklingError):
        return "not a plain weights file; nothing in it was executed"
    return textwrap.shorten(str(error) or type(error).__name__, width)


def _remedy(kind: str) -> str:
    since = next((version for name, version in _SINCE.items() if kind.startswith(name)), None)
    if since is None:
        return ""
    return f"; {kind} needs transformers {since} or newer: pip install -U 'transformers>={since}'"
