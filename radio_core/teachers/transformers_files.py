"""Reading a directory of transformers without trusting it: no remote code, nothing left random."""

import pickle
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from radio_core.extras import require
from radio_core.models.weight_files import read_json
from radio_core.teachers.sources import misfit

_SINCE = {"dinov2_with_registers": "4.48", "dinov3": "4.56", "sam2": "4.56", "sam3": "5.0"}
"""First version of transformers with the models whose `model_type` starts so."""


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
            f"the {kind!r} model in {folder}{_remedy(kind)}: {_line(error)}"
        ) from error


def model_class(teacher: str, name: str, kind: str) -> Any:
    """A class of transformers.

    Args:
        teacher: its name, for the message of an error.
        name: of the class.
        kind: `model_type` of its config.

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
            f"teacher {teacher}: cannot read the weights in {folder}: {_line(error)}"
        ) from error
    missing = [key for key in report["missing_keys"] if key.startswith(part)]
    shapes = {key: (have, want) for key, have, want in report["mismatched_keys"]}
    shapes = {key: value for key, value in shapes.items() if key.startswith(part)}
    unexpected = _of_this_network(network, report["unexpected_keys"], part)
    if missing or unexpected or shapes:
        raise misfit(teacher, folder, missing, unexpected, shapes)
    loaded: torch.nn.Module = network.float()
    return loaded


def _of_this_network(network: Any, unexpected: list[str], part: str) -> list[str]:
    """The unexpected keys that belong to a module which the network has, such as more layers.

    A checkpoint may hold other heads (a classifier, a text tower); those are left out on purpose.
    """
    own = {name.partition(".")[0] for name in network.state_dict() if name.startswith(part)}
    prefix = f"{network.base_model_prefix}."
    return [key for key in unexpected if key.removeprefix(prefix).partition(".")[0] in own]


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


def _remedy(kind: str) -> str:
    since = next((version for name, version in _SINCE.items() if kind.startswith(name)), None)
    if since is None:
        return ""
    return f"; {kind} needs transformers {since} or newer: pip install -U 'transformers>={since}'"


def _line(error: Exception) -> str:
    """Why, in one line."""
    if isinstance(error, pickle.UnpicklingError):
        return "not a plain weights file; nothing in it was executed"
    return textwrap.shorten(str(error) or type(error).__name__, 300)
