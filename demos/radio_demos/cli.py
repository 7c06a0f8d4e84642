"""See features, masks, zero-shot labels and a chat about pictures, in the browser."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from radio_core.cli import UsageError

Tab = Literal["all", "features", "segment", "zero-shot", "chat"]

_LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Serve the demos, on this machine alone unless told otherwise; Ctrl-C stops them."""

    tab: Annotated[Tab, tyro.conf.Positional] = "all"
    """One tab alone; all by default."""
    model: str = "toy"
    """A RADIO release, a file or folder with a model, a hub id, or a file that `radio export` wrote
    (.onnx, .engine, .pt2), which serves the tabs that it can; masks want one `--for sam=SAM`.
    Engines and .pt2 packages are programs: only open those that you trust."""
    teacher: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A teacher to show beside the heads, such as "dinov2:facebook/dinov2-base"; more than once
    for several. The toy teachers for the toy model if none is named."""
    sam: str = "toy-sam"
    """Whose mask decoder serves: "toy-sam", "vit_h:CHECKPOINT.pth" (or vit_l, vit_b), a checkpoint
    file alone, or a folder with sam_config.json."""
    llava: Path | None = None
    """Directory of a LLaVA for the chat; the one of `radio llava quickstart` if None."""
    text_tower: str | None = None
    """Local weights of the clip adaptor's text tower, so that none is downloaded."""
    host: str = "127.0.0.1"
    """Address to listen on; "0.0.0.0" lets other machines in."""
    port: int | None = None
    """Port; the first free one from 7860 on if None."""
    share: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Let gradio's servers forward a public address to this machine."""
    auth: str = ""
    """USER:PASSWORD that visitors have to give."""
    device: str = "auto"
    """Where the models run, such as "cuda:1"; "auto" takes a GPU where there is one."""

    def __post_init__(self) -> None:
        if self.port is not None and not 1 <= self.port <= 65535:
            raise UsageError(f"--port {self.port} must be between 1 and 65535")
        user, colon, password = self.auth.partition(":")
        if self.auth and not (user and colon and password):
            raise UsageError("--auth must be USER:PASSWORD")
        if self.llava is not None and not self.llava.is_dir():
            raise UsageError(f"--llava {self.llava}: there is no such directory")

    @property
    def credentials(self) -> tuple[str, str] | None:
        """User and password, or None where nobody is asked."""
        user, _, password = self.auth.partition(":")
        return (user, password) if self.auth else None


def demo(options: DemoOptions) -> int:
    """Serve the demos in the browser: features, masks, labels, and a chat about pictures."""
    import radio_demos  # sets gradio up

    build_app, launch = radio_demos.build_app, radio_demos.launch
    from radio_core.devices import choose_device
    from radio_core.teachers.load import TOY_TEACHERS
    from radio_demos.app import TABS
    from radio_demos.models import open_demo_model

    public = options.share or options.host not in _LOCAL
    if public and options.credentials is None:
        print("anyone who finds the address can use it; --auth USER:PASSWORD asks", file=sys.stderr)
    app = build_app(
        open_demo_model(options.model, choose_device(options.device, options.model)),
        TABS if options.tab == "all" else (options.tab,),
        teachers=options.teacher or (TOY_TEACHERS if options.model == "toy" else ()),
        sam=options.sam,
        llava=options.llava,
        text_tower=options.text_tower,
    )
    launch(app, host=options.host, port=options.port, share=options.share, auth=options.credentials)
    return 0
