"""The sizes of a step: what the student, its teachers and the crops behind them look like.

Everything is a pure function of (seed, step): a resumed run meets the same shapes, and so does
every worker process.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np

from radio_core.distill.group_config import GroupConfig
from radio_core.streams import Stream
from radio_core.vision import ModelSpec

Size = tuple[int, int]
"""(height, width) in pixels, or (rows, columns) of a grid."""


class StudentGeometry(Protocol):
    """What must be known of a student's config: its cells and the step of its image sides."""

    @property
    def patch_size(self) -> int:
        """Pixels of one feature cell."""
        ...

    @property
    def resolution_step(self) -> int:
        """Image sides are multiples of this many pixels."""
        ...


class StepShape(NamedTuple):
    """The student's input at one step.

    Attributes:
        height: pixels.
        width: pixels.
        window: side in patches of the attention windows; None for global attention.
    """

    height: int
    width: int
    window: int | None = None

    @property
    def size(self) -> Size:
        """(height, width)."""
        return self.height, self.width


def step_shape(
    group: GroupConfig, number: int, seed: int, student: StudentGeometry, index: int = 0
) -> StepShape:
    """Draw the shape of a step.

    A resolution is drawn uniformly, then height : width log-uniformly within the group's
    `max_aspect` (the nearest shape in multiples of the student's step is taken), then the window,
    out of those that tile that shape. What leaves no choice is not drawn.

    Args:
        group: whose turn it is.
        number: of the step.
        seed: of the run.
        student: the student's config.
        index: place of the group among those of its stage, for groups that share a step.
    """
    rng = Stream.SHAPE.rng(seed, number, index)
    several = len(group.resolutions) > 1
    resolution = int(rng.choice(group.resolutions)) if several else group.resolutions[0]
    shapes = shapes_of(resolution, group.max_aspect, student.resolution_step)
    if len(shapes) == 1:
        height, width = shapes[0]
    else:
        limit = math.log(group.max_aspect)
        wanted = rng.uniform(-limit, limit)
        height, width = min(shapes, key=lambda size: abs(math.log(size[0] / size[1]) - wanted))
    fitting = [w for w in group.window_sizes if _tiles(w, (height, width), student)]
    return StepShape(
        height, width, _draw_window(group, Stream.WINDOW.rng(seed, number, index), fitting)
    )


def shapes_of(resolution: int, max_aspect: float, step: int) -> list[Size]:
    """All (height, width) of about resolution x resolution pixels, from wide to tall.

    Args:
        resolution: side of the square in pixels, a multiple of `step`.
        max_aspect: the longer side is at most this many times the shorter one.
        step: both sides are multiples of it.
    """
    side = resolution // step
    tall = {(side, side)}
    for rows in range(side + 1, math.floor(side * max_aspect) + 1):
        cols = max(round(side * side / rows), 1)
        if rows <= cols * max_aspect:
            tall.add((rows, cols))
    grids = sorted(tall | {(cols, rows) for rows, cols in tall}, key=lambda grid: grid[0] / grid[1])
    return [(rows * step, cols * step) for rows, cols in grids]


def group_shapes(group: GroupConfig, student: StudentGeometry) -> list[Size]:
    """Every (height, width) that a step of the group can have."""
    step = student.resolution_step
    return [
        size
        for resolution in group.resolutions
        for size in shapes_of(resolution, group.max_aspect, step)
    ]


def teacher_size(group: GroupConfig, name: str, spec: ModelSpec, shape: StepShape) -> Size:
    """(height, width) in pixels of a teacher's input at a step.

    The square of the group's `teacher_sizes`, or else the teacher's own. A flexible teacher takes
    the student's aspect ratio instead of the square, at about the same area.
    """
    side = group.teacher_sizes.get(name, spec.input_size)
    if shape.height == shape.width or not spec.flexible:
        return side, side
    unit = math.lcm(spec.step, spec.patch_size * group.mosaics.get(name, 1))
    stretch = math.sqrt(shape.height / shape.width)
    rows, cols = (max(round(side * factor / unit), 1) for factor in (stretch, 1 / stretch))
    return rows * unit, cols * unit


