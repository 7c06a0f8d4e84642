import json
import socket
from pathlib import Path

import pytest

from radio_core.cli import main
from radio_core.models import AdaptorConfig, HeadConfig, RadioConfig, RadioModel, vit_config
from radio_core.zoo import releases
from radio_core.zoo.releases import RELEASES, SHORT_NAMES


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = vit_config("tiny", embed_dim=16, depth=1, num_heads=2)
    adaptors = (AdaptorConfig(name="sam", features=HeadConfig(out_dim=7, hidden_dim=8)),)
    config = RadioConfig(backbone=backbone, adaptors=adaptors, licence="Apache-2.0")
    RadioModel(config).save_pretrained(tmp_path / "mine")
    monkeypatch.setattr(releases, "BUNDLED", {"mine": tmp_path / "mine"})
    monkeypatch.setenv("COLUMNS", "120")


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What `radio models ARGUMENTS` prints, every run of blanks and rules a single blank."""
    assert main(["models", *arguments]) == 0
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


@pytest.mark.usefixtures("zoo")
def test_list_and_card_name_the_licence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = shown(capsys)
    card_text = shown(capsys, "mine", "--json", str(tmp_path / "out" / "cards.json"))
    for text in (listed, card_text):
        assert all(word in text for word in ("mine", "Apache-2.0"))
    (card,) = json.loads((tmp_path / "out" / "cards.json").read_text())
    assert (card["name"], card["patch_size"], card["adaptors"]) == ("mine", 8, ["sam"])


@pytest.mark.usefixtures("zoo")
def test_unknown_name_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "mime"]) == 2
    assert "known: mine" in capsys.readouterr().err


@pytest.mark.parametrize("columns", ["80", "120"])
def test_the_list_shows_every_release_whole(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.delattr(socket, "create_connection")  # nothing is asked of the network
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    words = text.split()
    assert all(name in words for name in (*RELEASES, *SHORT_NAMES, "toy", "windows", "corners"))
    assert {"non-commercial", "Apache-2.0"} <= set(words)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= int(columns)


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        (
            "radio_h",
            ["adaptors with text clip, siglip", "windowed attention 4 global", "768 x 768"],
        ),
        ("radio_h", ["SigLIP (Apache-2.0) DINOv2", "file nvidia/RADIO/radio_v2.5-h.pth.tar"]),
        ("c-radio_v3-g", ["windowed attention no", "licence NVIDIA Open Model License"]),
        ("e_radio", ["windowed attention its own", "adaptors not stated", "(licence) unknown"]),
        ("toy", ["file comes with the package", "adaptors with text clip", "toy-sam (Apache-2.0)"]),
    ],
)
def test_the_card_says_what_is_known(
    name: str, facts: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    text = shown(capsys, name)
    assert all(fact in text for fact in facts)


def test_all_cards_go_into_one_json_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown(capsys, "--json", str(tmp_path / "cards.json"))
    cards = {card["name"]: card for card in json.loads((tmp_path / "cards.json").read_text())}
    assert list(cards) == ["toy", *RELEASES]
    card = cards["c-radio_v4-h"]
    assert card["preferred_resolution"] == [512, 512]
    assert card["teachers"] == ["SigLIP 2", "DINOv3", "SAM 3"]
    assert card["teacher_licences"] == ["Apache-2.0", "DINOv3 License", "SAM License"]
    assert (card["pos_align_corners"], card["parameters"]) == (False, None)
