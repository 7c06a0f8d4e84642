"""`radio bench throughput` and `sam`, the paper's tables: what is measured, not how fast it is."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from radio_core import cli
from radio_core.bench import sam as bench_sam
from radio_core.bench.cases import Case
from radio_core.bench.throughput import Throughput
from radio_core.bench.timing import Timing
from radio_core.models import RadioConfig, RadioModel, vit_config
from radio_core.teachers.segment_anything import SamConfig
from radio_eval.speed import (
    SAM_ENCODERS,
    SPEED_TABLES,
    PaperSpeed,
    SpeedTable,
    markdown_page,
    paper_table,
    read_quality,
    sam_table,
)

Radio = Callable[..., tuple[int, str]]


@pytest.fixture
def radio(run_radio: Radio) -> Radio:
    """Run `radio bench` with the arguments; returns the exit code and all that was printed."""
    return partial(run_radio, "bench")


@pytest.fixture(autouse=True)
def keep_threads() -> Iterator[None]:
    """Give torch the number of threads back that it had."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def model(tmp_path: Path) -> str:
    """The folder of a tiny ViT of the kind that the releases are."""
    torch.manual_seed(0)
    shape = {"embed_dim": 32, "depth": 2, "num_heads": 2, "grid_size": 8}
    tiny = RadioModel(RadioConfig(backbone=vit_config("base", **shape))).eval()
    for parameter in tiny.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    tiny.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def rows_of(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """(name, engine) -> row of a result."""
    return {(r["name"], r["engine"]): r for r in json.loads(path.read_text())["rows"]}


def test_throughput_writes_every_field_and_compares_with_an_earlier_run(
    radio: Radio, tmp_path: Path, model: str
) -> None:
    file = tmp_path / "out" / "first.json"
    arguments = ["throughput", f"{model}@64", f"{model}@64+w2", "random:tiny@32x64"]
    arguments += ["--repeats", "2", "--threads", "1", "--bare", "--baseline", f"{model}@64"]
    code, output = radio(*arguments, "--json", file)
    assert code == 0, output
    first = json.loads(file.read_text())
    assert first["settings"] == {"repeats": 2, "deploy": False, "table": ""}
    assert first["machine"]["threads"] == 1
    assert first["machine"]["torch"] == torch.__version__
    assert first["machine"].keys() >= {"device", "cpu", "python", "system", "packages"}
    rows = rows_of(file)
    assert list(rows) == [
        (f"{model}@64", "products"),
        (f"{model}@64", "bare"),
        (f"{model}@64", "eager"),
        (f"{model}@64+w2", "eager"),
        ("random:tiny@32x64", "eager"),
    ]
    row = rows[f"{model}@64+w2", "eager"]
    assert (row["model"], row["height"], row["width"]) == (model, 64, 64)
    assert (row["window_size"], row["batch_size"]) == (2, 1)
    assert row["ms"] > 0
    assert row["spread_percent"] >= 0
    assert row["images_per_second"] == pytest.approx(1000 / row["ms"], rel=0.1)
    assert list(row["ratios"]) == [f"{model}@64"]
    assert list(rows[f"{model}@64", "eager"]["ratios"]) == ["products", "bare"]
    assert "(products)" in output

    again = tmp_path / "second.json"
    arguments[arguments.index("2")] = "3"
    code, output = radio(*arguments, "--against", file, "--json", again)
    assert code == 0, output
    assert f"repeats was 2 in {file}, now 3" in output
    for row in json.loads(again.read_text())["rows"]:
        before = rows[row["name"], row["engine"]]["ms"]
        assert row["ratios"]["earlier"] == pytest.approx(row["ms"] / before, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "name at least one model"),
        (["random:tiny", "--table", "7"], 2, "name at least one model, e.g. random:base@512, or a"),
        (["random:tiny", "--plot", "a.svg"], 2, "--plot needs --quality FILE, or a --table"),
        (["--table", "7", "--quality", "a.csv"], 2, "drawn by --plot"),
        (["--table", "7", "--plot", "a.pdf"], 2, "a plot ends in .svg or .png"),
        (["random:timm:no_such_net"], 2, "no_such_net"),
        (["random:tiny", "--engines", "onnxruntime", "--dtypes", "bfloat16"], 2, "use float32 or"),
        (["random:tiny@64", "--engines", "tensorrt"], 1, "TensorRT needs a GPU"),
        (["no_such.pt2"], 1, "no file no_such.pt2"),
        (["random:sam-b@64+w2"], 1, "has windows of its own"),
        (["random:basse"], 2, "known: tiny"),
        (["random:tiny@64", "--baseline", "x"], 2, "measured: random:tiny@64"),
        (["random:tiny", "--repeats", "1"], 2, "--repeats must be at least 2"),
        (["random:tiny", "--threads", "0"], 2, "--threads must be at least 1"),
        (["random:tiny", "--device", "toaster"], 1, "unknown device 'toaster'"),
        (["random:tiny@60"], 1, "nearest valid size is 64x64"),
        (["random:tiny@64+w3"], 1, "nearest valid size is 72x72"),
        (["random:timm:resnet10t@64+w2"], 1, "no windowed mode"),
        (["random:eradio_xxxtiny@48x64"], 1, "nearest valid size is 64x64"),
        (["no_such_model"], 2, "no_such_model"),
    ],
)
def test_what_cannot_be_measured_is_an_error_before_measuring(
    radio: Radio, arguments: list[str], code: int, message: str
) -> None:
    found, output = radio("throughput", *arguments)
    assert (found, message in output) == (code, True), output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("model", "message"),
    [("toy-dino@60", "the nearest size"), ("toy-dino@56+w2", "no windowed mode")],
)
def test_sizes_and_windows_of_teachers_are_checked(radio: Radio, model: str, message: str) -> None:
    pytest.importorskip("transformers", reason="needs the extra 'hf'")
    code, output = radio("throughput", model)
    assert (code, message in output) == (1, True), output