def tile_size(group: GroupConfig, name: str, spec: ModelSpec, shape: StepShape) -> Size:
    """(height, width) of one image in a teacher's input: all of it, or a tile of a mosaic."""
    height, width = teacher_size(group, name, spec, shape)
    tiles = group.mosaics.get(name, 1)
    return height // tiles, width // tiles


def view_size(group: GroupConfig, specs: Mapping[str, ModelSpec], shape: StepShape) -> Size:
    """(height, width) at which the crops of a step are read: enough for everyone in the group.

    They have the student's aspect ratio; a teacher that takes squares gets them squeezed.
    """
    sizes = [tile_size(group, name, specs[name], shape) for name in group.teachers]
    height = max(
        max(rows, _ceil_div(cols * shape.height, shape.width))
        for rows, cols in [shape.size, *sizes]
    )
    return height, _ceil_div(height * shape.width, shape.height)


def largest_view(
    group: GroupConfig, specs: Mapping[str, ModelSpec], student: StudentGeometry
) -> Size:
    """The largest height and the largest width that `view_size` gives for a group."""
    views = [view_size(group, specs, StepShape(*size)) for size in group_shapes(group, student)]
    return max(height for height, _ in views), max(width for _, width in views)


def check_student(group: GroupConfig, student: StudentGeometry) -> None:
    """Refuse resolutions and windows that the student cannot take.

    Raises:
        ValueError: naming the nearest resolution, or the window that tiles no grid of the group.
    """
    step = student.resolution_step
    for resolution in group.resolutions:
        if resolution % step:
            nearest = max(round(resolution / step), 1) * step
            raise ValueError(
                f"group {group.name}: resolution {resolution} is not a multiple of the "
                f"student's {_step_name(student)} {step}; nearest: {nearest}"
            )
    sizes = group_shapes(group, student)
    for window in group.window_sizes:
        if not any(_tiles(window, size, student) for size in sizes):
            grids = [" x ".join(str(side // student.patch_size) for side in size) for size in sizes]
            raise ValueError(
                f"group {group.name}: windows of {window} patches tile no grid of the group "
                f"({', '.join(dict.fromkeys(grids))})"
            )


def check_cacheable(group: GroupConfig) -> None:
    """Refuse what stored teacher outputs cannot serve.

    Raises:
        ValueError: naming the field.
    """
    asked = {
        "teacher_sizes": bool(group.teacher_sizes),
        "mosaics": bool(group.mosaics),
        "max_aspect": group.max_aspect > 1,
    }
    for field, is_asked in asked.items():
        if is_asked:
            raise ValueError(
                f"group {group.name}: {field} needs teachers that run at every step, but the cache "
                "holds their outputs on fixed squares: set cached_views to 0"
            )


def check_teachers(group: GroupConfig, specs: Mapping[str, ModelSpec]) -> None:
    """Refuse input sizes and mosaics that a teacher cannot take.

    Raises:
        ValueError: naming the teacher, the field and what would fit.
    """
    for name in group.teachers:
        spec, tiles = specs[name], group.mosaics.get(name, 1)
        side = group.teacher_sizes.get(name, spec.input_size)
        try:
            spec.checked_size((side, side))
        except ValueError as error:
            raise ValueError(f"group {group.name}: teacher_sizes: {error}") from error
        if side % (spec.patch_size * tiles):
            raise ValueError(
                f"group {group.name}: mosaics: {tiles} x {tiles} tiles do not divide the grid of "
                f"{side // spec.patch_size} patches that teacher {name} makes of {side} pixels"
            )


def _draw_window(group: GroupConfig, rng: np.random.Generator, fitting: list[int]) -> int | None:
    """The attention window of a step in patches; None for global attention."""
    if not fitting:
        return None
    if rng.random() >= group.window_probability:
        return None
    return int(rng.choice(fitting))


def _tiles(window: int, size: Size, student: StudentGeometry) -> bool:
    return all(side // student.patch_size % window == 0 for side in size)


def _step_name(student: StudentGeometry) -> str:
    return "patch size" if student.resolution_step == student.patch_size else "resolution step"


def _ceil_div(value: int, divisor: int) -> int:
    return -(-value // divisor)
