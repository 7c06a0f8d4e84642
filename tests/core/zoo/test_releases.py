"""The table of releases against the reference facts, and the names that find them."""

import json
from pathlib import Path
from typing import Any

import pytest

from radio_core.zoo.releases import (
    DEFAULT_RELEASE,
    NON_COMMERCIAL,
    OPEN_MODEL,
    RELEASES,
    SHORT_NAMES,
    TEACHER_LICENCES,
    find_release,
    list_models,
    model_card,
    unknown_model,
)


@pytest.fixture(scope="module")
def facts(shared: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((shared / "reference" / "zoo.json").read_text())
    return read


def test_every_release_has_the_published_file_sizes_and_windows(facts: dict[str, Any]) -> None:
    assert set(RELEASES) == set(facts["versions"])
    assert len(RELEASES) == 17
    assert facts["default_version"] == DEFAULT_RELEASE
    for name, known in facts["versions"].items():
        release = RELEASES[name]
        assert (release.hub_repo, release.file) == (known["hub_repo"], known["file"]), name
        assert release.patch_size == known["patch_size"], name
        width = known.get("embed_dim", known.get("full_features_head_dim"))
        assert release.embed_dim == width, name
        assert release.max_resolution == known["max_resolution"], name
        assert list(release.preferred_resolution) == known["preferred_resolution"], name
        assert release.supports_windows == known["supports_vitdet"], name
        assert release.num_windowed == known["vitdet_num_windowed"], name
        assert release.num_global == known["vitdet_num_global"], name
        assert release.own_windows == (known["timm_model_name"] == "eradio"), name


def test_adaptors_licences_and_position_convention_are_the_published_ones(
    facts: dict[str, Any],
) -> None:
    for name, known in facts["versions"].items():
        release = RELEASES[name]
        assert list(release.adaptors) == known["adaptors_readme"], name
        open_model = known["license_family"] == OPEN_MODEL
        assert release.licence == (OPEN_MODEL if open_model else NON_COMMERCIAL), name
        older = known.get("released_before_align_corners_change", False)
        assert bool(release.pos_align_corners) == older, name
    assert RELEASES["e-radio_v2"].pos_align_corners is None  # it has no position grid
    assert RELEASES["c-radio_v4-h"].pos_align_corners is False


def test_what_is_not_stated_is_marked_as_inferred(facts: dict[str, Any]) -> None:
    for name, known in facts["versions"].items():
        release = RELEASES[name]
        source = known["confidence"]["dims"]
        doubtful = any(word in source for word in ("inferred", "deriv"))
        assert ("embed_dim" in release.inferred) == doubtful, name
        if release.teachers:
            assert ("teachers" in release.inferred) == ("teachers_readme" not in known), name
        if "teachers_readme" in known:
            assert set(release.teachers) == set(known["teachers_readme"]), name


def test_every_known_teacher_but_one_has_a_known_licence() -> None:
    teachers = {teacher for release in RELEASES.values() for teacher in release.teachers}
    assert teachers - set(TEACHER_LICENCES) == {"RTX-Translate"}
    card = model_card("radio_v2")
    licences = dict(zip(card.teachers, card.teacher_licences, strict=True))
    assert (licences["OpenAI CLIP"], licences["RTX-Translate"]) == ("MIT", "unknown")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("radio_h", "radio_v2.5-h"),
        ("radio-b", "radio_v2.5-b"),
        ("Radio_L", "radio_v2.5-l"),
        ("radio_g", "radio_v2.5-g"),
        ("e_radio", "e-radio_v2"),
        ("E-RADIO", "e-radio_v2"),
        ("c_radio_b", "c-radio_v3-b"),
        ("c-radio-l", "c-radio_v3-l"),
        ("c-radio_h", "c-radio_v4-h"),
        ("C-RADIO_G", "c-radio_v3-g"),
        ("c_radio_so400m", "c-radio_v4-so400m"),
        ("C-RADIO_v4-H", "c-radio_v4-h"),
        ("radio-v2.5-h", "radio_v2.5-h"),
    ],
)
def test_releases_are_found_by_short_names_and_any_spelling(name: str, found: str) -> None:
    release = find_release(name)
    assert release is not None
    assert release.name == found
    assert model_card(name).name == found


def test_every_name_finds_itself_and_every_short_name_a_release() -> None:
    assert [find_release(name) for name in RELEASES] == list(RELEASES.values())
    assert all(find_release(short) is RELEASES[full] for short, full in SHORT_NAMES.items())


@pytest.mark.parametrize("name", ["", "radio", "radio_v2.5", "radio_v3-h", "nvidia/RADIO", "toy"])
def test_other_names_find_no_release(name: str) -> None:
    assert find_release(name) is None


def test_unknown_names_are_answered_with_the_nearest_and_all_known() -> None:
    message = str(unknown_model("radio_v2.5h"))
    assert "did you mean 'radio_v2.5-h'" in message
    assert all(name in message for name in ("toy", *RELEASES, *SHORT_NAMES))
    assert "did you mean 'c_radio_so400m'" in str(unknown_model("C_RADIO_SO400"))
    with pytest.raises(ValueError, match="known: toy"):
        model_card("radio_v3-h")


def test_all_releases_are_listed_with_their_cards() -> None:
    cards = {card.name: card for card in list_models()}
    assert list(cards) == ["toy", *RELEASES]
    card = cards["radio_v2.5-h"]
    assert card.short_names == ("radio_h",)
    assert card.hub_file == "nvidia/RADIO/radio_v2.5-h.pth.tar"
    assert card.text_adaptors == ("clip", "siglip")
    assert (card.parameters, card.windows) == (None, "4 global")
    assert cards["radio_v2"].windows == "5 per global"
    assert cards["radio_v1"].windows == cards["c-radio_v4-h"].windows == "4 global"
    assert (cards["c-radio_v3-h"].supports_windows, cards["c-radio_v3-h"].windows) == (False, "")
    assert cards["e-radio_v2"].windows == "its own"
