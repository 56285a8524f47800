"""What a chart shows, before anybody draws it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from headwater_firmware_sim.report.numbers import Format, format_count

MAX_POINTS: Final = 1_000
"""Of a line; more than that are thinned evenly, the last one is kept."""


class Colour(StrEnum):
    """Names of the palette in `page.css`, each with a light and a dark value."""

    BLUE = "blue"
    ORANGE = "orange"
    GREEN = "green"
    PURPLE = "purple"
    CYAN = "cyan"
    RED = "red"
    OLIVE = "olive"
    SLATE = "slate"
    INK = "ink"


SERIES: Final = (
    Colour.BLUE,
    Colour.ORANGE,
    Colour.GREEN,
    Colour.PURPLE,
    Colour.CYAN,
    Colour.RED,
    Colour.OLIVE,
    Colour.SLATE,
)
"""For things without a meaning of their own, in this order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A direction of a chart; it starts at 0."""

    label: str
    top: float
    format: Format = format_count
    steps: tuple[int, ...] = ()
    """Allowed distances of ticks; any round ones if empty."""
    is_exact: bool = False
    """Whether the axis ends at `top` itself and not at the tick after it."""
    is_slots: bool = False
    """Whether it is 1, 2, 3 and so on, each in the middle of a slot of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Values over x."""

    name: str
    colour: Colour
    points: tuple[tuple[float, float], ...]
    """Ascending in x."""
    is_dashed: bool = False
    is_step: bool = False
    """Whether a value holds until the next one."""
    is_strong: bool = False
    group: str = ""
    """Lines of a group share this name in the legend, and the cross-hair leaves them out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """One layer of stacked bars."""

    name: str
    colour: Colour
    heights: tuple[float, ...]
    """One for each x of the chart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Something that happened at a time or over a time."""

    start: float
    end: float
    count: int
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """A row of marks under a chart, on the same x."""

    name: str
    colour: Colour
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataTable:
    """The same as a table, for those who do not see the picture."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    source: str
    """The file of the run that has all rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Lines or stacked bars, with lanes under them."""

    key: str
    """Its id on the page."""
    title: str
    caption: str
    """What it shows and how to read it, one or two sentences."""
    x: Axis
    y: Axis
    table: DataTable
    lines: tuple[Line, ...] = ()
    xs: tuple[float, ...] = ()
    """Of the bars."""
    stacks: tuple[Stack, ...] = ()
    lanes: tuple[Lane, ...] = ()
    bands: tuple[Mark, ...] = ()
    """Times that are shaded over the whole height."""
    is_wide: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One row of a bar chart."""

    name: str
    value: float
    low: float
    high: float
    text: str
    colour: Colour


@dataclass(frozen=True, slots=True, kw_only=True)
class BarChart:
    """Horizontal bars with whiskers."""

    key: str
    title: str
    caption: str
    bars: tuple[Bar, ...]
    table: DataTable
    is_wide: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A number at the top of the page."""

    name: str
    value: str
    note: str = ""


def thin(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """At most `MAX_POINTS` of `points`, evenly, the first and the last among them."""
    if len(points) <= MAX_POINTS:
        return tuple(points)
    last = len(points) - 1
    return tuple(points[index * last // (MAX_POINTS - 1)] for index in range(MAX_POINTS))


def make_line(
    name: str,
    colour: Colour,
    values: Sequence[tuple[float, float | None]],
    *,
    is_dashed: bool = False,
    is_step: bool = False,
    is_strong: bool = False,
    group: str = "",
) -> Line:
    """A line through the values that are known."""
    known = [(x, y) for x, y in values if y is not None]
    return Line(
        name=name,
        colour=colour,
        points=thin(known),
        is_dashed=is_dashed,
        is_step=is_step,
        is_strong=is_strong,
        group=group,
    )


def show(value: float | None, write: Callable[[float], str]) -> str:
    """A value as text, or an en dash where there is none."""
    return "–" if value is None else write(value)
