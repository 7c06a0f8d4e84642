"""All tabs in one app, and how an app is served."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from radio_core.vision import VisionModel
from radio_demos.chat import build_chat
from radio_demos.features import build_features
from radio_demos.models import CannotServe, Model, open_demo_model
from radio_demos.safety import BLOCKS, MAX_FILE_BYTES
from radio_demos.segment import build_segment
from radio_demos.zero_shot import build_zero_shot
from radio_sam.load import TOY_SAM

TABS = ("features", "segment", "zero-shot", "chat")
WAITING = 64
"""Requests that may wait in line; further ones are asked to come back later."""

_FONTS = ("system-ui", "-apple-system", "Segoe UI", "sans-serif")
_MONO = ("ui-monospace", "Consolas", "monospace")
_CSS = """
footer { opacity: .7 }
.maps .grid-wrap { max-height: none !important; overflow: visible !important }
.maps .grid-container {
  grid-template-columns: repeat(auto-fill, minmax(min(45%, 240px), 1fr)) !important
}
.maps .caption-label { white-space: normal; max-width: 100% }
@media (max-width: 640px) { .gradio-container { padding: 8px !important } }
"""
_TITLE = "RADIO: one student, several teachers"


def build_app(
    model: Model | VisionModel | str | Path,
    tabs: Sequence[str] = TABS,
    *,
    teachers: Sequence[str] = (),
    sam: str = TOY_SAM,
    llava: Path | None = None,
    text_tower: str | None = None,
) -> Any:
    """One app of several tabs that share a model.

    Args:
        model: for all tabs but the chat; see `radio_demos.models.open_demo_model`. Beside other
            tabs, one that cannot use it is a note on what it needs.
        tabs: some of `TABS`.
        teachers: see `build_features`.
        sam: see `build_segment`.
        llava: see `build_chat`.
        text_tower: see `build_zero_shot`.

    Returns:
        A `gr.Blocks`; serve it with `launch`.

    Raises:
        ValueError: no tab, or an unknown one; `CannotServe` for a single tab that cannot use the
            model. Others as `open_demo_model`.
    """
    if not tabs or not set(tabs) <= set(TABS):
        raise ValueError(f"unknown tabs {list(tabs)}; known: {', '.join(TABS)}")
    opened = open_demo_model(model)
    builders: dict[str, Callable[[], Any]] = {
        "features": lambda: build_features(opened, teachers),
        "segment": lambda: build_segment(opened, sam, text_tower),
        "zero-shot": lambda: build_zero_shot(opened, text_tower),
        "chat": lambda: build_chat(llava, opened.device),
    }
    if len(tabs) == 1:
        return builders[tabs[0]]()
    built = {}
    for name in tabs:
        try:
            built[name] = builders[name]()
        except CannotServe as error:
            with gr.Blocks(**BLOCKS) as built[name]:
                gr.Markdown(f"**Not with this model:** {error}.", container=True)
    with gr.Blocks(title=_TITLE, **BLOCKS) as app:
        gr.Markdown(f"# {_TITLE}")
        with gr.Tabs():
            for name, blocks in built.items():
                with gr.Tab(name.capitalize(), id=name):
                    blocks.render()
    return app


def launch(
    app: Any,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    auth: tuple[str, str] | None = None,
    block: bool = True,
) -> str:
    """Serve an app. No file of this machine can be read through it but what visitors uploaded.

    Args:
        app: what `build_app` or another `build_...` returned.
        host: address to listen on; the default is this machine alone.
        port: None for the first free one from 7860 on.
        share: let gradio's servers forward a public address to it.
        auth: (user, password) that visitors have to give.
        block: return only when it is stopped with Ctrl-C.

    Returns:
        The address.

    Raises:
        OSError: the port is taken.
    """
    # Gradio's own look in the system's fonts, so that nothing is fetched from elsewhere.
    look = gr.themes.Default(
        primary_hue="teal", secondary_hue="teal", font=_FONTS, font_mono=_MONO
    ).set(block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_300")
    app.queue(max_size=WAITING, api_open=False, default_concurrency_limit=1)
    _, address, _ = app.launch(
        server_name=host,
        server_port=port,
        share=share,
        auth=auth,
        prevent_thread_lock=not block,
        show_error=False,
        max_file_size=MAX_FILE_BYTES,
        allowed_paths=[],
        enable_monitoring=False,
        ssr_mode=False,
        footer_links=["api", "settings"],
        run_history=False,
        theme=look,
        css=_CSS,
    )
    return str(address)
