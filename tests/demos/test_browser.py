"""Every tab in a real browser: Debian's chromium, driven by Playwright."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="needs playwright, see the extra 'dev'")

from playwright.sync_api import Browser, Page, expect, sync_playwright

from radio_core.data.toyworld import Scene

pytestmark = pytest.mark.slow

PATIENCE = 30_000  # ms
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("needs chromium: apt-get install chromium")
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def visit(browser: Browser, server: str) -> Iterator[Callable[..., Page]]:
    """Opens the app; in the end no request went elsewhere and no script failed."""
    elsewhere: list[str] = []
    failures: list[str] = []
    contexts: list[Any] = []

    def watch(request: Any) -> None:
        if not request.url.startswith((server, "data:", "blob:")):
            elsewhere.append(request.url)

    def open_page(tab: str = "Features", **options: Any) -> Page:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.on("request", watch)
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.goto(server)
        page.get_by_role("tab", name=tab).click()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert elsewhere == []
    assert failures == []


def in_tab(page: Page) -> Any:
    """The tab that is shown."""
    return page.get_by_role("tabpanel").filter(visible=True)


def upload(page: Page, path: Path) -> None:
    """Replace the picture of the shown tab."""
    tab = in_tab(page)
    tab.get_by_label("Remove Image").first.click()
    tab.locator("input[type=file]").first.set_input_files(path)


def test_features_are_there_at_once_and_follow_the_picture_and_the_slider(
    visit: Any, wide_file: Path
) -> None:
    page = visit()
    maps = in_tab(page).locator(".maps img")
    expect(maps).to_have_count(4)
    expect(page.get_by_text("96 x 96 pixels as 12 x 12 patches")).to_be_visible()
    upload(page, wide_file)
    expect(page.get_by_text("96 x 48 pixels as 12 x 6 patches")).to_be_visible()
    slider = page.get_by_role("slider").first
    slider.focus()
    slider.press("End")
    slider.dispatch_event("pointerup")
    expect(page.get_by_text("256 x 128 pixels as 32 x 16 patches")).to_be_visible()
    page.get_by_label("Teachers too").check()
    expect(maps).to_have_count(7)


def test_a_click_in_the_picture_shows_what_is_similar(visit: Any) -> None:
    page = visit()
    in_tab(page).locator("[data-testid=image] img, .image-frame img").first.click()
    expect(page.get_by_text(re.compile(r"student: similarity .* to 1")).first).to_be_visible()
    expect(page.get_by_label("Similar to the place")).to_have_value(re.compile(r"\d+,\d+"))
    page.get_by_role("button", name="Back to colours").click()
    expect(page.get_by_text("student", exact=True).first).to_be_visible()


def test_all_maps_can_be_downloaded_as_a_png(visit: Any) -> None:
    page = visit()
    expect(page.get_by_text("96 x 96 pixels")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_text("Download all as PNG").click()
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")


def test_clicks_on_an_object_give_its_mask(visit: Any, scene: Scene, scene_file: Path) -> None:
    page = visit("Segment")
    upload(page, scene_file)
    picture = page.locator("#segment-picture img").first
    expect(page.get_by_text("Click on an object in the picture.")).to_be_visible()
    box = picture.bounding_box()
    assert box is not None
    x, y, width, height = scene.objects[0].bbox
    left, top = (box["width"] - 128) / 2, (box["height"] - 128) / 2  # it is not magnified

    def click(column: float, row: float) -> None:
        picture.click(position={"x": left + column, "y": top + row})

    click(x + width / 2, y + height / 2)
    line = page.get_by_text(re.compile(r"RADIO: \d+ pixels, predicted IoU"))
    expect(line).to_be_visible()
    found = re.search(r"RADIO: (\d+) pixels", line.inner_text())
    assert found is not None
    assert int(found[1]) == pytest.approx(scene.objects[0].mask.sum(), rel=0.15)
    page.get_by_text("Background", exact=True).click()
    click(3, 3)
    expect(page.get_by_label("Clicks so far")).to_have_value(re.compile(r"\d+,\d+\n\d+,\d+,0"))
    page.get_by_role("button", name="Forget the clicks").click()
    page.get_by_text("Box: two corners").click()
    click(x, y)
    expect(page.get_by_text("opposite corner")).to_be_visible()
    click(x + width, y + height)
    expect(page.get_by_label("Clicks so far")).to_have_value(re.compile(r"^\d+,\d+,\d+,\d+$"))
    expect(line).to_be_visible()
    page.get_by_label("The original SAM too").check()
    expect(page.get_by_text(re.compile(r"SAM: \d+ pixels, predicted IoU"))).to_be_visible()


def test_everything_and_words_are_found(visit: Any) -> None:
    page = visit("Segment")
    page.get_by_role("button", name="Find everything").click()
    expect(page.get_by_text(re.compile(r"RADIO: \d+ objects in"))).to_be_visible()
    page.get_by_label("Find by words").fill("red cross")
    page.get_by_role("button", name="Find the words").click()
    expect(page.get_by_text("“red cross”")).to_be_visible()


def test_typed_labels_are_ranked(visit: Any, scene_file: Path) -> None:
    page = visit("Zero-shot")
    upload(page, scene_file)
    page.get_by_role("textbox", name=re.compile("Labels")).fill("green star, red square, blue ring")
    page.get_by_role("button", name="Compare").click()
    expect(in_tab(page).locator("[data-testid=label-output-value]")).to_have_text("red square")
    page.get_by_text("Sentences around the labels").click()
    templates = page.get_by_label("Templates")
    expect(templates).to_have_value(re.compile("a photo of a {}"))
    page.wait_for_timeout(500)  # what is typed while it opens gradio may set back
    templates.fill("no place for the label")
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_text("must hold exactly one")).to_be_visible()


def test_a_question_gets_an_answer(visit: Any) -> None:
    page = visit("Chat")
    page.get_by_label("Question", exact=True).fill("What colour is the object?")
    page.get_by_role("button", name="Ask").click()
    expect(in_tab(page).locator("[data-testid=bot]").first).to_be_visible()
    expect(page.get_by_text(re.compile(r"is \d+ image tokens"))).to_be_visible()
    page.get_by_role("button", name="New conversation").click()
    expect(in_tab(page).locator("[data-testid=bot]")).to_have_count(0)


def test_a_file_that_is_no_picture_gives_a_message(visit: Any, tmp_path: Path) -> None:
    page = visit()
    expect(page.get_by_text("96 x 96 pixels")).to_be_visible()
    (tmp_path / "fake.png").write_text("not a picture")
    upload(page, tmp_path / "fake.png")
    expect(page.get_by_text("This picture cannot be used (not an image)")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(visit: Any, scheme: str) -> None:
    page = visit(viewport=PHONE, color_scheme=scheme)
    expect(in_tab(page).locator(".maps img").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    background = page.evaluate(
        "getComputedStyle(document.querySelector('.gradio-container')).color"
    )
    red = int(re.findall(r"\d+", background)[0])
    assert (red > 128) == (scheme == "dark")
