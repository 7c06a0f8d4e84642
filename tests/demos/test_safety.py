"""What hostile or clumsy visitors get: messages, and nothing of the server's."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("gradio_client", reason="needs the extra 'demo'")

import gradio_client
import httpx

pytestmark = pytest.mark.slow


def bomb(path: Path, side: int = 60_000) -> None:
    """A PNG of a few bytes that says to have side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def truncated(path: Path) -> None:
    Image.effect_noise((300, 300), 80).save(path, "PNG")
    path.write_bytes(path.read_bytes()[:5000])


def large(path: Path) -> None:
    Image.new("L", (5000, 4000)).save(path, "PNG")


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "text.png": (lambda path: path.write_text("not a picture"), "not an image"),
    "empty.png": (lambda path: path.write_bytes(b""), "empty file"),
    "cut.png": (truncated, "truncated|broken"),
    "bomb.png": (bomb, "too large"),
    "large.png": (large, "too large"),
    "drawing.svg": (lambda path: path.write_text("<svg><script>1</script></svg>"), "not an image"),
    "page.eps": (lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n"), "not an image"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_usable_picture_is_refused_with_a_message(
    client: Any, tmp_path: Path, name: str
) -> None:
    make, reason = BAD[name]
    make(tmp_path / name)
    sent = gradio_client.handle_file(tmp_path / name)
    with pytest.raises(gradio_client.exceptions.AppError, match=reason) as caught:
        client.predict(sent, "cat", "a {}", api_name="/zero_shot")
    assert "Take a JPEG" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_files_over_the_limit_are_refused(server: str, tmp_path: Path) -> None:
    from radio_demos.safety import MAX_FILE_BYTES

    content = b"\0" * (MAX_FILE_BYTES + 1)
    answer = httpx.post(f"{server}gradio_api/upload", files={"files": ("a.png", content)})
    assert answer.status_code == 413


@pytest.mark.parametrize("prefix", ["gradio_api/file=", "file=", "gradio_api/file/"])
def test_no_file_of_the_server_can_be_read(server: str, prefix: str, llava: Path) -> None:
    here = Path(__file__).resolve()
    secrets = ["/etc/passwd", str(here), str(llava / "config.json"), "pyproject.toml"]
    secrets += ["../" * 12 + "etc/passwd", "/proc/self/environ"]
    for secret in secrets:
        answer = httpx.get(f"{server}{prefix}{secret}")
        assert answer.status_code in (403, 404), secret
        assert "root:" not in answer.text
    config = httpx.get(f"{server}config").text
    assert str(llava) not in config


def ask(server: str, endpoint: str, data: list[Any]) -> str:
    """The raw event stream of a call whose data no client has looked at."""
    url = f"{server}gradio_api/call/{endpoint}"
    answer = httpx.post(url, json={"data": data}, timeout=60)
    if answer.status_code != 200:
        return str(answer.text)
    return str(httpx.get(f"{url}/{answer.json()['event_id']}", timeout=60).text)


@pytest.mark.parametrize("meta", [{"meta": {"_type": "gradio.FileData"}}, {"meta": {}}, {}])
@pytest.mark.parametrize("path", ["/etc/passwd", "/no/such/file", os.path.abspath(__file__), ""])
def test_a_path_of_the_server_is_no_upload(server: str, path: str, meta: dict[str, Any]) -> None:
    sent = {"path": path, "orig_name": "a.png", **meta}
    told = ask(server, "zero_shot", [sent, "cat", "a {}"])
    assert "event: error" in told
    assert "probabilities" not in told
    assert "root:" not in told


def test_no_picture_of_the_server_is_shown(server: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Image.new("RGB", (40, 30)).save(secret)
    link = tmp_path / "link.png"
    link.symlink_to(secret)
    for path in (secret, link, f"{tmp_path}/../{tmp_path.name}/secret.png"):
        told = ask(server, "segment", [{"path": str(path)}, "", False])
        assert "event: error" in told
        assert "nothing else is read" in told


def test_a_picture_inside_of_a_request_is_refused(server: str) -> None:
    sent = {"url": "data:image/png;base64,AAAA", "meta": {"_type": "gradio.FileData"}}
    told = ask(server, "zero_shot", [sent, "cat", "a {}"])
    assert "event: error" in told


@pytest.mark.parametrize("data", [[None, 5, 5], [None, {"a": 1}, "x"], [3, "cat", "a {}"]])
def test_data_of_other_types_break_nothing(server: str, data: list[Any]) -> None:
    told = ask(server, "zero_shot", data)
    assert "Traceback" not in told
    assert "site-packages" not in told
    assert "File " not in told


def test_no_request_goes_past_the_queue(server: str) -> None:
    for route in ("run", "api"):
        answer = httpx.post(
            f"{server}gradio_api/{route}/zero_shot", json={"data": [None, "cat", "a {}"]}
        )
        assert answer.status_code >= 400
