"""Drawing a chart as SVG, once for each width that the page may give it.

Text in an SVG shrinks with the picture. So a chart is drawn for a laptop and for a phone, and the
style sheet shows the one that fits.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from headwater_firmware_sim.report.chart import Bar, BarChart, Chart, Lane, Line, Mark, Stack
from headwater_firmware_sim.report.numbers import format_count, make_ticks

LEFT: Final = 54
RIGHT: Final = 14
TOP: Final = 12
AXIS_HEIGHT: Final = 38
LANE_HEIGHT: Final = 30
BAR_HEIGHT: Final = 44
PIXELS_PER_X_TICK: Final = 70
PIXELS_PER_Y_TICK: Final = 40
MIN_MARK_WIDTH: Final = 3
DENSE_PITCH: Final = 5
"""From bar to bar; closer ones touch, and have no outline."""
MAX_HOVERS: Final = 1_000
"""Positions that the cross-hair stops at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A width for which charts are drawn."""

    name: str
    """Class of the drawing; the style sheet decides where it shows."""
    width: int
    plot_height: int


WIDE: Final = (
    Size(name="laptop", width=1_080, plot_height=300),
    Size(name="phone", width=350, plot_height=220),
)
HALF: Final = (
    Size(name="laptop", width=520, plot_height=210),
    Size(name="phone", width=350, plot_height=200),
)


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where a chart's values fall on the drawing."""

    chart: Chart
    size: Size
    x_ticks: tuple[float, ...]
    y_ticks: tuple[float, ...]

    @property
    def right(self) -> int:
        return self.size.width - RIGHT

    @property
    def bottom(self) -> int:
        return TOP + self.size.plot_height

    @property
    def top_x(self) -> float:
        is_exact = self.chart.x.is_exact or self.chart.x.is_slots
        return self.chart.x.top if is_exact else self.x_ticks[-1]

    def x(self, value: float) -> float:
        return LEFT + self.fraction(value) * (self.right - LEFT)

    def fraction(self, value: float) -> float:
        if self.chart.x.is_slots:
            return (value - 0.5) / max(1.0, self.chart.x.top)
        return value / self.top_x if self.top_x else 0.0

    def y(self, value: float) -> float:
        return self.bottom - value / self.y_ticks[-1] * self.size.plot_height


