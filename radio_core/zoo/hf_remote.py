"""The older Hugging Face directories of RADIO, which were made for `trust_remote_code`.

They hold config.json (with the training arguments as JSON), model.safetensors and Python files.
The Python files are never looked at: the arguments and the renamed tensors say everything.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from radio_core.models.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from radio_core.models.config import DTYPES
from radio_core.models.weight_files import read_json, read_safetensors

INDEX_FILE = "model.safetensors.index.json"
MAX_INDEX_BYTES = 1 << 24

COMPONENTS = {
    "radio_model.model.": "base_model.",
    "radio_model.input_conditioner.": "input_conditioner.",
    "radio_model.feature_normalizer.": "_feature_normalizer.",
    "radio_model.inter_feature_normalizer.": "_intermediate_feature_normalizer.",
}
"""Prefix in these directories -> prefix in the hub checkpoints."""

HEADS = {"head_mlp": "_heads", "feat_mlp": "_feature_projections"}
"""`radio_model.adaptors.<name>.<key>.` in these directories -> `<value>.<name>.` in checkpoints."""

ADAPTORS = "radio_model.adaptors."
SUMMARY_IDXS = "radio_model.summary_idxs"
_DTYPE_ARGS = ("dtype", "amp_dtype")
_FOLDED = {"spectral_reparam": False, "spectral_heads": False, "damp": None}


@dataclass(frozen=True, kw_only=True)
class RemoteCodeExtras:
    """What config.json and the tensors say beside the training arguments.

    Attributes:
        version: name of the release, e.g. "c-radio_v4-h"; empty if unknown.
        max_resolution: longest image side in pixels; None if unknown.
        preferred_resolution: (height, width) in pixels; None if unknown.
        summary_idxs: the class tokens of the summary; they override what the arguments say. None
            where the directory does not have them.
    """

    version: str = ""
    max_resolution: int | None = None
    preferred_resolution: tuple[int, int] | None = None
    summary_idxs: tuple[int, ...] | None = None


def is_remote_code(config: Mapping[str, Any]) -> bool:
    """Whether a parsed config.json belongs to such a directory."""
    return isinstance(config.get("args"), dict)


def read_remote_code(
    directory: Path,
) -> tuple[dict[str, Any], dict[str, Tensor], RemoteCodeExtras]:
    """Read a directory as if it were the hub checkpoint that it was converted from.

    Args:
        directory: holds config.json and model.safetensors (or its shards).

    Returns:
        The training arguments with dtypes as `torch.dtype`; the tensors in their stored dtypes
        under the checkpoint's key names, heads by adaptor name; and what else was said. Weights
        are folded in these directories, and per-teacher head types do not count, so the arguments
        say so too.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, has unknown keys, or says something impossible.
    """
    config = read_json(directory / CONFIG_FILE)
    if not is_remote_code(config):
        raise ValueError(f'{directory / CONFIG_FILE} has no "args": not a RADIO directory')
    tensors = read_tensors(directory)
    indices = tensors.pop(SUMMARY_IDXS, None)
    where = str(directory)
    return _arguments(config["args"], where), _renamed(tensors, where), _extras(config, indices)


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """All tensors of model.safetensors, or of the shards in model.safetensors.index.json.

    Returns:
        name -> tensor, in the stored dtype, on the CPU.

    Raises:
        FileNotFoundError: neither is there, or a shard is missing; pickled weights are not read.
        ValueError: a file is damaged, or the index does not fit its shards.
    """
    if (directory / WEIGHTS_FILE).is_file():
        return read_safetensors(directory / WEIGHTS_FILE)
    if not (directory / INDEX_FILE).is_file():
        raise FileNotFoundError(
            f"no {WEIGHTS_FILE} or {INDEX_FILE} in {directory} (pickled weights are not read here)"
        )
    index = read_json(directory / INDEX_FILE, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(name, str) for name in index.values()):
        raise ValueError(f'{directory / INDEX_FILE} has no "weight_map" of file names')
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(index.values())):
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise ValueError(f"{directory / INDEX_FILE}: {shard!r} is not a file beside it")
        if not (directory / shard).is_file():
            raise FileNotFoundError(f"{directory / INDEX_FILE} needs {shard}, which is missing")
        tensors |= read_safetensors(directory / shard)
    if tensors.keys() != index.keys():
        different = ", ".join(sorted(tensors.keys() ^ index.keys()))
        raise ValueError(f"{directory / INDEX_FILE} does not fit its files: {different}")
    return tensors


def _arguments(stored: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The arguments as in a hub checkpoint."""
    args = {**stored, **_FOLDED}
    for field in _DTYPE_ARGS:
        name = args.get(field)
        if isinstance(name, str):
            short = name.removeprefix("torch.")
            if short not in DTYPES:
                raise ValueError(f"{where}: {field} {name!r} is not one of {', '.join(DTYPES)}")
            args[field] = DTYPES[short]
    teachers = args.get("teachers")
    if not isinstance(teachers, list) or not all(isinstance(t, dict) for t in teachers):
        raise ValueError(f'{where}: "args" has no list of "teachers"')
    head_types = ("mlp_version", "spatial_mlp_version")
    args["teachers"] = [
        {key: value for key, value in teacher.items() if key not in head_types}
        for teacher in teachers
    ]
    return args


def _renamed(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The tensors under the names of a hub checkpoint."""
    state = {}
    unknown = []
    for name, tensor in tensors.items():
        renamed = _checkpoint_name(name)
        if renamed is None:
            unknown.append(name)
        else:
            state[renamed] = tensor
    if unknown:
        raise ValueError(f"{where} has tensors that no RADIO model has: {', '.join(unknown)}")
    return state


def _checkpoint_name(name: str) -> str | None:
    """The name that a tensor has in a hub checkpoint; None for a stranger."""
    for ours, theirs in COMPONENTS.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    adaptor, _, rest = name.removeprefix(ADAPTORS).partition(".")
    head, _, key = rest.partition(".")
    if not name.startswith(ADAPTORS) or head not in HEADS:
        return None
    return f"{HEADS[head]}.{adaptor}.{key}"


def _extras(config: Mapping[str, Any], indices: Tensor | None) -> RemoteCodeExtras:
    size = config.get("preferred_resolution")
    try:
        return RemoteCodeExtras(
            version=str(config.get("version") or ""),
            max_resolution=_side(config, "max_resolution"),
            preferred_resolution=None if size is None else (int(size[0]), int(size[1])),
            summary_idxs=None if indices is None else tuple(indices.long().flatten().tolist()),
        )
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise ValueError(f"{CONFIG_FILE} of a RADIO directory is malformed: {error}") from None


def _side(config: Mapping[str, Any], field: str) -> int | None:
    value = config.get(field)
    return None if value is None else int(value)
