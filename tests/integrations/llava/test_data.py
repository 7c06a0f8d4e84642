import json
import os
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from radio_llava.data import CheckedDataset, MixedSizes, check_samples
from radio_llava.images import RadioImageProcessor
from radio_llava.registration import IMAGE_TOKEN_INDEX, TruncationWarning
from radio_llava.train import checked


def sample(text: str = "<image>\nWhat?", **values: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": text}, {"from": "gpt", "value": "red"}]
    return {"id": "7", "conversations": turns} | values


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (90, 40), "red").save(tmp_path / "wide.png")
    Image.new("RGB", (40, 90), "blue").save(tmp_path / "tall.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG broken")
    return tmp_path


@pytest.mark.parametrize(
    "good",
    [
        sample(image="wide.png"),
        sample("What?"),
        sample("<image> and <image>?", image=["wide.png", "tall.png"]),
        sample("<image><image> twice in one sentence", image="wide.png"),
    ],
)
def test_samples_that_fit_pass(folder: Path, good: dict[str, Any]) -> None:
    check_samples([good], folder)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (sample("What?", image="wide.png"), "sample 7: has an image, but no <image>"),
        (sample(), r"sample 7: has 1 <image> in its text, but 0 image\(s\)"),
        (sample("<image> <image>", image=["wide.png"]), r"has 2 <image> .*, but 1 image\(s\)"),
        (sample("What?", image=[]), "empty list of images"),
        (sample(image=None), '"image" is None: it must be a file name'),
        (sample(image=[1]), r'"image" is \[1\]: it must be a file name'),
        ({"id": "7", "text": "What?"}, 'has no "conversations"'),
        ({"id": "7", "conversations": [{"value": "a"}]}, 'turn without "from" and "value"'),
        ({"id": "7", "conversations": [{"from": "gpt", "value": 1}]}, "value is no text"),
        (sample(image="no.png"), f"no image file .*{os.sep}no.png"),
        (sample(image="nowhere/wide.png"), "no image file .*nowhere"),
    ],
)
def test_samples_that_do_not_fit_are_named_and_counted(
    folder: Path, bad: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=rf"1 of 2 samples cannot be used:\s+{'.*'}{message}"):
        check_samples([sample("What?"), bad], folder)


