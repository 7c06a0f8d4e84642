import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from radio_llava.data import CheckedDataset, MixedSizes, check_samples
from radio_llava.images import RadioImageProcessor
from radio_llava.registration import IMAGE_TOKEN_INDEX
from radio_llava.truncation import TruncationWarning


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
        (sample(image="no.png"), f"no image file .*{os.sep}no.png"),
        (sample(image="nowhere/wide.png"), "no image file .*nowhere"),
    ],
)
def test_samples_that_do_not_fit_are_named_and_counted(
    folder: Path, bad: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=rf"1 of 2 samples cannot be used:\s+{'.*'}{message}"):
        check_samples([sample("What?"), bad], folder)


def test_of_many_bad_samples_the_first_are_shown(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"8 of 8 samples") as caught:
        check_samples([sample(image="no.png")] * 8, folder)
    assert str(caught.value).count("no.png") == 5
    assert str(caught.value).endswith("and 3 more")


@pytest.fixture
def make(folder: Path, tiny_llama: Path) -> Any:
    """Builds LLaVA's data set of samples, with our checks around it, and its collator."""
    pytest.importorskip("llava", reason="needs llava-torch, see the extra 'llava'")
    from transformers import AutoTokenizer

    from radio_llava.compat import apply_to_training

    train = apply_to_training()
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama, model_max_length=160)
    tokenizer.pad_token = tokenizer.unk_token

    def build(samples: list[dict[str, Any]]) -> tuple[CheckedDataset, MixedSizes]:
        (folder / "data.json").write_text(json.dumps(samples))
        data_args = SimpleNamespace(
            image_folder=str(folder),
            image_aspect_ratio="square",
            image_processor=RadioImageProcessor(64, 8),
            is_multimodal=True,
            mm_use_im_start_end=False,
        )
        inner = train.LazySupervisedDataset(str(folder / "data.json"), tokenizer, data_args)
        return CheckedDataset(inner), MixedSizes(train.DataCollatorForSupervisedDataset(tokenizer))

    return build


def test_one_several_and_no_images_make_a_batch(make: Any) -> None:
    several = sample("<image> or <image>?", image=["wide.png", "tall.png"])
    data, collate = make([sample(image="tall.png"), sample("What?"), several])
    batch = collate([data[0], data[1], data[2]])
    assert [list(x.shape[1:]) for x in batch["images"]] == [[64, 32], [8, 8], [32, 64], [64, 32]]
    assert not batch["images"][1].any()
    assert (batch["input_ids"] == IMAGE_TOKEN_INDEX).sum(dim=1).tolist() == [1, 0, 2]
    assert len(data.lengths) == len(data.modality_lengths) == len(data) == 3


def test_images_of_one_size_are_stacked(make: Any) -> None:
    data, collate = make([sample(image="tall.png")] * 2)
    assert collate([data[0], data[1]])["images"].shape == (2, 3, 64, 32)


def test_an_image_goes_when_its_token_is_cut_off(make: Any) -> None:
    late = sample("word " * 80 + "<image>", image=["wide.png"])
    data, collate = make([late, sample(image="tall.png")])
    with pytest.warns(TruncationWarning, match=r"1 sequence\(s\) .* after 160 tokens"):
        images = collate([data[0], data[1]])["images"]
    assert len(images) == 2
    assert not images[0].any()
    assert images[1].any()


def test_a_long_text_without_an_image_is_counted_too(make: Any) -> None:
    data, collate = make([sample("word " * 200), sample("What?")])
    with pytest.warns(TruncationWarning, match=r"1 sequence\(s\)"):
        collate([data[0], data[1]])


@pytest.mark.parametrize("image", ["broken.png", ["broken.png"]])
def test_an_unreadable_image_is_named(make: Any, image: Any) -> None:
    data, _ = make([sample(image=image)])
    with pytest.raises(ValueError, match=r"sample 7: .*broken\.png"):
        data[0]


def test_several_images_are_read_as_one_would_be(make: Any) -> None:
    data, _ = make([sample(image="tall.png"), sample(image=["tall.png"])])
    assert torch.equal(data[0]["image"], data[1]["image"][0])
    assert torch.equal(data[0]["labels"], data[1]["labels"])
