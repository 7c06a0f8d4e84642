"""The chat tab: questions about a picture, answered word by word."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from queue import Queue
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import gradio as gr
from PIL import Image

from radio_demos.drawing import picture_input
from radio_demos.safety import BLOCKS, UNSEEN, on_picture, runs
from radio_llava.answering import Answerer, Query, load_answerer
from radio_llava.images import IMAGE
from radio_llava.toy import QUICKSTART_MODEL

if TYPE_CHECKING:
    import torch

INTRODUCTION = """### Ask about the picture
A LLaVA reads the picture through the RADIO model and answers word by word."""

NO_MODEL = f"""**No LLaVA model is loaded yet.** Train a small one in minutes with
`radio llava quickstart`, which leaves it in `{QUICKSTART_MODEL}`, and start the demo again from the
same folder; or name your own with `radio demo chat --llava DIR`."""

MAX_NEW_TOKENS = 256
MOST_TURNS = 20

_LONGEST_QUESTION = 2000  # characters
_LONGEST_CONVERSATION = 20_000
_QUESTIONS = (
    "What is the largest object?",
    "How many objects are in the image?",
    "Is there a red cross in the image?",
)

Message = dict[str, Any]


class NoModel(ValueError):
    """There is no LLaVA to talk with; the message says how to get one."""


class _Stopped(Exception):
    """Nobody listens to the answer any more."""


def build_chat(
    model: Answerer | str | Path | None = None, device: "str | torch.device" = "cpu"
) -> Any:
    """The chat tab.

    Args:
        model: a LLaVA that is loaded already, or whatever `radio_llava.answering.load_answerer`
            takes, loaded at the first question; None for the one of `radio llava quickstart`, or
            a note on how to get it.
        device: where it goes.

    Returns:
        A `gr.Blocks`.
    """
    talk = Talk(model, device)
    with gr.Blocks(title="RADIO: chat", **BLOCKS) as blocks:
        gr.Markdown(INTRODUCTION)
        if not talk.possible:
            gr.Markdown(NO_MODEL, elem_id="chat-note", container=True)
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                picture = picture_input()
            with gr.Column(scale=3, min_width=280):
                said = gr.Chatbot(
                    label="Conversation", height=340, render_markdown=False, buttons=["copy"]
                )
                tokens = gr.Markdown()
                question = gr.Textbox(
                    label="Question",
                    placeholder=_QUESTIONS[0],
                    max_lines=4,
                    max_length=_LONGEST_QUESTION,
                )
                gr.Examples([[text] for text in _QUESTIONS], question, label="For example")
                with gr.Row():
                    ask = gr.Button("Ask", variant="primary", min_width=100)
                    stop = gr.Button("Stop", min_width=100)
                    forget = gr.Button("New conversation", min_width=140)
        asked = gr.on(
            [ask.click, question.submit],
            on_picture(talk.ask),
            [picture, question, said],
            [said, question, tokens],
            api_name="chat",
            **runs("llava"),
        )
        clear: dict[str, Any] = {"fn": lambda: ([], ""), "inputs": None, "outputs": [said, tokens]}
        stop.click(None, None, None, cancels=[asked], **UNSEEN)
        forget.click(**clear, cancels=[asked], **UNSEEN, queue=False)
        picture.change(**clear, cancels=[asked], **UNSEEN, queue=False)
    return blocks


class Talk:
    """Answers questions on pictures, as `build_chat` describes; keeps nothing between them."""

    def __init__(
        self, model: Answerer | str | Path | None, device: "str | torch.device" = "cpu"
    ) -> None:
        path = model if isinstance(model, str | Path) else None
        if model is None and QUICKSTART_MODEL.is_dir():
            path = QUICKSTART_MODEL
        self.possible = model is not None or path is not None

        def load() -> Answerer:
            if path is not None:
                return load_answerer(path, device=device)
            if model is None:
                raise NoModel(
                    "There is no LLaVA to talk with: train a small one with `radio llava "
                    "quickstart`, or start with `radio demo chat --llava DIR`."
                )
            assert not isinstance(model, str | Path)
            return model

        self._answerer = cache(load)

    def ask(
        self, picture: Image.Image | None, question: str, said: list[Message]
    ) -> Iterator[tuple[list[Message], str, str]]:
        """Yield, as the answer grows, the conversation, an empty question and the token count."""
        question = question.replace(IMAGE, "").strip()
        if not question:
            raise ValueError("Type a question first.")
        history = _turns(said)
        length = sum(len(text) for turn in history for text in turn)
        if len(history) >= MOST_TURNS or length > _LONGEST_CONVERSATION:
            raise ValueError("This conversation is long enough: begin a new one.")
        answerer = self._answerer()
        line = "No picture: the model sees nothing."
        if picture is not None:
            count = answerer.image_tokens(picture.height, picture.width)
            tokens = f" is {count} image tokens" if count else ""
            line = f"The picture ({picture.width} x {picture.height} pixels){tokens}."
        shown = [*said, {"role": "user", "content": question}]
        yield shown, "", line
        answer = ""
        for piece in _stream(
            answerer, Query(text=question, images=(picture,) if picture else (), history=history)
        ):
            answer += piece
            yield [*shown, {"role": "assistant", "content": answer}], "", line
        answer = answer.strip() or "(nothing)"
        yield [*shown, {"role": "assistant", "content": answer}], "", line


def _stream(answerer: Answerer, query: Query) -> Iterator[str]:
    """The pieces of an answer as they are made, in a thread that ends when nobody listens."""
    pieces: Queue[str | Exception | None] = Queue()
    left = Event()

    def listen(piece: str) -> None:
        if left.is_set():
            raise _Stopped
        pieces.put(piece)

    def answer() -> None:
        try:
            answerer.stream(query, listen, MAX_NEW_TOKENS)
            pieces.put(None)
        except _Stopped:
            pass
        except Exception as error:  # is raised again where it can be shown
            pieces.put(error)

    thread = Thread(target=answer, daemon=True)
    thread.start()
    try:
        while (piece := pieces.get()) is not None:
            if isinstance(piece, Exception):
                raise piece
            yield piece
    finally:
        left.set()
        thread.join()


def _turns(said: list[Message]) -> tuple[tuple[str, str], ...]:
    """The conversation as (question, answer); a question without an answer is left out."""
    turns, question = [], ""
    for message in said:
        if message["role"] == "user":
            question = _text(message["content"])
        elif question:
            turns.append((question, _text(message["content"])))
            question = ""
    return tuple(turns)


def _text(content: Any) -> str:
    """The text of a message: a string, or gradio's list of parts."""
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text", "") if isinstance(part, dict) else str(part) for part in parts]
    return " ".join(texts).replace(IMAGE, "")
