"""Talk with a LLaVA about an image, in the terminal."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from radio_core.cli import UsageError
from radio_core.data.images import load_rgb, printable
from radio_core.devices import choose_device
from radio_llava.answering import Answerer, Query, load_answerer
from radio_llava.toy import QUICKSTART_MODEL

HELP = """/image FILE  talk about another image
/reset       forget what was said
/help        this list
/quit        leave (or Ctrl-D); Ctrl-C stops an answer"""


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """Talk with a LLaVA about an image. Type /help for what else there is than questions."""

    image: Annotated[Path | None, tyro.conf.Positional] = None
    """Image file; without one the talk is about nothing that could be seen."""
    model: Path = QUICKSTART_MODEL
    """Directory of a LLaVA: what its training wrote, or a transformers LLaVA with its processor.
    The default is where `radio llava quickstart` leaves one."""
    base: Path | None = None
    """Language model that a LoRA or a projector was trained on."""
    conv_mode: str | None = None
    """LLaVA's name of the conversation's form; the one that fits the model by default."""
    prompt: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Ask this and leave. More than once: one question after the other, in one talk."""
    max_new_tokens: int = 512
    """Tokens after which an answer is cut off."""
    device: str = "auto"
    """Where the model runs, such as "cuda:1"; "auto" takes a GPU where there is one."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError("max_new_tokens must be at least 1")
        if self.model == QUICKSTART_MODEL and not self.model.is_dir():
            raise UsageError(
                f"no model at {self.model}: name one with --model DIR, or let "
                "`radio llava quickstart` train a small one"
            )


class Chat:
    """One talk: an image, what was said about it, and what to do with a line that is typed."""

    def __init__(
        self, answerer: Answerer, say: Callable[[str], None], max_new_tokens: int = 512
    ) -> None:
        self._answerer = answerer
        self._say = say
        self._max_new_tokens = max_new_tokens
        self._empty = Query(text="")
        self._talk = self._empty

    def look_at(self, path: Path) -> str:
        """Begin to talk about another image, if it can be read; returns a line about it."""
        image = load_rgb(path)
        self._empty = self._talk = Query(text="", images=(image,))
        count = self._answerer.image_tokens(image.height, image.width)
        tokens = "" if count is None else f", {count} image tokens"
        return f"{printable(path)}: {image.width} x {image.height} pixels{tokens}"

    def ask(self, text: str) -> None:
        """Ask the next question, show the answer as it comes; if interrupted, keep what came."""
        query = Query(text=text, images=self._talk.images, history=self._talk.history)
        question, _ = query.turns()[-1]
        pieces: list[str] = []

        def listen(piece: str) -> None:
            pieces.append(piece)
            # nothing that could steer a terminal
            self._say("".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in piece))

        try:
            self._answerer.stream(query, listen, self._max_new_tokens)
        except KeyboardInterrupt:
            self._say(" ...")
        self._say("\n")
        history = (*self._talk.history, (question, "".join(pieces).strip()))
        self._talk = Query(text="", images=query.images, history=history)

    def take(self, line: str) -> bool:
        """Do what a typed line asks for; False where it ends the talk."""
        command, _, argument = line.strip().partition(" ")
        if command in ("/quit", "/exit"):
            return False
        try:
            if command == "/image" and argument.strip():
                self._say(self.look_at(Path(argument.strip()).expanduser()) + "\n")
            elif command == "/reset":
                self._talk = self._empty
            elif command.startswith("/"):
                self._say(HELP + "\n")
            elif command:
                self.ask(line.strip())
        except ValueError as error:
            self._say(f"{error}\n")
        return True


def chat(options: ChatOptions) -> int:
    """Talk with a LLaVA about an image, in the terminal."""
    if options.image is not None:
        load_rgb(options.image)  # before the model, which takes longer
    answerer = load_answerer(
        options.model,
        base=options.base,
        conv_mode=options.conv_mode,
        device=choose_device(options.device),
    )

    def show(text: str) -> None:
        print(text, end="", flush=True)

    talk = Chat(answerer, show, options.max_new_tokens)
    if options.image is not None:
        print(talk.look_at(options.image), file=sys.stderr)
    for prompt in options.prompt:
        talk.ask(prompt)
    if options.prompt:
        return 0
    print(HELP, file=sys.stderr)
    while True:
        try:
            line = input("> ")
        except (EOFError, KeyboardInterrupt):
            print()
            return 0
        if not talk.take(line):
            return 0
