import json
from pathlib import Path

import pytest

from radio_core.commands import UsageError
from radio_core.commands.models import main
from radio_core.models import AdaptorConfig, RadioConfig, RadioModel, vit_config
from radio_core.zoo import registry


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = vit_config("tiny", embed_dim=16, depth=1, num_heads=2)
    adaptors = (AdaptorConfig(name="sam", feature_dim=7, hidden_dim=8),)
    config = RadioConfig(backbone=backbone, adaptors=adaptors, licence="Apache-2.0")
    RadioModel(config).save_pretrained(tmp_path / "mine")
    monkeypatch.setattr(registry, "BUNDLED", {"mine": tmp_path / "mine"})
    monkeypatch.setenv("COLUMNS", "120")


@pytest.mark.usefixtures("zoo")
def test_list_and_card_name_the_licence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    listed = capsys.readouterr().out
    assert main(["mine", "--json", str(tmp_path / "out" / "cards.json")]) == 0
    shown = capsys.readouterr().out
    for text in (listed, shown):
        assert all(word in text for word in ("mine", "sam", "Apache-2.0"))
    (card,) = json.loads((tmp_path / "out" / "cards.json").read_text())
    assert (card["name"], card["patch_size"], card["adaptors"]) == ("mine", 8, ["sam"])


@pytest.mark.usefixtures("zoo")
def test_unknown_name_is_bad_usage() -> None:
    with pytest.raises(UsageError, match="known: mine"):
        main(["mime"])
