"""The page around the charts: one HTML text with its style and script inside."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import Final

from headwater_firmware_sim.report.chart import BarChart, Chart, Colour, DataTable, Tile
from headwater_firmware_sim.report.svg import HALF, WIDE, draw_bars, draw_chart, make_hover

MAX_TABLE_ROWS: Final = 200
"""Of a table on the page; the run's CSV has all of them."""

POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
)
"""The browser itself refuses whatever would leave the page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Charts under a heading."""

    title: str
    charts: tuple[Chart | BarChart, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What a page holds, from top to bottom."""

    title: str
    kicker: str
    """A line above the title."""
    lead: str
    """A sentence or two under the title."""
    tiles: tuple[Tile, ...]
    sections: tuple[Section, ...]
    details: tuple[tuple[str, DataTable], ...]
    """Tables at the end, each under its name."""
    footer: str


def render_page(page: Page) -> str:
    """The whole file as text."""
    return "".join(_render(page))


def _render(page: Page) -> Iterator[str]:
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    yield f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    yield '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
    yield f"<title>{escape(page.title)}</title>\n<style>\n{_read('page.css')}</style>\n</head>\n"
    yield f'<body>\n<header>\n<p class="kicker">{escape(page.kicker)}</p>\n'
    yield f'<h1>{escape(page.title)}</h1>\n<p class="lead">{escape(page.lead)}</p>\n</header>\n'
    yield '<main>\n<dl class="tiles">\n'
    for tile in page.tiles:
        yield f"<div><dt>{escape(tile.name)}</dt><dd>{escape(tile.value)}</dd>"
        yield f'<dd class="note">{escape(tile.note)}</dd></div>\n'
    yield "</dl>\n"
    for section in page.sections:
        yield f'<section>\n<h2>{escape(section.title)}</h2>\n<div class="grid">\n'
        for chart in section.charts:
            yield from _render_figure(chart)
        yield "</div>\n</section>\n"
    yield "<section>\n<h2>Details</h2>\n"
    for name, table in page.details:
        yield f"<details><summary>{escape(name)}</summary>{_render_table(table, name)}</details>\n"
    yield f"</section>\n</main>\n<footer><p>{escape(page.footer)}</p></footer>\n"
    yield f"<script>\n{_read('page.js')}</script>\n</body>\n</html>\n"


def _render_figure(chart: Chart | BarChart) -> Iterator[str]:
    yield f'<figure id="{chart.key}"{" class=wide" if chart.is_wide else ""}>\n'
    yield f'<h3 id="{chart.key}-title">{escape(chart.title)}</h3>\n'
    yield f'<p class="caption" id="{chart.key}-caption">{escape(chart.caption)}</p>\n'
    sizes = WIDE if chart.is_wide else HALF
    if isinstance(chart, BarChart):
        yield "".join(draw_bars(chart, size) for size in sizes)
    else:
        yield from _render_legend(chart)
        yield "".join(draw_chart(chart, size) for size in sizes)
        yield f'<script type="application/json">{make_hover(chart)}</script>\n'
    yield "<details><summary>As a table</summary>"
    yield f"{_render_table(chart.table, chart.title)}</details>\n</figure>\n"


def _render_legend(chart: Chart) -> Iterator[str]:
    entries: Sequence[tuple[str, Colour, str]] = [
        (line.group or line.name, line.colour, "dash" if line.is_dashed else "stroke")
        for line in chart.lines
        if line.points
    ] + [(stack.name, stack.colour, "box") for stack in chart.stacks]
    if not entries:
        yield '<p class="empty">Nothing to show in this run.</p>\n'
        return
    yield '<ul class="legend">'
    for name, colour, kind in dict.fromkeys(entries):
        yield f'<li><span class="{kind} c-{colour}"></span>{escape(name)}</li>'
    yield "</ul>\n"


def _render_table(table: DataTable, caption: str) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.columns)
    body = "".join(
        "<tr>"
        + f'<th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>\n"
        for row in table.rows[:MAX_TABLE_ROWS]
    )
    hidden = len(table.rows) - MAX_TABLE_ROWS
    rest = f'<p class="note">{hidden:,} more rows in {table.source}.</p>' if hidden > 0 else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f'<table><caption class="quiet">{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>{rest}"
    )


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
