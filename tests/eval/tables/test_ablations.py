"""The command `radio paper`: the paper's tables as data, verdicts, and a sliver of a run."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("segment_anything", reason="needs the extra 'sam'")
pytest.importorskip("pycocotools", reason="needs the extra 'eval'")

from radio_core.cli import parse
from radio_core.distill.config import TrainConfig
from radio_core.distill.trainer import TrainResult
from radio_eval.cli import tables
from radio_eval.tables import ablation
from radio_eval.tables.ablation import (
    Ablation,
    AblationOptions,
    AblationResults,
    Claim,
    Judgement,
    Logged,
    Score,
    Variant,
    short_recipe,
)
from radio_eval.tables.ablation_output import markdown, page
from radio_eval.tables.ablations import ABLATIONS

SIZES = {
    "classification-train": 24,
    "classification-val": 8,
    "dense-train": 8,
    "dense-val": 4,
    "head-iterations": 2,
}
CLAIM = Claim("a is better", "caption", "m", "a", "b")


def judged(a: list[float], b: list[float], **changes: Any) -> Judgement:
    claim = dataclasses.replace(CLAIM, **changes)
    table = Ablation(
        name="t",
        title="t",
        setting=(),
        metrics={"m": Score("m", "knn")},
        variants={
            "a": Variant("a", printed={"m": 5.0}),
            "b": Variant("b", printed={"m": 3.0}),
        },
        claims=(claim,),
    )
    values = {"a": {"m": dict(enumerate(a))}, "b": {"m": dict(enumerate(b))}}
    return AblationResults(table=table, values=values).judge(claim)


def recipe(tmp_path: Path, seed: int = 0) -> TrainConfig:
    return short_recipe(AblationOptions(out=tmp_path, steps=10, views=8), seed, "cpu")


def test_a_difference_beyond_its_spread_has_the_papers_direction() -> None:
    # The rows vary far more than their difference, which is taken seed by seed.
    judgement = judged([12.0, 52.0, 92.0], [10.0, 50.5, 90.5])
    assert judgement.verdict == "as in the paper"
    assert judgement.summary == pytest.approx((5 / 3, 0.2886751))
    assert judgement.printed == 2.0


@pytest.mark.parametrize(
    ("a", "b", "changes", "verdict"),
    [
        ([10.0, 11.0], [12.0, 13.5], {}, "not seen here: the other way round"),
        ([10.0, 12.0], [9.0, 13.0], {}, "within the spread"),
        ([10.0, 12.0], [10.0, 12.0], {}, "within the spread"),
        ([10.0, 12.0], [9.0, 9.5], {}, "within the spread"),  # 1.75 ±1.06
        ([10.0, 12.0], [9.0, 10.6], {}, "as in the paper"),  # 1.2 ±0.28
        ([5.0, 6.0], [1.0], {}, "not measured"),
        ([9.6, 9.5], [10.0, 10.0], {"margin": -1.0}, "as in the paper"),
        ([8.0, 8.1], [10.0, 10.0], {"margin": -1.0}, "not seen here: not above -1"),
        ([95.0, 97.0], [], {"lower": None, "margin": 90.0}, "as in the paper"),
        ([60.0, 61.0], [], {"lower": None, "margin": 90.0}, "not seen here: not above 90"),
    ],
)
def test_verdicts(a: list[float], b: list[float], changes: dict[str, Any], verdict: str) -> None:
    assert judged(a, b, **changes).verdict == verdict


def test_only_seeds_of_both_variants_count() -> None:
    assert judged([5.0, 6.0, 7.0], [1.0, 1.0]).differences == {0: 4.0, 1: 5.0}


@pytest.mark.parametrize("table", ABLATIONS.values(), ids=ABLATIONS)
def test_the_papers_own_numbers_have_the_direction_of_the_claims(table: Ablation) -> None:
    judgements = AblationResults(table=table).judgements()
    printed = [j for j in judgements if j.claim.source != "text"]
    assert printed
    assert all(j.printed is not None and j.printed > j.claim.margin for j in printed)
    assert all(j.printed is None or j.printed > j.claim.margin for j in judgements)


@pytest.mark.parametrize("table", ABLATIONS.values(), ids=ABLATIONS)
def test_variants_differ_but_read_one_cache(table: Ablation, tmp_path: Path) -> None:
    common = recipe(tmp_path)
    changes = [variant.change for variant in table.variants.values()]
    configs = [common if change is None else change(common) for change in changes]
    assert common in configs  # the row that the tables share
    assert len({repr(config) for config in configs}) == len(configs)
    for config in configs:
        assert (config.data, config.stages, config.run.seed) == (
            common.data,
            common.stages,
            common.run.seed,
        )
        assert config.targets == common.targets
        assert {n: t.source for n, t in config.teachers.items()} == {
            n: t.source for n, t in common.teachers.items()
        }


def test_a_logged_column_is_the_mean_of_the_last_fifth(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": n, "a": n, "b": 0}) + "\n" for n in range(10)))
    assert Logged("m", ("a", "b"), 10.0).read(path) == pytest.approx(42.5)
    assert Logged("m", ("a", "weight")).read(path) is None


def test_one_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="one has no spread"):
        AblationOptions(seeds=1)


def test_a_table_tells_what_is_missing_and_what_failed() -> None:
    pytest.importorskip("jinja2", reason="needs the extra 'eval'")
    values = {
        "cls": {"linear_seg": {0: 50.0, 1: 52.0}},
        "avg": {"linear_seg": {1: 43.0, 0: 40.0}},
    }
    metadata = {"options": {"seeds": 2, "steps": 9}}
    results = AblationResults(table=ABLATIONS["table6"], values=values, metadata=metadata)
    results.failures["avg", 2] = "the loss of teacher <clip> is not finite"
    text = markdown(results)
    assert "| class tokens | – <sub>78.55</sub> |" in text
    assert "51.0 ±1.4 <sub>49.01</sub>" in text
    assert "+9.5 ±0.7 | +10.65 | as in the paper |" in text
    assert "average pooling, seed 2: the loss of teacher \\<clip\\> is not finite" in text
    html = page(results).html()
    assert "the loss of teacher &lt;clip&gt; is not finite" in html
    assert html.count('class="right text"') == 1
    assert html.count("<svg") == 1


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs `radio paper` on a sliver of everything."""
    for module, extra in (("open_clip", "clip"), ("transformers", "hf"), ("jinja2", "eval")):
        pytest.importorskip(module, reason=f"needs the extra '{extra}'")
    pytest.importorskip("pycocotools", reason="needs the extra 'eval'")

    def sliver(options: AblationOptions, seed: int, device: str) -> TrainConfig:
        config = short_recipe(options, seed, device)
        (stage,) = config.stages
        groups = tuple(dataclasses.replace(group, batch_size=4) for group in stage.groups)
        stages = (dataclasses.replace(stage, groups=groups),)
        return config.changed(stages=stages, targets={"statistics_views": 8}, run={"log_every": 1})

    monkeypatch.setattr(ablation, "short_recipe", sliver)
    sizes = [part for name, n in SIZES.items() for part in (f"--sizes.{name}", str(n))]
    common = ["--out", str(tmp_path / "out"), "--seeds", "2", "--steps", "10", "--views", "8"]

    def run(table: str, *options: str) -> int:
        argv = [*common, *sizes, *options]
        return int(getattr(tables, table)(parse(AblationOptions, argv, prog="radio paper")))

    return run