def _make_frame(chart: Chart, size: Size) -> _Frame:
    width = size.width - LEFT - RIGHT
    x_ticks = make_ticks(
        chart.x.top, at_most=max(3, width // PIXELS_PER_X_TICK), steps=chart.x.steps
    )
    y_ticks = make_ticks(
        chart.y.top, at_most=size.plot_height // PIXELS_PER_Y_TICK + 1, steps=chart.y.steps
    )
    return _Frame(chart, size, x_ticks, y_ticks)


def draw_chart(chart: Chart, size: Size) -> str:
    """The chart as one `<svg>` element."""
    frame = _make_frame(chart, size)
    height = frame.bottom + AXIS_HEIGHT + len(chart.lanes) * LANE_HEIGHT
    parts = [
        f'<svg class="{size.name}" viewBox="0 0 {size.width} {height}" role="img" tabindex="0" '
        f'aria-labelledby="{chart.key}-title" aria-describedby="{chart.key}-caption" '
        f'data-left="{LEFT}" data-right="{frame.right}">'
    ]
    parts += _draw_bands(frame)
    parts += _draw_axes(frame)
    parts += _draw_stacks(frame)
    parts += [_draw_line(frame, line) for line in chart.lines if line.points]
    for index, lane in enumerate(chart.lanes):
        parts += _draw_lane(frame, lane, top=frame.bottom + AXIS_HEIGHT + index * LANE_HEIGHT)
    parts.append(f'<path class="cursor" d="M0 {TOP}V{height}" hidden=""/>')
    parts.append("</svg>")
    return "".join(parts)


def _draw_axes(frame: _Frame) -> Iterator[str]:
    chart = frame.chart
    for value in frame.y_ticks:
        y = _n(frame.y(value))
        kind = "axis" if value == 0 else "grid"
        yield f'<path class="{kind}" d="M{LEFT} {y}H{frame.right}"/>'
        yield f'<text class="end" x="{LEFT - 7}" y="{y}" dy=".35em">{chart.y.format(value)}</text>'
    for value in frame.x_ticks:
        if value > frame.top_x or (chart.x.is_slots and value < 1):
            continue
        x = frame.x(value)
        anchor = "end" if x > frame.right - 16 else "middle"
        yield f'<path class="axis" d="M{_n(x)} {frame.bottom}v4"/>'
        yield (
            f'<text class="{anchor}" x="{_n(x)}" y="{frame.bottom + 17}">'
            f"{escape(chart.x.format(value))}</text>"
        )
    yield f'<text class="end" x="{frame.right}" y="{frame.bottom + 32}">{chart.x.label}</text>'


def _draw_bands(frame: _Frame) -> Iterator[str]:
    for mark in frame.chart.bands:
        start = frame.x(mark.start)
        width = max(MIN_MARK_WIDTH, frame.x(mark.end) - start)
        yield (
            f'<rect class="band" x="{_n(start)}" y="{TOP}" width="{_n(width)}" '
            f'height="{frame.size.plot_height}"><title>{escape(mark.label)}</title></rect>'
        )


def _draw_stacks(frame: _Frame) -> Iterator[str]:
    chart = frame.chart
    pitch = (frame.right - LEFT) / max(1.0, chart.x.top)
    is_dense = pitch < DENSE_PITCH
    width = pitch if is_dense else min(pitch * 0.72, 48)
    heights = [0.0] * len(chart.xs)
    for stack in chart.stacks:
        path = []
        for index, (x, height) in enumerate(zip(chart.xs, stack.heights, strict=True)):
            if height <= 0:
                continue
            bottom = frame.y(heights[index])
            heights[index] += height
            top = frame.y(heights[index])
            path.append(
                f"M{_n(frame.x(x) - width / 2)} {_n(bottom)}V{_n(top)}h{_n(width)}V{_n(bottom)}z"
            )
        if path:
            kind = "bar dense" if is_dense else "bar"
            yield f'<path class="{kind} c-{stack.colour}" d="{"".join(path)}"/>'


def _draw_line(frame: _Frame, line: Line) -> str:
    path = []
    for index, (x, y) in enumerate(line.points):
        at_x, at_y = _n(frame.x(x)), _n(frame.y(y))
        if index == 0:
            path.append(f"M{at_x} {at_y}")
        elif line.is_step:
            path.append(f"H{at_x}V{at_y}")
        else:
            path.append(f"L{at_x} {at_y}")
    if line.is_step:
        path.append(f"H{frame.right}")
    kind = " ".join(
        name
        for name, holds in (
            ("line", True),
            (f"c-{line.colour}", True),
            ("dashed", line.is_dashed),
            ("strong", line.is_strong),
        )
        if holds
    )
    dots = ""
    if len(line.points) <= 30:
        dots = "".join(f"M{_n(frame.x(x))} {_n(frame.y(y))}h0" for x, y in line.points)
        dots = f'<path class="dot c-{line.colour}" d="{dots}"/>'
    return f'<path class="{kind}" d="{"".join(path)}"/>{dots}'


def _draw_lane(frame: _Frame, lane: Lane, *, top: float) -> Iterator[str]:
    yield f'<text class="lane" x="{LEFT}" y="{top + 9}">{escape(lane.name)}</text>'
    yield f'<path class="grid" d="M{LEFT} {top + 19}H{frame.right}"/>'
    for mark in _join(frame, lane.marks):
        start, end = frame.x(mark.start), frame.x(mark.end)
        width = max(MIN_MARK_WIDTH, end - start)
        start = min(start, frame.right - width)
        yield (
            f'<rect class="mark c-{lane.colour}" x="{_n(start)}" y="{top + 14}" rx="1.5" '
            f'width="{_n(width)}" height="10"><title>{escape(mark.label)}</title></rect>'
        )


def _join(frame: _Frame, marks: tuple[Mark, ...]) -> list[Mark]:
    """Marks that would fall onto each other become one, so that a drawing stays small."""
    joined: list[Mark] = []
    for mark in sorted(marks, key=lambda entry: (entry.start, entry.end)):
        last = joined[-1] if joined else None
        if last is None or frame.x(mark.start) >= max(
            frame.x(last.end), frame.x(last.start) + MIN_MARK_WIDTH
        ):
            joined.append(mark)
            continue
        end = max(last.end, mark.end)
        count = last.count + mark.count
        span = f"{frame.chart.x.format(last.start)} to {frame.chart.x.format(end)}"
        joined[-1] = Mark(
            start=last.start, end=end, count=count, label=f"{format_count(count)} in {span}"
        )
    return joined


def draw_bars(chart: BarChart, size: Size) -> str:
    """The bar chart as one `<svg>` element."""
    height = len(chart.bars) * BAR_HEIGHT + 4
    top = max((max(bar.value, bar.high) for bar in chart.bars), default=0) or 1.0
    room = size.width - 96
    parts = [
        f'<svg class="{size.name}" viewBox="0 0 {size.width} {height}" role="img" '
        f'aria-labelledby="{chart.key}-title" aria-describedby="{chart.key}-caption">'
    ]
    for index, bar in enumerate(chart.bars):
        parts += _draw_bar(bar, index * BAR_HEIGHT, room / top)
    parts.append("</svg>")
    return "".join(parts)


def _draw_bar(bar: Bar, top: float, scale: float) -> Iterator[str]:
    middle = top + 29
    end = max(bar.value, bar.high) * scale
    yield f'<text class="lane" x="0" y="{top + 13}">{escape(bar.name)}</text>'
    yield (
        f'<rect class="mark c-{bar.colour}" x="0" y="{top + 20}" rx="2" '
        f'width="{_n(max(1.0, bar.value * scale))}" height="18"/>'
    )
    if bar.high > bar.low:
        low, high = _n(bar.low * scale), _n(bar.high * scale)
        path = f"M{low} {middle}H{high}M{low} {middle - 5}v10M{high} {middle - 5}v10"
        yield f'<path class="halo" d="{path}"/><path class="whisker" d="{path}"/>'
    yield f'<text x="{_n(end + 8)}" y="{middle}" dy=".35em">{escape(bar.text)}</text>'


def make_hover(chart: Chart) -> str:
    """What the cross-hair shows, as JSON: x as fractions of the plot, a text for each series."""
    frame = _make_frame(chart, WIDE[0] if chart.is_wide else HALF[0])
    xs: Sequence[float] = chart.xs or sorted({x for line in chart.lines for x, _ in line.points})
    if len(xs) > MAX_HOVERS:
        last = len(xs) - 1
        xs = [xs[index * last // (MAX_HOVERS - 1)] for index in range(MAX_HOVERS)]
    lines = [line for line in chart.lines if not line.group]
    names = [line.name for line in lines] + [stack.name for stack in chart.stacks]
    colours = [line.colour for line in lines] + [stack.colour for stack in chart.stacks]
    columns = [_values_at(line, xs) for line in lines] + [
        _heights_at(chart, stack, xs) for stack in chart.stacks
    ]
    value = {
        "names": names,
        "colours": [str(colour) for colour in colours],
        "at": [round(frame.fraction(x), 5) for x in xs],
        "labels": [chart.x.format(x) for x in xs],
        "values": [
            [None if entry is None else chart.y.format(entry) for entry in row]
            for row in zip(*columns, strict=True)
        ],
        "x": chart.x.label,
    }
    # "<" would let a name close the script element.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _heights_at(chart: Chart, stack: Stack, xs: Sequence[float]) -> list[float | None]:
    heights = dict(zip(chart.xs, stack.heights, strict=True))
    return [heights[x] for x in xs]


def _values_at(line: Line, xs: Sequence[float]) -> list[float | None]:
    """The line's last value at or before each of `xs`, which ascend."""
    values: list[float | None] = []
    index = 0
    for x in xs:
        while index < len(line.points) and line.points[index][0] <= x:
            index += 1
        values.append(line.points[index - 1][1] if index else None)
    return values


def _n(value: float) -> str:
    """A coordinate with a tenth of a pixel, the same on every machine."""
    return f"{value:.1f}".removesuffix(".0")
