"""The command `radio convert`."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from radio_core.cli import parse
from radio_core.cli.models import ConvertOptions
from radio_core.cli.models import convert as command
from radio_core.models import AdaptorConfig, HeadConfig, RadioConfig, RadioModel, vit_config
from radio_core.zoo import convert as convert_module
from radio_core.zoo.convert import convert
from radio_core.zoo.load import load_model

IMAGES = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(1))


def run(argv: list[str]) -> int:
    """`radio convert ARGUMENTS`, with exceptions."""
    return command(parse(ConvertOptions, argv, prog="radio convert"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save(tmp_path / "source")


def save(directory: Path, **changes: Any) -> Path:
    torch.manual_seed(0)
    shape = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "grid_size": 6}
    backbone = vit_config("base", **{**shape, **changes})
    sam = AdaptorConfig(name="sam", features=HeadConfig(out_dim=5, hidden_dim=8))
    config = RadioConfig(name="mine", backbone=backbone, adaptors=(sam,), licence="Apache-2.0")
    RadioModel(config).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("to", ["radio", "hf-native"])
def test_both_layouts_keep_the_model_and_its_adaptors(
    to: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, out = tmp_path / "new" / "found.json", tmp_path / "deep" / "out"
    assert run([str(source), str(out), "--to", to, "--json", str(found)]) == 0
    printed = capsys.readouterr().out
    assert f"wrote {out} with adaptors: sam" in printed
    assert "largest difference" in printed
    assert json.loads(found.read_text())["difference"] < 1e-6
    before, after = load_model(source, adaptors="sam"), load_model(out, adaptors="sam")
    assert after.config == before.config
    for name, output in before(IMAGES).items():
        torch.testing.assert_close(after(IMAGES)[name].features, output.features, msg=name)
    assert [path.name for path in out.parent.iterdir()] == ["out"]  # no temporary files


def test_there_and_back_again(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "native", "hf-native")
    convert(tmp_path / "native", tmp_path / "again", "radio")
    before, after = load_model(source).state_dict(), load_model(tmp_path / "again").state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_transformers_numbers_are_compared_where_it_is_installed(
    source: Path, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")
    if not hasattr(transformers, "RadioModel"):
        pytest.skip("this version of transformers has no radio model of its own")
    done = convert(source, tmp_path / "out", "hf-native")
    assert done.transformers_difference is not None
    assert done.transformers_difference < 1e-6
    assert convert(source, tmp_path / "ours", "radio").transformers_difference is None


def test_official_checkpoints_and_older_directories_convert(shared: Path, tmp_path: Path) -> None:
    golden = shared / "reference" / "golden"
    done = convert(golden / "g_attn_head" / "checkpoint.pth.tar", tmp_path / "a", "hf-native")
    assert done.adaptors == ("siglip2-g", "dino_v3", "sam3")
    done = convert(golden / "h_hf" / "hf", tmp_path / "b", "radio")
    assert done.adaptors == ("dino_v3", "sam3")
    assert done.difference < 1e-5


def test_half_precision_halves_the_file(tmp_path: Path) -> None:
    source = save(tmp_path / "source", embed_dim=64)
    sizes = {}
    for dtype in ("float32", "float16", "bfloat16"):
        out = tmp_path / dtype
        assert run([str(source), str(out), "--to", "radio", "--dtype", dtype]) == 0
        sizes[dtype] = (out / "model.safetensors").stat().st_size
    assert max(sizes["float16"], sizes["bfloat16"]) < 0.55 * sizes["float32"]


def test_only_overwrite_writes_into_a_directory_with_files(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    (out / "config.json").write_text("old")
    with pytest.raises(ValueError, match="is not empty; --overwrite"):
        run([str(source), str(out), "--to", "radio"])
    assert (out / "config.json").read_text() == "old"
    for to in ("hf-native", "hf-native", "radio"):
        assert run([str(source), str(out), "--to", to, "--overwrite"]) == 0
        assert load_model(out).config == load_model(source).config
    assert (out / "notes.txt").read_text() == "mine"
    with pytest.raises(ValueError, match="is a file"):
        run([str(source), str(out / "notes.txt"), "--to", "radio"])


def test_a_model_converts_in_its_own_place(source: Path) -> None:
    before = load_model(source)(IMAGES).features
    assert run([str(source), str(source), "--to", "hf-native", "--overwrite"]) == 0
    assert json.loads((source / "config.json").read_text())["model_type"] == "radio"
    torch.testing.assert_close(load_model(source)(IMAGES).features, before)


def test_a_result_that_computes_something_else_is_not_kept(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_badly(model: RadioModel, directory: Path, dtype: torch.dtype) -> None:
        with torch.no_grad():
            model.backbone.patch_generator.pos_embed.add_(1)
        model.save_pretrained(directory, dtype)

    monkeypatch.setattr(convert_module, "write_native", write_badly)
    with pytest.raises(ValueError, match=r"computes something else: loaded by load_model"):
        run([str(source), str(tmp_path / "out"), "--to", "hf-native"])
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_what_the_layout_cannot_express_leaves_nothing_behind(tmp_path: Path) -> None:
    source = save(tmp_path / "source", stem="conv")
    with pytest.raises(ValueError, match=r"no convolutional stem.*--to radio"):
        run([str(source), str(tmp_path / "out"), "--to", "hf-native"])
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
