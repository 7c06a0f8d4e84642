"""Files from http(s) addresses, kept in a folder of limited size."""

import base64
import hashlib
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from typing import IO

from filelock import FileLock

from radio_core.data.storage import digest

ATTEMPTS = 5
"""Times that a file is asked for before it counts as missing."""

_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0  # seconds; doubled after every attempt
_TIMEOUT = 60.0  # seconds without a byte
_COOL_DOWN = 300.0  # seconds before a file that could not be fetched is asked for again
_PIECE = 1 << 20
_PARTIAL = ".partial-"
_MAY_PASS = {408, 425, 429}  # of the errors 4xx; all 5xx may pass


class DownloadError(Exception):
    """A file that could not be fetched; the message says why, without its address."""


class Downloads:
    """Fetched files in a folder; those used longest ago make room for new ones.

    Several processes may share the folder: a file is fetched by one of them, the others wait. A
    file appears under its name only when it is complete and has the length, and where the server
    tells it the checksum, that the server announced.

    Args:
        folder: made when the first file is fetched.
        limit: bytes that the files may take together; the newest one always stays.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._failed: dict[str, tuple[float, str]] = {}

    def path(self, url: str) -> Path:
        """Where a file is or would be."""
        return self.folder / f"{digest(url)}.tar"

    def fetch(self, url: str) -> Path:
        """The file of an address, fetched unless it is there.

        Raises:
            DownloadError: after all attempts; asking again soon raises it at once.
        """
        path = self.path(url)
        if _touch(path):
            return path
        failed_at, reason = self._failed.get(url, (-_COOL_DOWN, ""))
        if time.monotonic() - failed_at < _COOL_DOWN:
            raise DownloadError(reason)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):
                if not _touch(path):  # another process may have fetched it meanwhile
                    self._fetch(url, path)
        except (DownloadError, OSError) as error:
            reason = str(error)
            self._failed[url] = (time.monotonic(), reason)
            raise DownloadError(reason) from error
        return path

    def _fetch(self, url: str, path: Path) -> None:
        partial = path.with_name(_PARTIAL + path.name)
        wait, reason = _FIRST_WAIT, ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT)
            try:
                with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
                    self._make_room(int(answer.headers.get("Content-Length") or 0))
                    _write(answer, answer.headers, partial)
                partial.replace(path)
                _touch(path)
                return
            except urllib.error.HTTPError as error:
                reason = f"HTTP {error.code} {error.reason}"
                if error.code < 500 and error.code not in _MAY_PASS:
                    raise DownloadError(reason) from error
                wait = max(wait, min(_retry_after(error.headers), _LONGEST_WAIT))
            except (OSError, HTTPException, ValueError) as error:
                reason = str(error) or type(error).__name__
            finally:
                partial.unlink(missing_ok=True)
        raise DownloadError(f"{reason} ({ATTEMPTS} attempts)")

    def _make_room(self, needed: int) -> None:
        """Remove the files used longest ago until `needed` bytes fit."""
        files = []
        for path in self.folder.glob("*.tar"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another process makes room too
                continue
            if not path.name.startswith(_PARTIAL):
                files.append((status.st_mtime_ns, status.st_size, path))
        taken = sum(size for _, size, _ in files) + needed
        for _, size, path in sorted(files):
            if taken <= self.limit:
                break
            path.unlink(missing_ok=True)
            taken -= size


def content_length(url: str) -> int | None:
    """The bytes of a file as its server announces them, or None where it does not.

    Raises:
        DownloadError: the server does not know the file, or there is no server.
    """
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
            length = answer.headers.get("Content-Length")
            return int(length) if length else None
    except urllib.error.HTTPError as error:
        if error.code in (404, 410):
            raise DownloadError(f"HTTP {error.code} {error.reason}") from error
        return None  # some servers refuse HEAD
    except (OSError, HTTPException, ValueError) as error:
        raise DownloadError(str(error) or type(error).__name__) from error


def fetch_text(url: str, limit: int = 64 << 20) -> str | None:
    """A small text file, or None where the server has none or does not answer."""
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
            content: bytes = answer.read(limit)
            return content.decode()
    except (OSError, HTTPException, ValueError):
        return None


def _write(answer: IO[bytes], headers: Message, path: Path) -> None:
    """Write a response to a file. Raises ValueError if it is not what the headers announce."""
    announced = _checksums(headers)
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in announced}
    length = 0
    with path.open("wb") as file:
        while piece := answer.read(_PIECE):
            file.write(piece)
            length += len(piece)
            for running in hashes.values():
                running.update(piece)
        file.flush()
        os.fsync(file.fileno())
    expected = headers.get("Content-Length")
    if expected is not None and length != int(expected):
        raise ValueError(f"{length} of {expected} bytes arrived")
    for name, running in hashes.items():
        if running.digest() != announced[name]:
            raise ValueError(f"the {name} checksum is not the one that the server announced")


def _checksums(headers: Message) -> Mapping[str, bytes]:
    """Hash name -> checksum, from the headers with which servers announce them."""
    found: dict[str, bytes] = {}
    names = {"md5": "md5", "sha-256": "sha256", "sha256": "sha256"}
    fields = [f"md5={headers['Content-MD5']}"] if headers["Content-MD5"] else []
    if headers["x-amz-checksum-sha256"]:
        fields.append(f"sha256={headers['x-amz-checksum-sha256']}")
    for header in ("x-goog-hash", "Repr-Digest", "Digest"):
        for value in headers.get_all(header) or []:
            fields += value.split(",")
    for field in fields:
        name, _, value = field.strip().partition("=")
        if name.lower() in names:
            try:
                found[names[name.lower()]] = base64.b64decode(value.strip(":"), validate=True)
            except ValueError:
                continue
    return found


def _retry_after(headers: Message) -> float:
    value = headers.get("Retry-After", "")
    return float(value) if value.isdigit() else 0.0


def _touch(path: Path) -> bool:
    """Whether the file is there; it then counts as just used."""
    now = time.time_ns()  # finer than the file system's own clock
    try:
        os.utime(path, ns=(now, now))
    except OSError:
        return False
    return True
