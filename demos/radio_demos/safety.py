"""What stands between a visitor and the models: checked uploads, messages, waiting in line.

Handlers of one resource run one at a time (`runs`), so that a `functools.cache` loads a model once.
"""

import functools
import hashlib
import inspect
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Lock
from typing import Any, Generic, TypeVar

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import Image

from radio_core.data.images import SAFE_FORMATS, UnreadableImage, load_rgb

T = TypeVar("T")

MAX_FILE_BYTES = 20 * 2**20
"""Of an upload."""
MAX_PIXELS = 16_000_000
"""Of an upload; larger pictures are refused before they are decoded."""
LONGEST_TEXT = 20_000
"""Characters of a text that a visitor types."""

UNSEEN: dict[str, Any] = {"api_visibility": "private"}
"""Options of an event that is no part of the app's API."""

BLOCKS: dict[str, Any] = {"analytics_enabled": False, "delete_cache": (3600, 86400)}
"""Options of every `gr.Blocks`: nothing is reported, and visitors' files go after a day."""

_SAID = (ValueError, OSError, ImportError, RuntimeError)  # they tell the user what to do


def runs(resource: str = "radio") -> dict[str, Any]:
    """Options of an event whose handler is `on_picture`.

    Those of one resource run one at a time, and the others wait in line. Gradio passes the
    picture on as a file: its own decoding takes every format that Pillow knows, and fails without
    a word.
    """
    return {"concurrency_limit": 1, "concurrency_id": resource, "preprocess": False}


def on_picture(handler: Callable[..., Any]) -> Callable[..., Any]:
    """An event handler whose first argument is a picture, RGB or None, of what the visitor sent.

    Errors become messages to the visitor, never a stack trace. What our packages raise says itself
    what to do. Anything else is a defect: it goes to the server's log, and the visitor reads that
    it did.
    """
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def stream(sent: Any, *arguments: Any) -> Iterator[Any]:
            try:
                yield from handler(read_upload(sent), *_checked(arguments))
            except Exception as error:
                raise _message(error) from error

        return stream

    @functools.wraps(handler)
    def answer(sent: Any, *arguments: Any) -> Any:
        try:
            return handler(read_upload(sent), *_checked(arguments))
        except Exception as error:
            raise _message(error) from error

    return answer


def _checked(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    for value in arguments:
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            raise ValueError(f"A text of {len(value)} characters is too long.")
    return arguments


def _message(error: Exception) -> gr.Error:
    if isinstance(error, gr.Error):
        return error
    if isinstance(error, _SAID):
        text = " ".join(str(error).split()) or type(error).__name__
        return gr.Error(text, print_exception=False)
    logging.getLogger(__name__).exception("a demo failed")
    return gr.Error(
        "Something went wrong here; the server's log says what. Another picture or another "
        "setting may work.",
        print_exception=False,
    )


def read_upload(sent: Any) -> Image.Image | None:
    """The picture (8-bit RGB, upright) that a visitor sent, decoded by the toolkit's careful
    reader.

    `sent` is what gradio passes on where it does not decode: a dict with the "path" of a file, or
    None. Gradio checks that it is an upload only where the request says that it is a file, so that
    is checked here. `gr.Error` says what can be used.
    """
    if sent is None:
        return None
    path = sent.get("path") if isinstance(sent, dict) else None
    try:
        folder = Path(get_upload_folder()).resolve()  # of uploads and examples
        uploaded = isinstance(path, str) and Path(path).resolve().is_relative_to(folder)
    except (OSError, ValueError):  # of names that no file can have
        uploaded = False
    if not uploaded:
        raise gr.Error("Upload a file; nothing else is read.", print_exception=False)
    try:
        return load_rgb(str(path), max_pixels=MAX_PIXELS)
    except UnreadableImage as error:
        raise gr.Error(
            f"This picture cannot be used ({error.reason}). Take a {', '.join(SAFE_FORMATS)} "
            f"of at most {MAX_PIXELS // 10**6} megapixels.",
            print_exception=False,
        ) from error


def fingerprint(image: Image.Image) -> str:
    """A digest that tells pictures apart."""
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()


class Recent(Generic[T]):
    """The last `most` results of something slow, by what they were made of."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._results: OrderedDict[Any, T] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Any, make: Callable[[], T]) -> T:
        """The result for `key`; `make` makes it where it is not there any more."""
        with self._lock:
            if key in self._results:
                self._results.move_to_end(key)
                return self._results[key]
        result = make()
        with self._lock:
            self._results[key] = result
            while len(self._results) > self._most:
                self._results.popitem(last=False)
        return result
