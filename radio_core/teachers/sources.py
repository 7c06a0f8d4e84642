"""Where a teacher's files are, and whether its weights fit its config."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from radio_core.registry import UnknownName
from radio_core.zoo.hub import DownloadError, fetch_repository, why_not_fetched

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")
"""Owner, name and perhaps a revision of a repository on the Hugging Face hub."""

EXTRA_FILES = ("preprocessor_config.json", "*.safetensors.index.json", "README.md")
"""What is fetched of a repository besides its config.json and its weights, where it has it."""

_SHOWN = 3  # keys of each kind in an error


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


def cannot_fetch(teacher: str, repo: str, files: str, instead: str, error: Exception) -> Exception:
    """The error for weights that a library could not download.

    Args:
        teacher: its name.
        repo: repository on the hub, or a URL.
        files: what is needed of it.
        instead: the source with which to name the downloaded files.
        error: what the library raised.
    """
    from huggingface_hub import constants

    reason = why_not_fetched(_told(error), repo)
    place = repo if "://" in repo else f"{constants.ENDPOINT}/{repo}/tree/main"
    return DownloadError(
        f"teacher {teacher}: cannot fetch {files} from {place}: {reason}. On another machine, "
        f"download them, and name them as {instead}"
    )


def _told(error: BaseException) -> Exception:
    """What the hub's client said, where a library raised something of its own about it."""
    found = error
    while not type(found).__module__.startswith("huggingface_hub"):
        inner = found.__cause__ or found.__context__
        if inner is None:
            break
        found = inner
    return found if isinstance(found, Exception) else RuntimeError(str(found))


def misfit(
    teacher: str,
    file: str | Path,
    missing: Iterable[str],
    unexpected: Iterable[str],
    shapes: Mapping[str, tuple[Sequence[int], Sequence[int]]],
) -> ValueError:
    """The error for weights that do not fit the config beside them.

    Args:
        teacher: its name.
        file: where the weights are.
        missing: names that the model has and the file has not.
        unexpected: names that the file has and the model has not.
        shapes: name -> (shape in the file, shape in the model) where they differ.
    """
    wrong = [
        f"{name} {list(have)} instead of {list(want)}" for name, (have, want) in shapes.items()
    ]
    kinds = {
        "missing": sorted(missing),
        "unexpected": sorted(unexpected),
        "of another shape": sorted(wrong),
    }
    parts = []
    for kind, names in kinds.items():
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
        name: (_numbers(have), _numbers(want)) for name, have, want in re.findall(shape, text)
    }
    missing, unexpected = (_listed(text, kind) for kind in ("Missing", "Unexpected"))
    if not (shapes or missing or unexpected):
        return None
    return misfit(teacher, file, missing, unexpected, shapes)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _listed(text: str, kind: str) -> list[str]:
    """The quoted names after `Missing key(s) in state_dict:`."""
    found = re.search(rf"{kind} key\(s\) in state_dict: (.*?)\. *(\n|$)", text)
    return re.findall(r'"([^"]+)"', found.group(1)) if found else []
