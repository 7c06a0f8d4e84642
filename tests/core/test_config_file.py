"""Typed configs from flags and YAML files."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from radio_core.cli import UsageError, parse
from radio_core.config_file import from_mapping, read_config, to_mapping, write_config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """A group."""

    batch_size: int = 8
    teachers: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that a config may hold."""

    rate: float = 1e-3
    steps: int | None = None
    name: str = "a"
    fast: bool = False
    kind: Literal["cls", "avg"] = "cls"
    out: Path = Path("runs")
    size: tuple[int, int] = (4, 4)
    groups: tuple[Group, ...] = (Group(),)
    weights: dict[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ValueError(f"rate must be positive, got {self.rate}")


FULL = Config(
    rate=0.5,
    steps=7,
    name="1",
    fast=True,
    kind="avg",
    out=Path("x/y"),
    size=(2, 3),
    groups=(Group(batch_size=1, teachers=("clip", "dino")), Group(batch_size=2)),
    weights={"clip": 1.0, "sam": 0.0},
)


@pytest.fixture
def yaml_file(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return path

    return write


def test_round_trips(tmp_path: Path) -> None:
    write_config(FULL, tmp_path / "c.yaml")
    assert read_config(Config, tmp_path / "c.yaml") == FULL
    assert from_mapping(Config, json.loads(json.dumps(to_mapping(FULL)))) == FULL


def test_a_file_that_is_empty_gives_the_defaults(yaml_file: Callable[[str], Path]) -> None:
    assert read_config(Config, yaml_file("")) == Config()
    assert read_config(Config, yaml_file(""), default=FULL) == FULL


def test_a_file_changes_only_what_it_names(yaml_file: Callable[[str], Path]) -> None:
    path = yaml_file("rate: 1e-4\nweights: {sam: 2}\ngroups: [{batch_size: 3}]\n")
    wanted = dataclasses.replace(
        FULL, rate=1e-4, weights={"clip": 1.0, "sam": 2.0}, groups=(Group(batch_size=3),)
    )
    assert read_config(Config, path, default=FULL) == wanted


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rat": 1}, "unknown field 'rat'; known: rate, steps"),
        ({"groups": [{"batch": 1}]}, "unknown field 'batch' in groups.0; known: batch_size"),
        ({"rate": "fast"}, "rate must be float, got 'fast'"),
        ({"rate": True}, "rate must be float, got True"),
        ({"steps": 1.5}, "steps must be int, got 1.5; or steps must be null, got 1.5"),
        ({"steps": float("inf")}, "steps must be int, got inf"),
        ({"fast": "false"}, "fast must be bool, got 'false'"),
        ({"name": 3}, "name must be str, got 3"),
        ({"kind": "max"}, "kind must be one of 'cls', 'avg', got 'max'"),
        ({"size": [1, 2, 3]}, r"size must be tuple\[int, int\], got \[1, 2, 3\]"),
        ({"groups": [3]}, "groups.0 must be a mapping of fields, got 3"),
        ({"rate": -1}, "rate must be positive, got -1.0"),
        ([1], r"the file must be a mapping of fields, got \[1\]"),
    ],
)
def test_a_wrong_value_names_the_field_and_the_fix(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_mapping(Config, values)


def test_a_missing_required_field_is_named() -> None:
    @dataclasses.dataclass(kw_only=True)
    class Required:
        size: int

    with pytest.raises(ValueError, match="size"):
        from_mapping(Required, {})


def test_errors_in_a_file_start_with_its_path(yaml_file: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match=r"config\.yaml: not a YAML file"):
        read_config(Config, yaml_file("a: [1"))
    with pytest.raises(ValueError, match=r"config\.yaml: unknown field 'rat'"):
        read_config(Config, yaml_file("rat: 1"))


def test_flags_win_over_the_file_which_wins_over_the_recipe(
    yaml_file: Callable[[str], Path],
) -> None:
    path = yaml_file("rate: 0.25\nname: file\n")
    argv = ["--name", "flag", "--config", str(path), "--groups.1.batch-size", "9"]
    parsed = parse(Config, argv, prog="radio x", default=FULL)
    groups = (FULL.groups[0], Group(batch_size=9))
    assert parsed == dataclasses.replace(FULL, rate=0.25, name="flag", groups=groups)
    assert parse(Config, [f"--config={path}"], prog="radio x").name == "file"


def test_an_unknown_flag_lists_the_known_and_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        parse(Config, ["--raet", "1"], prog="radio x")
    message = str(caught.value)
    assert "unknown option '--raet'; did you mean --rate?" in message
    assert "--groups.0.batch-size" in message
    assert "--weights" in message


def test_a_config_file_that_does_not_fit_is_bad_usage(yaml_file: Callable[[str], Path]) -> None:
    with pytest.raises(UsageError, match="unknown field 'rat'"):
        parse(Config, ["--config", str(yaml_file("rat: 1"))], prog="radio x")
    with pytest.raises(UsageError, match="--config needs"):
        parse(Config, ["--config"], prog="radio x")


@pytest.mark.parametrize("argv", [["--rate", "-1"], ["--steps", "many"], ["--kind", "max"]])
def test_a_wrong_flag_value_exits_with_2(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(Config, argv, prog="radio x")
    assert caught.value.code == 2


def test_help_tells_of_the_config_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(Config, ["--help"], prog="radio x")
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Everything that a config may hold." in text
    assert "--config FILE.yaml" in text
