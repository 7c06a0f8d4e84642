"""What is fetched from the hub, and what the error says when it cannot be."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from radio_core.zoo.hub import DownloadError, fetch_release, fetch_repository
from radio_core.zoo.releases import RELEASES

RELEASE = RELEASES["c-radio_v3-l"]
REPO, FILE = "nvidia/C-RADIOv3-L", "c-radio-v3_l_half.pth.tar"
URL = f"https://huggingface.co/{REPO}/resolve/main/{FILE}"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache; the hub may be asked."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Replace a function of the library by one that raises or returns; gives its calls."""

    def replace(name: str, result: object) -> list[Any]:
        calls: list[Any] = []

        def call(*args: Any, **kwargs: Any) -> object:
            calls.append((args, kwargs))
            if isinstance(result, Exception):
                raise result
            return result

        monkeypatch.setattr(huggingface_hub, name, call)
        return calls

    return replace


def http_error(kind: type[Exception], message: str = "Client Error.") -> Exception:
    response = SimpleNamespace(headers={}, request=None, status_code=404)
    return kind(message, response=response)  # type: ignore[call-arg]


def caused_by(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


FAILURES = [
    (http_error(errors.RepositoryNotFoundError), "no such repository"),
    (http_error(errors.GatedRepoError), "access has to be asked for on https://huggingface.co/"),
    (http_error(errors.RevisionNotFoundError), "no such revision"),
    (errors.EntryNotFoundError("404"), "has no such file"),
    (http_error(errors.HfHubHTTPError, "503 Server Error."), "503 Server Error"),
    (errors.LocalEntryNotFoundError("not here"), "the hub cannot be reached"),
    (
        caused_by(errors.LocalEntryNotFoundError("no"), ConnectionError("refused")),
        r"the hub cannot be reached \(refused\)",
    ),
    (
        caused_by(errors.LocalEntryNotFoundError("no"), errors.OfflineModeIsEnabled("off")),
        "HF_HUB_OFFLINE forbids",
    ),
    (errors.OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE forbids"),
    (ConnectionError("no route\nto host"), r"the hub cannot be reached \(no route to host\)"),
    (OSError(28, "No space left on device"), "disk of the hub cache is full"),
    (PermissionError(13, "Permission denied"), "PermissionError.*Permission denied"),
    (RuntimeError(), "RuntimeError"),
]


@pytest.mark.parametrize(("error", "reason"), FAILURES)
@pytest.mark.parametrize("function", ["get_hf_file_metadata", "hf_hub_download"])
def test_a_release_that_cannot_be_had_is_one_clear_error(
    cache: Path, patch: Callable[..., list[Any]], function: str, error: Exception, reason: str
) -> None:
    patch("get_hf_file_metadata", None)
    patch(function, error)
    with pytest.raises(DownloadError, match=reason) as raised:
        fetch_release(RELEASE)
    message = str(raised.value)
    assert f"{FILE} of {REPO}" in message
    assert URL in message
    assert str(cache / "models--nvidia--C-RADIOv3-L") in message  # where it goes
    assert "\n" not in message
    assert isinstance(raised.value, OSError)
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(("error", "reason"), FAILURES)
def test_a_repository_that_cannot_be_had_is_one_clear_error(
    cache: Path, patch: Callable[..., list[Any]], error: Exception, reason: str
) -> None:
    patch("snapshot_download", error)
    with pytest.raises(DownloadError, match=reason) as raised:
        fetch_repository("someone/model")
    message = str(raised.value)
    assert "https://huggingface.co/someone/model/tree/main" in message
    assert str(cache / "models--someone--model") in message


def test_without_a_connection_the_download_with_its_retries_is_not_tried(
    cache: Path, monkeypatch: pytest.MonkeyPatch, patch: Callable[..., list[Any]]
) -> None:
    closed = "http://127.0.0.1:1/a/b/resolve/main/c"  # the library's own client, a closed port
    monkeypatch.setattr(huggingface_hub, "hf_hub_url", lambda *_: closed)
    downloads = patch("hf_hub_download", "never")
    with pytest.raises(DownloadError, match="the hub cannot be reached"):
        fetch_release(RELEASE)
    assert downloads == []


def test_a_release_is_downloaded_after_the_hub_has_answered(
    cache: Path, patch: Callable[..., list[Any]]
) -> None:
    asked = patch("get_hf_file_metadata", None)
    downloads = patch("hf_hub_download", "/some/where/file")
    assert fetch_release(RELEASE) == Path("/some/where/file")
    assert asked == [((URL,), {})]
    assert downloads == [((REPO, FILE), {})]


def test_a_release_in_the_cache_is_used_without_asking(
    cache: Path, patch: Callable[..., list[Any]]
) -> None:
    for name in ("get_hf_file_metadata", "hf_hub_download"):
        patch(name, AssertionError("asked the hub"))
    file = in_cache(cache, REPO, {FILE: b"weights"}) / FILE
    found = fetch_release(RELEASE)
    assert found == file
    assert found.read_bytes() == b"weights"


def in_cache(cache: Path, repo: str, files: dict[str, bytes], revision: str = "main") -> Path:
    """Lay files into a hub cache, as a copy of another machine's; gives their folder."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("0123456789abcdef" * 3)[:40]
    for name, content in files.items():
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).write_bytes(content)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / revision).write_text(snapshot.name)
    return snapshot


def test_of_a_repository_only_configuration_and_safetensors_are_fetched(
    cache: Path, tmp_path: Path, patch: Callable[..., list[Any]]
) -> None:
    folder = in_cache(cache, "a/b", {"config.json": b"{}", "model.safetensors": b""})
    calls = patch("snapshot_download", str(folder))
    assert fetch_repository("a/b") == folder
    assert fetch_repository("a/b@v1") == folder
    patterns = ["config.json", "*.safetensors"]
    assert calls == [
        (("a/b",), {"revision": None, "allow_patterns": patterns}),
        (("a/b",), {"revision": "v1", "allow_patterns": patterns}),
    ]


def test_a_copied_cache_folder_serves_offline(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    files = {"config.json": b"{}", "model.safetensors": b""}
    main = in_cache(cache, "a/b", files)
    assert fetch_repository("a/b") == main
    with pytest.raises(DownloadError, match=r"HF_HUB_OFFLINE.*/a/b/tree/v2"):
        fetch_repository("a/b@v2")
    assert in_cache(cache, "a/b", files, "v2") == fetch_repository("a/b@v2")


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        ({"config.json": b"{}", "pytorch_model.bin": b"", "model.py": b""}, r"\*\.safetensors"),
        ({"model.safetensors": b""}, r"config\.json"),
    ],
)
def test_a_repository_without_the_needed_files_is_refused(
    cache: Path, patch: Callable[..., list[Any]], files: dict[str, bytes], missing: str
) -> None:
    patch("snapshot_download", str(in_cache(cache, "a/b", files)))
    with pytest.raises(DownloadError, match=f"a/b has no {missing}"):
        fetch_repository("a/b")


@pytest.mark.parametrize("hub_id", ["a/b/c", "a b/c", ""])
def test_what_cannot_be_a_hub_id_is_refused_without_asking(
    hub_id: str, cache: Path, patch: Callable[..., list[Any]]
) -> None:
    calls = patch("snapshot_download", "never")
    with pytest.raises(ValueError, match=r"[Rr]epo id"):
        fetch_repository(hub_id)
    assert calls == []


def test_offline_mode_of_the_environment_is_honoured(tmp_path: Path) -> None:
    code = (
        "from radio_core.zoo.hub import fetch_release\n"
        "from radio_core.zoo.releases import RELEASES\n"
        "fetch_release(RELEASES['radio_v2.5-b'])"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    environment.pop("HF_HUB_CACHE", None)
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    message = run.stderr.decode().splitlines()[-1]
    assert run.returncode == 1
    assert "HF_HUB_OFFLINE forbids" in message
    assert str(tmp_path / "hub") in message
