"""What the tabs' event handlers have in common: messages, waiting in line, and loading late."""

import functools
import inspect
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from threading import Lock
from typing import Any, Generic, TypeVar

import gradio as gr

from radio_demos.pictures import read_upload

T = TypeVar("T")

_SAID = (ValueError, OSError, ImportError, RuntimeError)  # they tell the user what to do

UNSEEN: dict[str, Any] = {"api_visibility": "private"}
"""Options of an event that is no part of the app's API."""

BLOCKS: dict[str, Any] = {"analytics_enabled": False, "delete_cache": (3600, 86400)}
"""Options of every `gr.Blocks`: nothing is reported, and visitors' files go after a day."""

LONGEST_TEXT = 20_000
"""Characters of a text that a visitor types."""


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


class Late(Generic[T]):
    """Something that is made when it is first needed, once, whichever thread asks first.

    Args:
        make: makes it; when it fails, the next one who asks tries again.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: list[T] = []
        self._lock = Lock()

    def __call__(self) -> T:
        """The thing itself."""
        with self._lock:
            if not self._made:
                self._made.append(self._make())
            return self._made[0]


class Recent(Generic[T]):
    """The last results of something slow, by what they were made of.

    Args:
        most: results that are kept.
    """

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
