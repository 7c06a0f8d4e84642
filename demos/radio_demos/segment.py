"""The segment tab: masks of what is clicked, of everything, and heat maps of words."""

from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from radio_core.export.runtime import ExportedModel
from radio_demos.finding import CLICK, Finder
from radio_demos.handlers import BLOCKS, UNSEEN, on_picture, runs
from radio_demos.models import CannotServe, Model, open_model
from radio_demos.pictures import example_pictures, picture_input
from radio_sam.load import TOY_SAM

INTRODUCTION = """### Click on something, and get its mask
The model stands in for the image encoder of Segment Anything. **Click on an object in the
picture**; a second click refines the mask, a click on the background takes away from it, and two
clicks with *Box* frame an object."""

OBJECT, BACKGROUND, BOX = "Object", "Background", "Box: two corners"
OPPOSITE = "**Now click on the opposite corner.**"
_SHOWN = 0  # the example that is there at first

Corner = tuple[float, float]


def build_segment(
    model: Model | str | Path = "toy", sam: str = TOY_SAM, text_tower: str | None = None
) -> Any:
    """The segment tab.

    Args:
        model: a RADIO model with a sam adaptor, or whatever `radio_demos.models.open_model` takes;
            of exported files those for `sam`, which know no words.
        sam: whose neck and mask decoder serve, see `radio_sam.load_radio_sam`; loaded when first
            needed, as is SAM's own encoder.
        text_tower: local weights of the text tower of the clip adaptor, so that none is
            downloaded.

    Returns:
        A `gr.Blocks`.

    Raises:
        ValueError: as `open_model`; `CannotServe` for an exported file that holds a whole model.
        OSError: as `open_model`.
        ImportError: as `open_model`.
    """
    opened = open_model(model)
    if isinstance(opened, ExportedModel):
        raise CannotServe(
            "this file holds a whole model; for masks export its image encoder with "
            "`radio export onnx MODEL FILE --for sam=SAM`"
        )
    finder = Finder(opened, sam, text_tower)
    with gr.Blocks(title="RADIO: segment", **BLOCKS) as blocks:
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            with gr.Column(scale=3, min_width=280):
                kind = gr.Radio([OBJECT, BACKGROUND, BOX], value=OBJECT, label="Next click")
                picture = picture_input(_SHOWN, elem_id="segment-picture")
            with gr.Column(scale=5, min_width=300):
                shown = _results()
            with gr.Column(scale=2, min_width=220):
                controls = _controls(words=finder.knows_words)
        _connect(finder, picture, kind, controls, shown)
    return blocks


class _Controls(NamedTuple):
    """What the visitor can do besides clicking on the picture."""

    everything: Any
    prompts: Any
    forget: Any
    beside: Any
    words: Any
    search: Any


def _controls(words: bool) -> _Controls:
    return _Controls(
        everything=gr.Button("Find everything", variant="primary"),
        prompts=gr.Textbox(
            label="Clicks so far",
            info="a line each: x,y (object), x,y,0 (background), x0,y0,x1,y1 (box)",
            placeholder="none",
            lines=2,
            max_lines=6,
            max_length=2000,
        ),
        forget=gr.Button("Forget the clicks", size="sm"),
        beside=gr.Checkbox(label="The original SAM too", info="to compare"),
        words=gr.Textbox(
            label="Find by words",
            placeholder="a red circle",
            max_length=200,
            max_lines=1,
            visible=words,
        ),
        search=gr.Button("Find the words", size="sm", visible=words),
    )


def _results() -> list[Any]:
    """The result, the original SAM's, and the line about them: what `Finder` gives."""
    options: dict[str, Any] = {"format": "png", "interactive": False}
    options["buttons"] = ["download", "fullscreen"]
    result = gr.Image(example_pictures()[_SHOWN], label="With RADIO", **options)
    status = gr.Markdown(CLICK)
    return [result, gr.Image(label="The original SAM", visible=False, **options), status]


def _connect(
    finder: Finder, picture: Any, kind: Any, controls: _Controls, shown: list[Any]
) -> None:
    prompts, beside, words = controls.prompts, controls.beside, controls.words
    segment, asked = on_picture(finder.segment), [picture, prompts, beside]
    options = {**runs(), "trigger_mode": "always_last"}
    changes = [prompts.change, beside.change]
    gr.on(changes, segment, asked, shown, api_name="segment", **options)
    corner = gr.State(None)
    _clicks(picture, kind, prompts, corner, shown[-1])
    for trigger in (picture.change, controls.forget.click):
        # the clicks belong to the picture before
        forgotten = trigger(lambda: ("", None), None, [prompts, corner], **UNSEEN, queue=False)
        forgotten.then(segment, asked, shown, **runs(), **UNSEEN)

    def everything(picture: Any, beside: bool, progress: Any = gr.Progress()) -> Any:  # noqa: B008
        return finder.everything(picture, beside, progress)

    controls.everything.click(
        on_picture(everything), [picture, beside], shown, api_name="everything", **runs()
    )
    search = [controls.search.click, words.submit]
    gr.on(search, on_picture(finder.words), [picture, words], shown, api_name="words", **runs())


def _clicks(picture: Any, kind: Any, prompts: Any, corner: Any, status: Any) -> None:
    """Every click on the picture becomes a line of the prompts; of a box, the second one does."""

    def clicked(
        kind: str, prompts: str, corner: Corner | None, event: gr.SelectData
    ) -> tuple[str, Corner | None, Any]:
        x, y = event.index
        if kind != BOX:
            line = f"{x:.0f},{y:.0f}" + (",0" if kind == BACKGROUND else "")
            return added(prompts, line), None, gr.skip()
        if corner is None:
            return prompts, (x, y), OPPOSITE
        (left, right), (top, bottom) = sorted((corner[0], x)), sorted((corner[1], y))
        line = f"{left:.0f},{top:.0f},{right:.0f},{bottom:.0f}"
        return added(prompts, line), None, gr.skip()

    shown = [prompts, corner, status]
    picture.select(clicked, [kind, prompts, corner], shown, **UNSEEN, queue=False)


def added(prompts: str, line: str) -> str:
    """The prompts with one more line."""
    return "\n".join([*prompts.split(), line])
