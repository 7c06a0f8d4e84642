"""What the benchmarks measure, and `radio bench load`; not how fast it is."""

import json
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from radio_core.bench.bare import BareViT
from radio_core.bench.cases import Case, parse_cases
from radio_core.bench.throughput import (
    Throughput,
    check_baseline,
    compare,
    matmul_case,
    matmul_flops,
)
from radio_core.bench.timing import Timing, time_in_turns
from radio_core.cli.bench import read_and_touch
from radio_core.models import RadioConfig, RadioModel, vit_config

Radio = Callable[..., tuple[int, str]]


@pytest.fixture
def radio(run_radio: Radio) -> Radio:
    """Run `radio bench` with the arguments; returns the exit code and all that was printed."""
    return partial(run_radio, "bench")


def plain(**overrides: Any) -> RadioModel:
    """A tiny ViT of the kind that the releases are."""
    torch.manual_seed(0)
    shape = {"embed_dim": 32, "depth": 2, "num_heads": 2, "grid_size": 8, **overrides}
    backbone = vit_config("base", **shape)
    model = RadioModel(RadioConfig(backbone=backbone)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def test_activities_take_turns_and_the_warm_up_does_not_count() -> None:
    now, calls = 0.0, []

    def activity(name: str, seconds: list[float]) -> Callable[[], None]:
        def run() -> None:
            nonlocal now
            calls.append(name)
            now += seconds[calls.count(name) - 1]

        return run

    activities = {"a": activity("a", [9, 1, 2, 6]), "b": activity("b", [9, 3, 3, 3])}
    timings = time_in_turns(activities, 3, warmup=1, clock=lambda: now)
    assert calls == ["a", "b"] * 4
    assert timings == {"a": Timing((1, 2, 6)), "b": Timing((3, 3, 3))}
    assert timings["a"].median == 2
    assert timings["b"].spread == 0


def test_one_repetition_has_no_spread() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        time_in_turns({"a": lambda: None}, 1)


def test_ratios_divide_by_the_baseline_of_the_same_batch_and_by_the_bare_engines() -> None:
    slow = Case(model="random:huge", height=64, width=64)
    base = Case(model="random:base", height=64, width=64)
    products = Case(model="random:base", height=64, width=64, engine="products")
    batched = Case(model="random:base", height=64, width=64, batch_size=4)
    compiled = replace(batched, engine="compile")
    other = replace(base, dtype="bfloat16")
    seconds = {slow: 6.0, base: 2.0, products: 1.0, batched: 5.0, compiled: 4.0, other: 8.0}
    measured = [Throughput(case, Timing((value, value))) for case, value in seconds.items()]
    rows = {row.case: row for row in compare(measured, "random:base@64", {slow: 12.0})}
    assert rows[slow].ratios == {"random:base@64": 3.0, "earlier": 0.5}
    assert rows[base].ratios == {"products": 2.0}
    assert rows[products].ratios == {"random:base@64": 0.5}
    assert rows[batched].ratios == {}
    assert rows[compiled].ratios == {"eager": 0.8, "random:base@64": 0.8}
    assert rows[other].ratios == {}
    assert rows[batched].images_per_second == pytest.approx(0.8)


def test_operations_are_a_share_of_those_of_the_matrix_product_in_the_same_precision() -> None:
    base = Case(model="random:base", height=64, width=64)
    product = matmul_case("float32", torch.device("cpu"))
    half = matmul_case("float16", torch.device("cpu"))
    measured = [
        Throughput(base, Timing((2.0, 2.0)), flops=matmul_flops(product)),
        Throughput(product, Timing((1.0, 1.0)), flops=matmul_flops(product)),
        Throughput(half, Timing((9.0, 9.0))),
    ]
    assert [row.peak_share for row in compare(measured)] == [0.5, None, None]


def test_a_case_is_named_as_it_is_typed() -> None:
    typed = ["a", "random:base@32x64", "org/model@64+w4", "dir/x@1+w0", "b+w2"]
    cases = parse_cases(typed, ["16"], [1, 3], window_size=8)
    assert [case.name for case in cases if case.batch_size == 3] == [
        "a@16+w8",
        "random:base@32x64+w8",
        "org/model@64+w4",
        "dir/x@1",
        "b@16+w2",
    ]
    assert {(case.height, case.width) for case in cases} == {(16, 16), (32, 64), (64, 64), (1, 1)}
    (scheduled,) = parse_cases(["b@32+w2/5"], ["16"], [1])
    assert (scheduled.window_size, scheduled.num_windowed, scheduled.name) == (2, 5, "b@32+w2/5")
    assert parse_cases(["a"], ["16", "32x48"], [1])[1].name == "a@32x48"


def test_cases_are_every_engine_and_precision_but_files_have_their_own() -> None:
    found = parse_cases(
        ["a", "m.onnx", "m.pt2"], ["16"], [1], None, ["eager", "compile"], ["float32", "float16"]
    )
    assert [(case.model, case.engine, case.dtype, case.how) for case in found] == [
        ("a", "eager", "float32", ""),
        ("a", "compile", "float32", "compile"),
        ("a", "eager", "float16", "float16"),
        ("a", "compile", "float16", "compile, float16"),
        ("m.onnx", "onnxruntime", "float32", "onnxruntime"),
        ("m.pt2", "torch.export", "float32", "torch.export"),
    ]


@pytest.mark.parametrize(
    ("models", "resolutions", "batch", "message"),
    [
        (["random:basse"], ["16"], 1, "unknown shape 'basse'.*base.*eradio"),
        (["a"], ["big"], 1, "HEIGHTxWIDTH in pixels, not 'big'"),
        (["a"], ["16"], 0, "batch size must be at least 1"),
        ([""], ["16"], 1, r"not MODEL\[@RESOLUTION\]"),
    ],
)
def test_wrong_cases_say_what_is_known(
    models: list[str], resolutions: list[str], batch: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        parse_cases(models, resolutions, [batch])


def test_a_baseline_that_is_not_measured_lists_the_names() -> None:
    with pytest.raises(ValueError, match="measured: a@16, b@16"):
        check_baseline("a", parse_cases(["a", "b"], ["16"], [1, 2]))


@pytest.mark.parametrize("num_registers", [0, 3])
@pytest.mark.parametrize("size", [(48, 80), (128, 128)])
@torch.inference_mode()
def test_bare_calls_compute_what_the_model_computes(
    num_registers: int, size: tuple[int, int]
) -> None:
    model = plain(num_registers=num_registers, num_cls_tokens=2)
    images = torch.rand(2, 3, *size)
    tokens = BareViT(model, 2, *size).tokens(images)
    output = model(images)
    start = 2 + num_registers
    torch.testing.assert_close(tokens[:, 0], output.summary, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tokens[:, start:], output.features, atol=1e-5, rtol=1e-5)


def test_bare_products_call_every_matrix_product_and_attention_of_the_model() -> None:
    model = plain()
    images = torch.rand(1, 3, 48, 80)
    vit = BareViT(model, 1, 48, 80)
    tokens = torch.randn(1, 1 + 15, 32)
    assert _products(lambda: vit.products(images, tokens)) == _products(lambda: model(images))


@torch.inference_mode()
def _products(run: Callable[[], object]) -> list[tuple[str, str]]:
    """The products that a function calls, with the shapes of what goes in, in their order."""
    with torch.profiler.profile(record_shapes=True) as profile:
        run()
    wanted = ("aten::mm", "aten::addmm", "aten::scaled_dot_product_attention")
    events = (event for event in profile.events() if event.name in wanted)
    return [(event.name, str(event.input_shapes)) for event in events]


@pytest.mark.parametrize("overrides", [{"init_values": 0.1}, {"stem": "conv"}, {"ffn": "swiglu"}])
def test_other_backbones_have_no_bare_version(overrides: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="plain ViTs only"):
        BareViT(plain(**overrides), 1, 32, 32)


def test_load_measures_a_file_and_its_floor(radio: Radio, tmp_path: Path) -> None:
    plain().save_pretrained(tmp_path)
    path, file = tmp_path / "model.safetensors", tmp_path / "out.json"
    code, output = radio("load", path, "--repeats", "2", "--json", file)
    assert code == 0, output
    result = json.loads(file.read_text())
    assert result["file_bytes"] == path.stat().st_size
    assert result["ratio"] == pytest.approx(result["load_ms"] / result["floor_ms"], rel=0.1)
    assert result.keys() >= {"machine", "settings", "load_spread_percent", "floor_spread_percent"}


@pytest.mark.parametrize("name", ["official.pth.tar", "model.safetensors"])
def test_the_floor_reads_every_tensor(tmp_path: Path, name: str) -> None:
    tensors = {"a": torch.rand(7, 3), "b": torch.rand(5)}
    path = tmp_path / name
    if name.endswith(".tar"):
        torch.save({"state_dict": tensors, "args": Namespace(model="vit")}, path)
    else:
        save_file(tensors, path)
    wanted = sum(float(tensor.sum()) for tensor in tensors.values())
    assert read_and_touch(path) == pytest.approx(wanted, rel=1e-5)


def test_loading_a_missing_file_is_an_error(radio: Radio, tmp_path: Path) -> None:
    code, output = radio("load", tmp_path / "none.pth.tar")
    assert code == 1
    assert "none.pth.tar" in output


def test_an_unknown_benchmark_lists_the_known_ones(radio: Radio) -> None:
    code, output = radio("speed")
    assert code == 2
    assert "known: knn, load, sam, throughput, train-step" in output
