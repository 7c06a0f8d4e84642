"""Take the README's pictures of the demos with Debian's chromium, each tab after a few clicks.

python -m scripts.demo_screenshots [--out docs] [--llava runs/llava-quickstart/toy/llava-toy]
"""

import argparse
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

import radio_demos
from radio_core.teachers.load import TOY_TEACHERS
from radio_core.zoo.load import load_model

WIDTH, HEIGHT = 1280, 900
SHOWN_WIDTH = 900
MAX_BYTES = 60_000
_PATIENCE = 60_000  # ms


def main() -> None:
    """Serve the demos with the bundled models, visit them, and write demo-<tab>.webp files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--llava", type=Path, default=None, help="a trained LLaVA for the chat")
    options = parser.parse_args()
    program = shutil.which("chromium")
    if program is None:
        raise SystemExit("needs chromium: apt-get install chromium")
    app = radio_demos.build_app(load_model("toy"), teachers=TOY_TEACHERS, llava=options.llava)
    address = radio_demos.launch(app, block=False)
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
            for tab, act in TABS.items():
                page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
                page.set_default_timeout(_PATIENCE)
                page.goto(address)
                page.get_by_role("tab", name=tab).click()
                act(page)
                page.wait_for_timeout(800)  # pictures fade in
                path = options.out / f"demo-{tab.lower()}.webp"
                path.write_bytes(small_webp(page.screenshot()))
                print(f"{path}: {path.stat().st_size} bytes")
                page.close()
    finally:
        app.close()


def small_webp(png: bytes) -> bytes:
    """A screenshot as a WebP of at most `MAX_BYTES`."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    height = round(picture.height * SHOWN_WIDTH / picture.width)
    picture = picture.resize((SHOWN_WIDTH, height), Image.Resampling.LANCZOS)
    for quality in range(90, 10, -5):
        file = io.BytesIO()
        picture.save(file, "WEBP", quality=quality, method=6)
        if file.tell() <= MAX_BYTES:
            return file.getvalue()
    raise ValueError(f"the screenshot does not fit into {MAX_BYTES} bytes")


def _features(page: Page) -> None:
    slider = page.get_by_role("slider").first
    slider.focus()
    slider.press("End")
    slider.dispatch_event("pointerup")
    page.get_by_text("as 32 x 32 patches").wait_for()


def _segment(page: Page) -> None:
    picture = page.locator("#segment-picture img").first
    box = picture.bounding_box()
    if box is None:
        raise RuntimeError("the segment tab shows no picture")
    picture.click(position={"x": 0.7 * box["width"], "y": 0.55 * box["height"]})
    page.get_by_text(re.compile(r"RADIO: \d+ pixels")).wait_for()


def _zero_shot(page: Page) -> None:
    page.locator("[data-testid=label-output-value]").wait_for()


def _chat(page: Page) -> None:
    page.get_by_label("Question", exact=True).fill("What is the largest object?")
    page.get_by_role("button", name="Ask").click()
    answer = page.get_by_role("tabpanel").filter(visible=True).locator("[data-testid=bot]")
    answer.or_(page.get_by_text("There is no LLaVA to talk with")).first.wait_for()
    page.wait_for_timeout(3000)  # the rest of the answer


TABS: dict[str, Callable[[Page], None]] = {
    "Features": _features,
    "Segment": _segment,
    "Zero-shot": _zero_shot,
    "Chat": _chat,
}

if __name__ == "__main__":
    main()
