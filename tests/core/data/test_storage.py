"""Remote shards: fetched with patience, whole or not at all, and kept within a limit."""

import base64
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from radio_core.data import shards, storage
from radio_core.data.images import UnreadableImage
from radio_core.data.shards import ShardImages, ShardIndex
from radio_core.data.storage import DownloadError, Downloads, Storage
from radio_core.distill.views import Views

MakeShard = Callable[..., Path]
Answer = tuple[int, dict[str, str], bytes]


class Server:
    """Serves files by path; `trouble` may give other answers for a while.

    Attributes:
        files: path -> content.
        trouble: path -> answers (status, headers, body) that come first.
        asked: how often each path was asked for with GET.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.trouble: dict[str, list[Answer]] = {}
        self.headers: dict[str, str] = {}
        self.asked: Counter[str] = Counter()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                server.asked[self.path] += 1
                self._answer(body=True)

            def _answer(self, body: bool) -> None:
                content = server.files.get(self.path)
                status, headers = (404, {}) if content is None else (200, server.headers)
                if body and server.trouble.get(self.path):
                    status, headers, content = server.trouble[self.path].pop(0)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content or b"")), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if body:
                    self.wfile.write(content or b"")

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(storage, "_FIRST_WAIT", 0.001)
    monkeypatch.setattr(storage, "_LONGEST_WAIT", 0.01)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def fetched(tmp_path: Path) -> Downloads:
    return Downloads(tmp_path / "fetched", 1000)


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("*") if path.suffix != ".lock"]


def test_a_file_is_fetched_once(server: Server, fetched: Downloads) -> None:
    server.files["/a.tar"] = b"content"
    for _ in range(3):
        assert fetched.fetch(f"{server.address}/a.tar").read_bytes() == b"content"
    assert server.asked["/a.tar"] == 1
    assert len(left_over(fetched.folder)) == 1


@pytest.mark.parametrize(
    "trouble",
    [
        (503, {}, b"busy"),
        (429, {"Retry-After": "1"}, b"slow down"),
        (200, {"Content-Length": "20"}, b"cut off"),
        (200, {"Content-MD5": base64.b64encode(bytes(16)).decode()}, b"content"),
        (200, {"x-goog-hash": "crc32c=AAAAAA==,md5=AAAAAAAAAAAAAAAAAAAAAA=="}, b"content"),
        (200, {"Repr-Digest": "sha-256=:AAAA:"}, b"content"),
    ],
)
def test_trouble_that_passes_is_waited_for(
    server: Server, fetched: Downloads, trouble: Answer
) -> None:
    server.files["/a.tar"] = b"content"
    server.trouble["/a.tar"] = [trouble] * 2
    assert fetched.fetch(f"{server.address}/a.tar").read_bytes() == b"content"
    assert server.asked["/a.tar"] == 3
    assert len(left_over(fetched.folder)) == 1


def test_announced_checksums_that_fit_are_fine(server: Server, fetched: Downloads) -> None:
    server.files["/a.tar"] = b"content"
    md5 = base64.b64encode(hashlib.md5(b"content").digest()).decode()
    sha = base64.b64encode(hashlib.sha256(b"content").digest()).decode()
    server.headers = {"Content-MD5": md5, "Digest": f"sha-256={sha}", "x-goog-hash": "crc32c=x"}
    fetched.fetch(f"{server.address}/a.tar")
    assert server.asked["/a.tar"] == 1


def test_trouble_that_stays_ends_after_some_attempts(
    server: Server, fetched: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/a.tar"] = b"content"
    server.trouble["/a.tar"] = [(500, {}, b"")] * 100
    for _ in range(3):  # asking again soon does not try again
        with pytest.raises(DownloadError, match=r"HTTP 500 .*\(5 attempts\)"):
            fetched.fetch(f"{server.address}/a.tar")
    assert server.asked["/a.tar"] == 5
    assert left_over(fetched.folder) == []
    monkeypatch.setattr(storage, "_COOL_DOWN", 0.0)
    server.trouble.clear()
    assert fetched.fetch(f"{server.address}/a.tar").read_bytes() == b"content"


def test_what_is_not_there_is_asked_for_once(server: Server, fetched: Downloads) -> None:
    with pytest.raises(DownloadError, match="HTTP 404"):
        fetched.fetch(f"{server.address}/a.tar")
    assert server.asked["/a.tar"] == 1


def test_no_server_and_no_space_are_download_errors(
    server: Server, fetched: Downloads, tmp_path: Path
) -> None:
    with pytest.raises(DownloadError, match="refused"):
        fetched.fetch("http://127.0.0.1:9/a.tar")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DownloadError):
        Downloads(tmp_path / "file", 1000).fetch(f"{server.address}/a.tar")


def test_the_files_used_longest_ago_make_room(server: Server, fetched: Downloads) -> None:
    urls = [f"{server.address}/{name}.tar" for name in "abcd"]
    for name in "abcd":
        server.files[f"/{name}.tar"] = bytes(400)
    for url in (urls[0], urls[1], urls[0], urls[2]):
        fetched.fetch(url)
    kept = [fetched.path(url).exists() for url in urls]
    assert kept == [True, False, True, False]
    server.files["/d.tar"] = bytes(5000)  # more than the limit: the newest one always stays
    fetched.fetch(urls[3])
    assert [fetched.path(url).exists() for url in urls] == [False, False, False, True]


def test_processes_and_threads_fetch_a_file_once(server: Server, fetched: Downloads) -> None:
    server.files["/a.tar"] = bytes(500)
    caches = [Downloads(fetched.folder, 1000) for _ in range(6)]
    url = f"{server.address}/a.tar"
    threads = [threading.Thread(target=cache.fetch, args=(url,)) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.asked["/a.tar"] == 1


@pytest.fixture
def remote_set(server: Server, make_shard: MakeShard, tmp_path: Path) -> str:
    """The pattern of three shards of four pictures behind http."""
    pytest.importorskip("braceexpand", reason="needs the extra 'train'")
    for number in range(3):
        shard = make_shard(tmp_path / f"{number}.tar", range(4 * number, 4 * number + 4))
        server.files[f"/set/{number}.tar"] = shard.read_bytes()
    return f"{server.address}/set/{{0..2}}.tar"


def shades(images: ShardImages) -> list[int]:
    return [images.read(index).getpixel((0, 0))[0] for index in range(len(images))]


def test_remote_shards_are_read_like_local_ones(
    server: Server, remote_set: str, tmp_path: Path
) -> None:
    place = Storage(tmp_path / "storage")
    images = ShardImages(remote_set, place)
    assert images.is_remote
    assert shades(images) == list(range(12))
    assert images.block_lengths().tolist() == [4, 4, 4]
    assert [server.asked[f"/set/{number}.tar"] for number in range(3)] == [1, 1, 1]
    asked = server.asked.total()
    again = ShardImages(remote_set, place)  # counts and files are kept: no server is needed
    assert shades(again) == list(range(12))
    assert again.identity() == images.identity()
    assert server.asked.total() == asked


def test_stated_sizes_spare_the_count_and_an_unreachable_shard_is_a_fault(
    server: Server, remote_set: str, tmp_path: Path
) -> None:
    server.files["/set/sizes.json"] = json.dumps({f"{n}.tar": 4 for n in range(3)}).encode()
    images = ShardImages(remote_set, Storage(tmp_path / "storage"))
    assert server.asked == {"/set/sizes.json": 1}
    server.trouble["/set/1.tar"] = [(500, {}, b"")] * 1000
    views = Views(images, (0.9, 1.0), 0)
    skipped: dict[str, str] = {}
    seen = set()
    for view in range(12):
        pixels, entries = views[(view, (8, 8))]
        seen.add(int(pixels[0, 4, 4]))
        skipped |= dict(entries)
    assert list(skipped) == [f"{server.address}/set/1.tar"]
    assert next(iter(skipped.values())).startswith("missing: HTTP 500")
    assert seen == {*range(4), *range(8, 12)}
    assert server.asked["/set/1.tar"] == 5


def test_a_fetched_shard_that_was_removed_is_fetched_again(
    server: Server, remote_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "_OPEN", 1)
    monkeypatch.setattr(shards, "WINDOW_BLOCKS", -1)
    size = len(server.files["/set/0.tar"])
    images = ShardImages(remote_set, Storage(tmp_path / "storage", limit=int(1.5 * size)))
    for _ in range(2):
        assert shades(images) == list(range(12))
    assert server.asked["/set/0.tar"] == 3
    assert len(list((tmp_path / "storage/downloads").glob("*.tar"))) == 1


def test_a_shard_that_is_removed_before_it_is_opened_is_no_fault(
    server: Server, remote_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = ShardImages(remote_set, Storage(tmp_path / "storage"))
    index, removed = images._index, []

    def make_room(number: int, path: Path, kept: Storage) -> ShardIndex:
        if not removed:
            removed.append(path)
            path.unlink()
        return index(number, path, kept)

    monkeypatch.setattr(images, "_index", make_room)
    assert images.read(5).getpixel((0, 0)) == (5, 5, 5)
    assert server.asked["/set/1.tar"] == 2


def test_shards_that_will_be_wanted_are_fetched_ahead(
    server: Server, remote_set: str, tmp_path: Path
) -> None:
    server.files["/set/sizes.json"] = json.dumps({f"{n}.tar": 4 for n in range(3)}).encode()
    images = ShardImages(remote_set, Storage(tmp_path / "storage"))
    images.prefetch(9)
    assert images._fetching is not None
    images._fetching.join()
    assert server.asked["/set/2.tar"] == 1
    images.prefetch(10)
    assert images.read(9).getpixel((0, 0)) == (9, 9, 9)
    assert server.asked["/set/2.tar"] == 1


def test_mistakes_are_told_before_training(server: Server, remote_set: str, tmp_path: Path) -> None:
    place = Storage(tmp_path / "storage")
    with pytest.raises(ValueError, match=r"cannot fetch the shard .*/typo/0\.tar: HTTP 404"):
        ShardImages(remote_set.replace("/set/", "/typo/"), place)
    with pytest.raises(ValueError, match=r"cannot read the shard .*/3\.tar: HTTP 404.*sizes\.json"):
        ShardImages(remote_set.replace("0..2", "0..3"), place)
    size = len(server.files["/set/0.tar"])
    with pytest.raises(ValueError, match=r"drawn from 3 shards at a time.*--data-cache-gb"):
        ShardImages(remote_set, Storage(tmp_path / "storage", limit=2 * size))
    with pytest.raises(ValueError, match="cannot fetch the shard"):
        ShardImages("http://127.0.0.1:9/0.tar", place)


def test_unreadable_names_keep_the_address(server: Server, remote_set: str, tmp_path: Path) -> None:
    images = ShardImages(remote_set, Storage(tmp_path / "storage"))
    path = images._downloads.path(images.shards[0])
    content = bytearray(path.read_bytes())
    content[512:560] = bytes(48)
    path.write_bytes(content)
    with pytest.raises(UnreadableImage) as caught:
        images.read(0)
    assert caught.value.name == f"{server.address}/set/0.tar/000000.png"