@pytest.mark.slow
def test_tables_share_students_and_repeat_nothing(
    tmp_path: Path,
    command: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command("table6", "--json", str(tmp_path / "copy.json")) == 0
    printed = capsys.readouterr().out
    out = tmp_path / "out"
    data = json.loads((out / "table6.json").read_text())
    assert json.loads((tmp_path / "copy.json").read_text()) == data
    cells = data["rows"]["avg"]["cells"]
    assert set(cells["knn"]["by_seed"]) == {"0", "1"}
    assert all(cell["mean"] is not None for cell in cells.values())
    assert len({*cells["feature_loss"]["by_seed"].values()}) == 2
    assert all(claim["verdict"] != "not measured" for claim in data["claims"])
    assert "average pooling" in printed
    assert (out / "table6.html").is_file()
    assert len(list((out / "students").iterdir())) == 4
    assert len(list((out / "cache").iterdir())) == 2  # one a seed, for all rows
    assert not list(out.glob("students/*/checkpoints"))

    trained = []

    def train(config: TrainConfig, console: Any) -> Any:
        trained.append(config)
        return real(config, console)

    real = ablation.train
    monkeypatch.setattr(ablation, "train", train)
    assert command("table6") == 0
    assert json.loads((out / "table6.json").read_text())["rows"] == data["rows"]
    assert trained == []
    assert command("table5") == 0  # its row with CPE is the one with class tokens
    assert [config.student.backbone.positions for config in trained] == ["grid", "grid"]
    shared = json.loads((out / "table5.json").read_text())["rows"]["cpe"]["cells"]["knn"]
    assert shared["by_seed"] == data["rows"]["cls"]["cells"]["knn"]["by_seed"]
    monkeypatch.setattr(ablation, "train", lambda config, console: TrainResult(0, None, 0))
    with pytest.raises(KeyboardInterrupt):  # another recipe: it would be trained
        command("table5", "--steps", "11")


@pytest.mark.slow
def test_an_interrupted_training_goes_on(
    tmp_path: Path, command: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, resumed = ablation.train, []

    def stopped(config: TrainConfig, console: Any) -> Any:
        real(config.changed(run={"max_steps": 5}), console)
        return TrainResult(5, None, 0)

    monkeypatch.setattr(ablation, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        command("table6")

    def noted(config: TrainConfig, console: Any) -> Any:
        resumed.append(config.run.resume)
        return real(config, console)

    monkeypatch.setattr(ablation, "train", noted)
    assert command("table6") == 0
    assert resumed == [True, False, False, False]
