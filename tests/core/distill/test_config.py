"""The fields of a run: what cannot be, or does not fit together, is refused by name."""

from typing import Any

import pytest

from radio_core.distill.config import StudentConfig, TargetsConfig, TrainConfig
from radio_core.distill.groups import GroupConfig, StageConfig, TeacherConfig
from radio_core.models.vit import vit_config

STUDENT = vit_config("tiny")


def group(**changes: Any) -> GroupConfig:
    values = {"teachers": ("a",), "batch_size": 8, "resolutions": (64,)}
    return GroupConfig(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolutions": ()}, "resolutions must be positive"),
        ({"resolutions": (64, 0)}, "resolutions must be positive"),
        ({"max_aspect": 0.5}, r"max_aspect must be in \[1, 8.0\]"),
        ({"window_sizes": (0,)}, "window_sizes must be positive"),
        ({"teacher_sizes": {"b": 84}}, "teacher_sizes: 'b' is not a teacher .* known: a"),
        ({"teacher_sizes": {"a": 0}}, "teacher_sizes: a must be at least 1, not 0"),
        ({"mosaics": {"a": 1}}, "mosaics: a must be at least 2, not 1"),
        ({"mosaics": {"a": 3}}, "batch_size 8 is not a multiple of the 9 images"),
    ],
)
def test_a_group_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        group(**changes)


def run(of: GroupConfig, cached: int = 0, summary_weight: float = 1.0) -> TrainConfig:
    return TrainConfig(
        student=StudentConfig(backbone=STUDENT),
        teachers={"a": TeacherConfig(source="a", summary_weight=summary_weight)},
        stages=(StageConfig(steps=1, groups=(of,)),),
        targets=TargetsConfig(cached_views=cached),
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolutions": (64, 67)}, "67 is not a multiple of the student's patch size 8; .* 64"),
        ({"window_sizes": (5,)}, r"windows of 5 patches tile no grid of the group \(8 x 8\)"),
        ({"mosaics": {"a": 2}}, "set summary_weight of teacher a to 0"),
    ],
)
def test_a_group_that_does_not_fit_the_run_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(group(**changes))


@pytest.mark.parametrize(
    "changes", [{"max_aspect": 1.5}, {"teacher_sizes": {"a": 84}}, {"mosaics": {"a": 2}}]
)
def test_the_cache_refuses_what_it_cannot_serve(changes: dict[str, Any]) -> None:
    field = next(iter(changes))
    with pytest.raises(ValueError, match=f"{field} needs teachers that run at every step.*cached"):
        run(group(**changes), cached=10, summary_weight=0.0)
    assert run(group(**changes), summary_weight=0.0)
    assert run(group(resolutions=(64, 96)), cached=10)
