"""The older Hugging Face directories of RADIO, which were made for `trust_remote_code`.

They hold config.json (with the training arguments as JSON), model.safetensors and Python files.
The Python files are never looked at: the arguments and the renamed tensors say everything.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from radio_core.models.config import CONFIG_FILE, DTYPES, WEIGHTS_FILE, Checkpoint
from radio_core.models.weight_files import read_json, read_safetensors
from radio_core.zoo.official import EMA_OVERRIDES, from_official
from radio_core.zoo.releases import find_release

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


def is_remote_code(config: Mapping[str, Any]) -> bool:
    """A parsed config.json belongs to such a directory."""
    return isinstance(config.get("args"), dict)


def load_remote_code(directory: Path) -> Checkpoint:
    """A directory as if it were the hub checkpoint that it was converted from.

    What the directory itself says overrides what is known of its release.

    Raises:
        FileNotFoundError, ValueError: as `read_remote_code`; or its arguments are not supported.
    """
    args, state, extras = read_remote_code(directory)
    checkpoint = from_official(args, state, str(directory))
    release = find_release(str(extras.pop("version")))
    config = checkpoint.config if release is None else release.applied_to(checkpoint.config)
    return checkpoint._replace(config=replace(config, **extras))


def read_remote_code(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """What such a directory holds.

    Args:
        directory: holds config.json and model.safetensors (or its shards).

    Returns:
        The training arguments with dtypes as `torch.dtype`; the tensors in their stored dtypes
        under the checkpoint's key names, heads by adaptor name; and the "version" (name of the
        release, or empty), with the fields of `RadioConfig` that the directory gives. Weights are
        folded in these directories, and per-teacher head types do not count, so the arguments say
        so too.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, has unknown keys, or says something impossible.
    """
    config = read_json(directory / CONFIG_FILE)
    if not is_remote_code(config):
        raise ValueError(f'{directory / CONFIG_FILE} has no "args": not a RADIO directory')
    tensors = read_tensors(directory)
    extras: dict[str, Any] = {"version": config.get("version") or ""}
    try:
        if config.get("max_resolution") is not None:
            extras["max_resolution"] = int(config["max_resolution"])
        if (size := config.get("preferred_resolution")) is not None:
            extras["preferred_resolution"] = (int(size[0]), int(size[1]))
        if (indices := tensors.pop(SUMMARY_IDXS, None)) is not None:
            extras["summary_idxs"] = tuple(indices.long().flatten().tolist())
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise ValueError(f"{CONFIG_FILE} of a RADIO directory is malformed: {error}") from None
    names = {name: _checkpoint_name(name) for name in tensors}
    if strangers := [name for name, ours in names.items() if ours is None]:
        raise ValueError(f"{directory} has tensors that no RADIO model has: {', '.join(strangers)}")
    state = {str(names[name]): tensor for name, tensor in tensors.items()}
    return _arguments(config["args"], directory), state, extras


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
    path = directory / INDEX_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"no {WEIGHTS_FILE} or {INDEX_FILE} in {directory} (pickled weights are not read here)"
        )
    index = read_json(path, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(name, str) for name in index.values()):
        raise ValueError(f'{path} has no "weight_map" of file names')
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(index.values())):
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise ValueError(f"{path}: {shard!r} is not a file beside it")
        if not (directory / shard).is_file():
            raise FileNotFoundError(f"{path} needs {shard}, which is missing")
        tensors |= read_safetensors(directory / shard)
    if different := sorted(tensors.keys() ^ index.keys()):
        raise ValueError(f"{path} does not fit its files: {', '.join(different)}")
    return tensors


def _arguments(stored: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """The arguments as in a hub checkpoint: weights are folded here, heads of one kind."""
    args = {**stored, **EMA_OVERRIDES}
    for field in ("dtype", "amp_dtype"):
        if isinstance(name := args.get(field), str):
            short = name.removeprefix("torch.")
            if short not in DTYPES:
                raise ValueError(f"{directory}: {field} {name!r} is not one of {', '.join(DTYPES)}")
            args[field] = DTYPES[short]
    teachers = args.get("teachers")
    if not isinstance(teachers, list) or not all(isinstance(t, dict) for t in teachers):
        raise ValueError(f'{directory}: "args" has no list of "teachers"')
    kinds = ("mlp_version", "spatial_mlp_version")
    args["teachers"] = [{k: v for k, v in t.items() if k not in kinds} for t in teachers]
    return args


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
