"""One grammar for every model, and one contract behind it."""

from pathlib import Path

import pytest
import torch

from radio_core.open import known_source, open_model, random_model
from radio_core.registry import UnknownName
from radio_core.vision import ModelSpec, VisionModel
from radio_core.zoo.load import load_model

OWN = '''
import torch
from radio_core import ModelSpec, Output, Teacher


class Mean(Teacher):
    """The mean colour of cells of 4 x 4 pixels."""

    def __init__(self, name: str, scale: float) -> None:
        super().__init__(
            ModelSpec(name=name, input_size=8, patch_size=4, summary_dim=3, feature_dim=3)
        )
        self.scale = torch.nn.Parameter(torch.tensor(scale))
        self.freeze()

    def extract(self, images):
        cells = torch.nn.functional.avg_pool2d(images, 4) * self.scale
        return Output(cells.mean(dim=(2, 3)), cells)


def load(source, rest, input_size):
    return Mean(source, float(rest or 1))
'''


@pytest.mark.parametrize(
    ("source", "summary_dim", "feature_dim", "can"),
    [
        ("toy", 256, 128, {"text", "sam", "windows", "flexible"}),
        ("toy#clip", 64, 96, {"text", "sam", "windows", "flexible"}),
        ("radio:toy#sam", None, 80, {"sam", "windows", "flexible"}),
        ("random:tiny", 128, 128, {"windows", "flexible"}),
        ("toy-clip", 64, 96, {"text", "square"}),
        ("toy-sam", None, 80, {"sam", "square", "flexible"}),
    ],
)
def test_every_source_gives_a_model_that_says_what_it_can_do(
    source: str, summary_dim: int | None, feature_dim: int, can: set[str]
) -> None:
    for module, extra in (("open_clip", "clip"), ("segment_anything", "sam")):
        pytest.importorskip(module, reason=f"needs the extra {extra!r}")
    assert known_source(source)
    model = open_model(source)
    assert isinstance(model, VisionModel)
    spec: ModelSpec = model.spec
    names = ("windows", "text", "sam", "flexible", "square")
    assert {name for name in names if getattr(spec, name)} == can
    assert (spec.summary_dim, spec.feature_dim) == (summary_dim, feature_dim)
    output = model(torch.rand(2, 3, 50, 70))
    assert output.features.shape == (2, feature_dim, *spec.grid())
    assert (output.summary is None) == (summary_dim is None)
    assert model.fingerprint() == open_model(source).fingerprint()


def test_radio_sees_images_as_they_are_and_keeps_its_own_numbers() -> None:
    radio, images = load_model("toy"), torch.rand(1, 3, 64, 96)
    wanted = radio.forward_all(images, ("clip",))
    for source, head in (("toy", "backbone"), ("toy#clip", "clip")):
        output = open_model(source)(images, (64, 96))
        assert torch.equal(output.features, wanted[head].features)
        assert torch.equal(output.summary, wanted[head].summary)
    texts = open_model("toy#clip")
    assert torch.equal(texts.image_text(images, (64, 96)), wanted["clip"].summary)  # type: ignore[attr-defined]


def test_fingerprints_tell_heads_weights_and_windows_apart() -> None:
    models = [open_model(source) for source in ("toy", "toy#clip", "random:tiny")]
    models.append(open_model("random:tiny", window_size=2))
    assert len({model.fingerprint() for model in models}) == 4


def test_a_file_on_the_path_is_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mean_colours.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    images = torch.rand(1, 3, 8, 8)
    one, two = open_model("mean_colours:load"), open_model("mean_colours:load:2")
    torch.testing.assert_close(two(images).features, 2 * one(images).features)
    with pytest.raises(UnknownName, match="mean_colours has no 'laod'"):
        open_model("mean_colours:laod")


def test_unknown_sources_list_the_forms_and_nothing_is_imported(tmp_path: Path) -> None:
    for source in ("nix", "./nowhere/model", ""):
        assert not known_source(source)
        with pytest.raises(UnknownName, match=r"known: toy, toy-clip, .*a release"):
            open_model(source)
    with pytest.raises(UnknownName, match=r"unknown shape 'tinny' \(did you mean 'tiny'\?\)"):
        open_model("random:tinny")
    with pytest.raises(ValueError, match="only RADIO models have adaptors"):
        open_model("timm:resnet18", adaptor="clip")


def test_random_weights_depend_on_the_seed_alone() -> None:
    one, same, other = (random_model("tiny", seed) for seed in (0, 0, 1))
    images = torch.rand(1, 3, 32, 32)
    outputs = [model(images).features for model in (one, same, other)]
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