def test_against_another_kind_of_file_is_an_error(radio: Radio, tmp_path: Path) -> None:
    for content in ("{}", "not json", '{"rows": [{"name": "x"}]}'):
        (tmp_path / "other.json").write_text(content)
        code, output = radio("throughput", "random:tiny", "--against", tmp_path / "other.json")
        assert code == 1
        assert "other.json is no result of radio bench throughput" in output


def test_deploy_fuses_what_only_training_needs(
    radio: Radio, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed: list[RadioModel] = []
    deploy = RadioModel.switch_to_deploy

    def count(model: RadioModel) -> RadioModel:
        deployed.append(model)
        return deploy(model)

    monkeypatch.setattr(RadioModel, "switch_to_deploy", count)
    arguments = ["throughput", "random:eradio_xxxtiny@64", "--repeats", "2"]
    assert radio(*arguments)[0] == 0
    assert deployed == []
    assert radio(*arguments, "--deploy")[0] == 0
    assert len(deployed) == 1


@pytest.mark.slow
def test_every_engine_runs_models_teachers_sam_and_timm(
    radio: Radio, tmp_path: Path, model: str
) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra 'export'")
    pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    pytest.importorskip("transformers", reason="needs the extra 'hf'")
    pytest.importorskip("segment_anything", reason="needs the extra 'sam'")
    file = tmp_path / "out.json"
    names = [f"{model}@64", "toy-dino@56", "toy-sam@128", "random:timm:resnet10t@64"]
    arguments = ["throughput", *names, "--engines", "eager", "onnxruntime", "--repeats", "2"]
    code, output = radio(*arguments, "--peak", "--json", file)
    assert code == 0, output
    rows = rows_of(file)
    both = [(name, engine) for name in names for engine in ("eager", "onnxruntime")]
    assert list(rows)[:-1] == both
    assert list(rows)[-1][1] == "matmul"
    for key in both:
        assert rows[key]["peak_share"] > 0
        assert rows[key]["parameters"] == rows[key[0], "eager"]["parameters"] > 1000
        assert list(rows[key]["ratios"]) == (["eager"] if key[1] == "onnxruntime" else [])
    assert "of matmul peak" in output


@pytest.mark.slow
def test_compiled_models_are_measured_at_several_sizes(
    radio: Radio, tmp_path: Path, model: str
) -> None:
    file = tmp_path / "out.json"
    arguments = [f"{model}@64", f"{model}@64x96", "--engines", "compile", "--repeats", "2"]
    arguments += ["--batch-sizes", "2"]
    code, output = radio("throughput", *arguments, "--json", file)
    assert code == 0, output
    assert set(rows_of(file)) == {(f"{model}@64", "compile"), (f"{model}@64x96", "compile")}


def test_channels_last_is_an_engine(radio: Radio, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    name = "random:eradio_xxxtiny@64+w2"
    arguments = [name, "--engines", "eager", "channels-last", "--repeats", "2"]
    code, output = radio("throughput", *arguments, "--json", file)
    assert code == 0, output
    assert list(rows_of(file)[name, "channels-last"]["ratios"]) == ["eager"]


def test_an_exported_file_is_measured_as_such(radio: Radio, tmp_path: Path, model: str) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra 'export'")
    pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    assert cli.main(["export", "onnx", model, str(tmp_path / "m.onnx")]) == 0
    file = tmp_path / "out.json"
    code, output = radio("throughput", f"{tmp_path / 'm.onnx'}@64", "--repeats", 2, "--json", file)
    assert code == 0, output
    (row,) = json.loads(file.read_text())["rows"]
    assert (row["engine"], row["parameters"]) == ("onnxruntime", None)


def test_quality_is_drawn_against_speed(radio: Radio, tmp_path: Path, model: str) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra 'eval'")
    quality, plot = tmp_path / "quality.csv", tmp_path / "plot.svg"
    quality.write_text(f"model,kNN,mIoU\n{model},61.5,\nrandom:tiny,70,30\nother,1,1\n")
    arguments = [f"{model}@64", "random:tiny@64", "--repeats", "2", "--quality", quality]
    page = tmp_path / "page.md"
    code, output = radio("throughput", *arguments, "--plot", plot, "--markdown", page)
    assert code == 0, output
    drawn = plot.read_text()
    assert drawn.count(">random:tiny<") == 2  # kNN and mIoU
    assert all(text in drawn for text in (">kNN<", ">mIoU<", ">random:tiny<", "images a second"))
    lines = page.read_text().splitlines()
    assert lines[0] == "# Images a second"
    assert "random:tiny@64" in lines[5]
    assert "torch" in lines[-1]

    quality.write_text("model,kNN\nother,1\n")
    code, output = radio("throughput", *arguments, "--plot", plot)
    assert (code, "has none of these models; it has: other" in output) == (2, True)


def test_quality_comes_from_table1_too(tmp_path: Path) -> None:
    path = tmp_path / "table1.json"
    path.write_text(json.dumps({"rows": {"toy": {"scores": {"knn": 92.2, "coco": None}}}}))
    assert read_quality(path) == {"toy": {"knn": 92.2}}
    path.write_text('{"rows": {"a": {"scores": {"knn": "good"}}}}')
    with pytest.raises(ValueError, match=r"table1\.json has no quality numbers: give the .json"):
        read_quality(path)
    for content in ("name,knn\na,1\n", "model,knn\na,nan\n"):
        (tmp_path / "q.csv").write_text(content)
        with pytest.raises(ValueError, match=r"q\.csv has no quality numbers"):
            read_quality(tmp_path / "q.csv")


def test_the_papers_tables_have_their_rows() -> None:
    sizes = {number: len(table.rows) for number, table in SPEED_TABLES.items()}
    assert sizes == {"7": 15, "8": 7}
    by_label = {row.label: row for row in SPEED_TABLES["7"].rows}
    assert by_label["E-RADIO-L"].images_per_second == 3472
    assert by_label["MaxViT-B"].quality == {"zero-shot": 77.49, "kNN": 79.34, "ADE20K mIoU": 38.46}
    assert SPEED_TABLES["8"].metrics == ("COCO mIoU",)
    speeds = [row.images_per_second for row in SPEED_TABLES["8"].rows]
    assert speeds == [50.94, 20.62, 11.83, 121.74, 29.09, 27.91, None]
    windowed = SPEED_TABLES["8"].rows[4]
    case = SPEED_TABLES["8"].case(windowed, 2, "compile", "bfloat16")
    assert case.name == "random:sam-with-radio-h@1024+w8"
    assert (case.batch_size, case.engine, case.dtype) == (2, "compile", "bfloat16")


SMALL = SpeedTable(
    title="A table",
    setting="somewhere",
    reference="B",
    resolution=64,
    batch_size=8,
    rows=(
        PaperSpeed(label="A", model="random:tiny+w2", images_per_second=50, quality={"kNN": 60}),
        PaperSpeed(label="B", model="random:tiny", images_per_second=100, quality={"kNN": 70}),
        PaperSpeed(label="C", model="random:tiny+w4"),
    ),
)


def test_the_measured_column_stands_beside_the_papers() -> None:
    def found(seconds: float) -> Throughput:
        case = Case(model="random:tiny", height=64, width=64, batch_size=2)
        return Throughput(case, Timing((seconds, seconds)), parameters=5_000_000)

    table = paper_table(SMALL, [("A", found(1)), ("B", found(4)), ("C", found(2))])
    headings = [column.title for column in table.columns]
    assert headings[1:5] == ["params (M)", "kNN", "paper: images/s", "/ B"]
    assert headings[5] == "here: images/s (eager, float32)"
    assert table.rows == [
        ["A", "5", "60", "50", "0.50", "2 ±0%", "4.00"],
        ["B", "5", "70", "100", "1.00", "0.5 ±0%", "1.00"],
        ["C", "5", "", "", "", "1 ±0%", "2.00"],
    ]
    page = markdown_page("A | table", table, ["one_two"])
    assert page.startswith("# A \\| table\n\n| model | params (M) |")
    assert page.endswith("one\\_two\n")


def test_a_table_is_measured_and_drawn(
    radio: Radio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra 'eval'")
    monkeypatch.setitem(SPEED_TABLES, "7", SMALL)
    plot, file, page = (tmp_path / name for name in ("p.png", "r.json", "t.md"))
    arguments = ["--table", "7", "--repeats", "2", "--plot", plot, "--json", file]
    code, output = radio("throughput", *arguments, "--markdown", page)
    assert code == 0, output
    assert [row["name"] for row in json.loads(file.read_text())["rows"]] == [
        "random:tiny@64+w2",
        "random:tiny@64",
        "random:tiny@64+w4",
    ]
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert page.read_text().startswith("# A table")
    assert "Paper: somewhere." in page.read_text()


def test_sam_encoders_in_turns_with_ratios_to_the_baseline(
    radio: Radio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("segment_anything", reason="needs the extra 'sam'")
    small = SamConfig(embed_dim=32, depth=2, num_heads=2, global_blocks=(1,))
    monkeypatch.setitem(bench_sam.SAM_SHAPES, "sam-h", small)
    monkeypatch.setitem(bench_sam.RADIO_SHAPES, "sam-with-radio-h", "tiny")
    out = tmp_path / "sam.json"
    arguments = ["sam", "sam-h", "radio-h", "radio-h+w2", "--resolution", 64, "--repeats", 2]
    code, text = radio(*arguments, "--json", out)
    assert code == 0, text
    assert all(label in text for label in ("SAM ViT-H", "RADIO ViT-H/16, global", "radio-h+w2"))
    result = json.loads(out.read_text())
    assert result["settings"] == {"resolution": 64, "repeats": 2, "dtype": "float32"}
    baseline, *rows = result["rows"]
    assert baseline["name"] == "random:sam-h@64"
    assert [row["window_size"] for row in rows] == [None, 2]
    for row in rows:
        ratio = row["ratios"]["random:sam-h@64"]
        assert ratio == pytest.approx(row["ms"] / baseline["ms"], rel=0.01)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sam-x", "unknown encoder 'sam-x'; known: sam-b"),
        ("sam-h+w8", "windows of its own"),
        ("e-radio-l+w8", "windows of its own"),
    ],
)
def test_unknown_sam_encoders(radio: Radio, name: str, message: str) -> None:
    pytest.importorskip("segment_anything", reason="needs the extra 'sam'")
    code, output = radio("sam", name, "--resolution", 64)
    assert (code, message in output) == (1, True), output


def test_table_8_has_the_rows_that_are_asked_for() -> None:
    assert sam_table(SAM_ENCODERS, 1024) == SPEED_TABLES["8"]
    table = sam_table(["radio-b+w8", "sam-h"], 512)
    assert [row.label for row in table.rows] == ["radio-b+w8", "SAM ViT-H"]
    assert (table.rows[0].model, table.resolution) == ("random:sam-with-radio-b+w8", 512)


def test_knn_is_measured_against_a_product(radio: Radio, tmp_path: Path) -> None:
    out = tmp_path / "knn.json"
    sizes = ["--train", 300, "--dim", 16, "--queries", 8, "--k", 3]
    code, text = radio("knn", *sizes, "--work", tmp_path, "--repeats", 2, "--json", out)
    assert code == 0, text
    result = json.loads(out.read_text())
    assert [row["train"] for row in result["search"]] == [75, 150, 300]
    assert result["ratio"] > 0
    assert radio("knn", "--k", 0)[0] == 2