@pytest.mark.parametrize(("samples", "message"), [([], "no samples"), (["a"], "sample 0: has no")])
def test_data_of_another_form_is_refused(folder: Path, samples: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_samples(samples, folder)


def test_of_many_bad_samples_the_first_are_shown(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"8 of 8 samples") as caught:
        check_samples([sample(image="no.png")] * 8, folder)
    assert str(caught.value).count("no.png") == 5
    assert str(caught.value).endswith("and 3 more")


@pytest.fixture
def make(folder: Path, llava_data: Any) -> Any:
    """Builds data set and collator of samples."""

    def build(samples: list[dict[str, Any]]) -> tuple[CheckedDataset, MixedSizes]:
        built: tuple[CheckedDataset, MixedSizes] = llava_data(
            samples, folder, RadioImageProcessor(64, 8)
        )
        return built

    return build


def test_one_several_and_no_images_make_a_batch(make: Any) -> None:
    several = sample("<image> or <image>?", image=["wide.png", "tall.png"])
    data, collate = make([sample(image="tall.png"), sample("What?"), several])
    batch = collate([data[0], data[1], data[2]])
    assert [list(x.shape[1:]) for x in batch["images"]] == [[64, 32], [8, 8], [32, 64], [64, 32]]
    assert not batch["images"][1].any()
    assert (batch["input_ids"] == IMAGE_TOKEN_INDEX).sum(dim=1).tolist() == [1, 0, 2]
    assert len(data.lengths) == len(data.modality_lengths) == len(data) == 3
    assert collate([data[0]] * 2)["images"].shape == (2, 3, 64, 32)


def test_an_image_goes_when_its_token_is_cut_off(make: Any) -> None:
    late = sample("word " * 80 + "<image>", image=["wide.png"])
    data, collate = make([late, sample(image="tall.png")])
    with pytest.warns(TruncationWarning, match=r"1 sequence\(s\) .* after 160 tokens"):
        images = collate([data[0], data[1]])["images"]
    assert len(images) == 2
    assert not images[0].any()
    assert images[1].any()


@pytest.mark.filterwarnings("ignore:.*no answer to learn")
def test_a_long_text_without_an_image_is_counted_too(make: Any) -> None:
    data, collate = make([sample("word " * 200), sample("What?")])
    with pytest.warns(TruncationWarning, match=r"1 sequence\(s\)"):
        collate([data[0], data[1]])


@pytest.mark.parametrize("image", ["broken.png", ["broken.png"], "program.png"])
def test_an_unreadable_image_is_named_counted_and_left_out(
    make: Any, folder: Path, image: Any
) -> None:
    (folder / "program.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    good = sample("What is red?<image>", image="tall.png")
    data, _ = make([sample(image=image), good])
    for count in (1, 2):
        with pytest.warns(UserWarning, match=rf"sample 7: .*\.png: .*; {count} unreadable"):
            item = data[0]
        assert torch.equal(item["input_ids"], data[1]["input_ids"])
        assert torch.equal(item["image"], data[1]["image"])


@pytest.mark.filterwarnings("ignore:sample 7")
def test_many_unreadable_images_in_a_row_are_no_accident(make: Any) -> None:
    data, _ = make([sample(image="broken.png")] * 12)
    with pytest.raises(ValueError, match=r"10 samples in a row .*sample 7: .*broken\.png"):
        data[5]


def test_samples_are_what_llavas_own_data_set_makes_of_them(make: Any) -> None:
    samples = [
        sample(image="tall.png"),
        sample("What <image> is it?", image="wide.png"),
        sample("A"),
    ]
    data, _ = make(samples)
    for index in range(3):
        own, found = data.inner[index], data[index]
        assert own.keys() == found.keys()
        assert torch.equal(own["input_ids"], found["input_ids"])
        assert torch.equal(own["labels"], found["labels"])
        assert index == 2 or torch.equal(own["image"], found["image"])


def test_several_images_are_read_as_one_would_be(make: Any) -> None:
    data, _ = make([sample(image="tall.png"), sample(image=["tall.png"])])
    assert torch.equal(data[0]["image"], data[1]["image"][0])
    assert torch.equal(data[0]["labels"], data[1]["labels"])


def test_answers_of_several_turns_are_learnt(make: Any) -> None:
    several = sample(image="tall.png")
    several["conversations"] = several["conversations"] + sample("How many?")["conversations"]
    data, _ = make([several])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labels = data[0]["labels"]
    assert data.inner.tokenizer.decode(labels[labels >= 0]) == "red</s> red</s>"


def test_samples_without_an_answer_to_learn_are_counted(make: Any) -> None:
    data, _ = make([sample("What?"), sample("word " * 300)])
    with pytest.warns(UserWarning, match=r"1 sample\(s\) so far .* such as sample 7"):
        data[1]
    assert (data.unlearnt, data[0]["labels"].max() >= 0) == (1, True)


def test_a_tokenizer_that_does_not_begin_texts_is_told_of(make: Any, tiny_llama: Path) -> None:
    file = tiny_llama / "tokenizer_config.json"
    written = file.read_text()
    file.write_text(written.replace('"add_bos_token": true', '"add_bos_token": false'))
    try:
        with pytest.warns(UserWarning, match='write "add_bos_token": true'):
            make([sample("What?")])
    finally:
        file.write_text(written)


@pytest.mark.parametrize(
    ("text", "aspect", "message"),
    [
        ("{", "square", r"--data_path .*data\.json: Expecting"),
        ("[]", "anyres", "--image_aspect_ratio anyres: known are square, pad"),
    ],
)
def test_training_names_the_flag_that_does_not_fit(
    text: str, aspect: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "data.json").write_text(text)

    def make(tokenizer: Any, data_args: Any) -> Any:
        return json.loads(Path(data_args.data_path).read_text())

    data_args = SimpleNamespace(data_path=tmp_path / "data.json", image_aspect_ratio=aspect)
    data_args.image_processor = RadioImageProcessor(64, 8)
    with pytest.raises(ValueError, match=message):
        checked(make, tokenizer=None, data_args=data_args)
