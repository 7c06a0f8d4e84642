"""Every tab through gradio's own client, as a program uses it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio_client", reason="needs the extra 'demo'")

import gradio_client

from radio_core.data.toyworld import CLASS_NAMES, Scene, render_scene

pytestmark = pytest.mark.slow


@pytest.fixture
def features(client: Any, wide_file: Path) -> Callable[..., dict[str, Any]]:
    """Asks for features of the wide picture; returns pictures by caption."""

    def ask(side: int = 96, point: str = "", **boxes: bool) -> dict[str, Any]:
        chosen = [boxes.get(name, False) for name in ("masked", "smooth", "teachers")]
        sent = (gradio_client.handle_file(wide_file), side, point, *chosen)
        gallery, line, sheet = client.predict(*sent, api_name="/features")
        shown: dict[str, Any] = {
            item["caption"]: np.asarray(Image.open(item["image"]).convert("RGB"))
            for item in gallery
        }
        return {"maps": shown, "line": line, "sheet": Path(sheet)}

    return ask


def test_features_of_the_student_its_heads_and_the_teachers(features: Any) -> None:
    found = features(teachers=True)
    assert list(found["maps"]) == [
        *("student", "clip head", "dino_v2 head", "sam head"),
        *("toy-clip (teacher)", "toy-dino (teacher)", "toy-sam (teacher)"),
    ]
    assert {picture.shape for picture in found["maps"].values()} == {(224, 448, 3)}
    assert "96 x 48 pixels as 12 x 6 patches of 8" in found["line"]
    with Image.open(found["sheet"]) as sheet:
        assert sheet.format == "PNG"


def test_colours_stay_the_same_at_another_resolution(features: Any) -> None:
    low, high = features(96, smooth=True)["maps"], features(256, smooth=True)["maps"]
    for name in ("student", "dino_v2 head", "sam head"):
        pairs = np.stack([low[name].reshape(-1), high[name].reshape(-1)])
        assert np.corrcoef(pairs)[0, 1] > 0.6


def test_the_background_can_be_masked(features: Any) -> None:
    plain, masked = features()["maps"]["sam head"], features(masked=True)["maps"]["sam head"]
    dark = (masked == np.array((44, 44, 52))).all(axis=2)
    assert 0.1 < dark.mean() < 0.98
    assert not (plain == np.array((44, 44, 52))).all(axis=2).any()


def test_the_similarity_with_a_place_is_highest_there(features: Any) -> None:
    maps = features(256, "60,60", smooth=True)["maps"]
    (name, heat), *_ = ((n, m.mean(axis=2)) for n, m in maps.items() if n.startswith("sam head"))
    assert name.endswith("to 1")
    around = heat[85:125, 85:125].mean()
    assert around > heat[:20, :40].mean() + 30


@pytest.mark.parametrize(
    ("side", "point", "message"),
    [(96, "300,20", "outside of the picture"), (96, "here", "x,y"), (4096, "", "64 to 256")],
)
def test_impossible_settings_are_explained(
    features: Any, side: int, point: str, message: str
) -> None:
    with pytest.raises(gradio_client.exceptions.AppError, match=message):
        features(side, point)


def test_a_click_gives_the_mask_of_the_object(client: Any, scene: Scene, scene_file: Path) -> None:
    rows, columns = np.nonzero(scene.objects[0].mask)
    prompt = f"{columns.mean():.0f},{rows.mean():.0f}"
    sent = gradio_client.handle_file(scene_file)
    result, other, line = client.predict(sent, prompt, True, api_name="/segment")
    area = int(line.partition("**RADIO**: ")[2].partition(" pixels")[0])
    assert area == pytest.approx(len(rows), rel=0.1)
    assert "encoded in" in line
    assert "**SAM**" in line
    assert Path(other["value"]).is_file()
    drawn = Image.open(result).convert("RGB").resize((128, 128), Image.Resampling.BOX)
    changed = np.abs(np.asarray(drawn).astype(int) - scene.image).max(axis=2) > 25
    mask = scene.objects[0].mask
    assert (changed & mask).sum() / (changed | mask).sum() > 0.8


def test_boxes_and_background_points_are_prompts_too(client: Any, scene_file: Path) -> None:
    sent = gradio_client.handle_file(scene_file)
    _, _, both = client.predict(sent, "10,10,120,120\n64,64\n2,2,0", False, api_name="/segment")
    assert both.count("pixels") == 1
    with pytest.raises(gradio_client.exceptions.AppError, match="outside of the image"):
        client.predict(sent, "500,64", False, api_name="/segment")


def test_everything_is_found(client: Any, scene: Scene, scene_file: Path) -> None:
    sent = gradio_client.handle_file(scene_file)
    _, other, line = client.predict(sent, False, api_name="/everything")
    assert int(line.split()[1]) >= len(scene.objects) - 1
    assert other["visible"] is False


def test_words_become_a_heat_map(client: Any, scene_file: Path) -> None:
    sent = gradio_client.handle_file(scene_file)
    heat, _, line = client.predict(sent, "red square</b>", api_name="/words")
    assert Image.open(heat).size == (448, 448)
    assert "red square" in line
    assert "<" not in line
    with pytest.raises(gradio_client.exceptions.AppError, match="what to look for"):
        client.predict(sent, " ", api_name="/words")


def test_labels_are_ranked_with_probabilities(client: Any, scene_file: Path) -> None:
    sent = gradio_client.handle_file(scene_file)
    labels = "blue ring, red square\ngreen star,, red square"
    answer = client.predict(sent, labels, "a {}\na photo of a {}", api_name="/zero_shot")
    assert answer["label"] == "red square"
    assert len(answer["confidences"]) == 3
    assert sum(c["confidence"] for c in answer["confidences"]) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("labels", "templates", "message"),
    [
        (" ,", "a {}", "at least one label"),
        ("cat", "a cat", "exactly one"),
        ("cat", "", "template"),
    ],
)
def test_impossible_labels_are_explained(
    client: Any, scene_file: Path, labels: str, templates: str, message: str
) -> None:
    sent = gradio_client.handle_file(scene_file)
    with pytest.raises(gradio_client.exceptions.AppError, match=message):
        client.predict(sent, labels, templates, api_name="/zero_shot")


def test_a_question_is_answered_with_the_number_of_image_tokens(
    client: Any, scene_file: Path
) -> None:
    sent = gradio_client.handle_file(scene_file)
    asked = "What colour is the object?"
    said, question, tokens = client.predict(sent, asked, [], api_name="/chat")
    assert [message["role"] for message in said] == ["user", "assistant"]
    assert question == ""
    assert "64 image tokens" in tokens
    again, _, _ = client.predict(sent, "How many?", said, api_name="/chat")
    assert len(again) == 4
    with pytest.raises(gradio_client.exceptions.AppError, match="question first"):
        client.predict(sent, " ", [], api_name="/chat")


def test_twenty_visitors_at_once_get_their_own_answers(server: str, tmp_path: Path) -> None:
    scenes = [render_scene(2025, index) for index in range(20)]
    for index, scene in enumerate(scenes):
        Image.fromarray(scene.image).save(tmp_path / f"{index}.png")

    def visit(index: int) -> tuple[str, str, int]:
        client = gradio_client.Client(server, verbose=False, analytics_enabled=False)
        sent = gradio_client.handle_file(tmp_path / f"{index}.png")
        best = client.predict(sent, ",".join(CLASS_NAMES), "a {}", api_name="/zero_shot")["label"]
        # Every visitor asks for another resolution, which comes back in the line below the maps.
        side = 64 + 8 * index
        line = client.predict(sent, side, "", False, False, False, api_name="/features")[1]
        client.close()
        return best, line, side

    with ThreadPoolExecutor(20) as pool:
        visits = list(pool.map(visit, range(20)))
    assert all(f"{side} x {side} pixels" in line for _, line, side in visits)
    alone = gradio_client.Client(server, verbose=False, analytics_enabled=False)
    for index in range(20):
        sent = gradio_client.handle_file(tmp_path / f"{index}.png")
        again = alone.predict(sent, ",".join(CLASS_NAMES), "a {}", api_name="/zero_shot")["label"]
        assert visits[index][0] == again
    alone.close()
    assert len({best for best, _, _ in visits}) > 10
