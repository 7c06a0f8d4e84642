"""Files from the Hugging Face hub, or an error that says how to do without it.

The cache, resumed downloads, logging in, HF_HUB_OFFLINE, HF_HOME and HF_ENDPOINT are those of
huggingface_hub. A file that is fetched is never run.
"""

import errno
from collections.abc import Sequence
from pathlib import Path

from radio_core.zoo.releases import ModelCard

REPOSITORY_FILES = ("config.json", "*.safetensors")
"""What is fetched of a whole repository: no code, nothing pickled."""

# The library's HTTP client, and so its exceptions, differ between its versions; these names do not.
_NO_CONNECTION = {"ConnectionError", "Timeout", "TransportError"}


class DownloadError(OSError):
    """A file of the hub is not there; the message says which, why, and where to put it instead."""


def fetch_release(release: ModelCard) -> Path:
    """The checkpoint of a release, from the hub cache or else downloaded into it.

    A file in the cache is used as it is, without asking the hub. Without a network the answer comes
    after one request (timeout: HF_HUB_ETAG_TIMEOUT, 10 s by default).

    Raises:
        DownloadError: the file cannot be had.
    """
    import huggingface_hub as hub

    repo, file = release.hub_repo, release.file
    cached = hub.try_to_load_from_cache(repo, file)
    if isinstance(cached, str):
        return Path(cached)
    url = hub.hf_hub_url(repo, file)
    try:
        hub.get_hf_file_metadata(url)  # asks once; the download below would retry for half a minute
        return Path(hub.hf_hub_download(repo, file))
    except Exception as error:  # any, since the HTTP client's own ones cannot be named
        raise DownloadError(
            f"cannot fetch {file} of {repo}: {why_not_fetched(error, repo)}. On another machine, "
            f"either download {url} and give the path of that file instead of the name, or run "
            f"`hf download {repo} {file}` and copy {_cache_folder(repo).name} from its hub cache "
            f"to {_cache_folder(repo)}"
        ) from error


def fetch_repository(hub_id: str, also: Sequence[str] = ()) -> Path:
    """A directory with the config.json and the safetensors files of a hub repository.

    Args:
        hub_id: "owner/name", or "owner/name@revision" with a branch, tag or commit.
        also: patterns of further files, fetched where the repository has them.

    The hub is asked for the newest files of the revision; where it cannot be reached, those in the
    cache are used.

    Raises:
        DownloadError: the files cannot be had, or the repository has no such files.
        ValueError: a hub id cannot be spelled so.
    """
    import huggingface_hub as hub

    repo, _, revision = hub_id.partition("@")
    place = _cache_folder(repo)
    patterns = list(REPOSITORY_FILES)
    try:
        folder = Path(
            hub.snapshot_download(
                repo, revision=revision or None, allow_patterns=[*patterns, *also]
            )
        )
    except Exception as error:  # as above
        page = f"{hub.constants.ENDPOINT}/{repo}/tree/{revision or 'main'}"
        raise DownloadError(
            f"cannot fetch {' and '.join(patterns)} of {hub_id}: {why_not_fetched(error, repo)}. "
            f"On another machine, either download them from {page} and give the path of their "
            f"folder instead, or run `hf download {repo}` and copy {place.name} from its hub cache "
            f"to {place}"
        ) from error
    for pattern in patterns:
        if not any(folder.glob(pattern)):
            raise DownloadError(
                f"{hub_id} has no {pattern}, so it holds no model that can be loaded from a "
                "repository; give the path of a checkpoint, downloaded from "
                f"{hub.constants.ENDPOINT}/{repo}, instead"
            )
    return folder


def _cache_folder(repo: str) -> Path:
    """Where the hub cache keeps a repository."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")


def why_not_fetched(error: Exception, repo: str) -> str:
    """Why a file could not be fetched, in one line."""
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{repo}"
    cause = error.__cause__
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(cause, Exception):
        return why_not_fetched(cause, repo)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "it is not in the hub cache, and HF_HUB_OFFLINE forbids to ask the hub"
    if isinstance(error, errors.GatedRepoError):
        return f"access has to be asked for on {page}, and then `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository, or it is private and needs `hf auth login`"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such revision"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return "it is not in the hub cache, and the hub cannot be reached"
    if isinstance(error, errors.EntryNotFoundError):
        return "the repository has no such file"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk of the hub cache is full (HF_HOME moves the cache)"
    said = " ".join(str(error).split()) or type(error).__name__
    if _NO_CONNECTION.intersection(base.__name__ for base in type(error).__mro__):
        return f"the hub cannot be reached ({said})"
    return f"{type(error).__name__}: {said}"
