"""Two runs in one picture: the same curves of both, A in blue and B dashed in orange."""

from collections.abc import Callable, Sequence

from headwater_firmware_sim.report.chart import (
    Axis,
    Chart,
    Colour,
    DataTable,
    Line,
    Tile,
    make_line,
    show,
)
from headwater_firmware_sim.report.measures import (
    RoundTotals,
    final_fairness,
    list_fairness,
    list_round_totals,
    share,
)
from headwater_firmware_sim.report.numbers import (
    TIME_STEPS_MS,
    Format,
    format_bytes,
    format_index,
    format_share,
    format_time,
)
from headwater_firmware_sim.report.page import Page, Section, render_page
from headwater_firmware_sim.report.rounds import round_axis
from headwater_firmware_sim.results import RunResult

Read = Callable[[RoundTotals], float | None]


def render_comparison(
    a: RunResult, b: RunResult, *, names: tuple[str, str], details: Sequence[tuple[str, DataTable]]
) -> str:
    """Both runs as one HTML text.

    Args:
        a: Drawn in blue.
        b: Drawn in orange.
        names: What to call them.
        details: Tables for the end of the page, by their names.
    """
    labels = (f"A · {names[0]}", f"B · {names[1]}")
    both = (list_round_totals(a.rounds), list_round_totals(b.rounds))
    top_bytes = max((row.bytes_up for totals in both for row in totals), default=1)
    charts = (
        _by_round(
            "participation",
            "Participation",
            "Updates on the ledger, of the devices that the round drew.",
            both,
            labels,
            lambda row: share(row.updates, row.cohort),
        ),
        _by_round(
            "bytes",
            "Bytes sent by devices",
            "All update messages that reached a gateway.",
            both,
            labels,
            lambda row: float(row.bytes_up),
            top=top_bytes,
            write=format_bytes,
        ),
        _by_round(
            "caught",
            "Attackers caught",
            "Share of the attackers' judged updates that was refused.",
            both,
            labels,
            lambda row: share(row.attackers_refused, row.attackers_judged),
        ),
        _by_round(
            "honest",
            "Honest refused",
            "Share of the honest devices' judged updates that was refused.",
            both,
            labels,
            lambda row: share(row.honest_refused, row.honest_judged),
        ),
    )
    return render_page(
        Page(
            title=f"{names[0]} and {names[1]}",
            kicker="comparison of two runs",
            lead=f"A: {_describe(a)}. B: {_describe(b)}.",
            tiles=_make_tiles(a, b),
            sections=(
                Section(
                    title="Learning",
                    charts=(
                        _chart_merged(a, b, labels),
                        _by_round(
                            "shards",
                            "Accuracy of the shards",
                            "Mean of the shards' models after each round.",
                            both,
                            labels,
                            lambda row: row.accuracy,
                        ),
                        _chart_gini(a, b, labels),
                    ),
                ),
                Section(title="Taking part", charts=charts),
            ),
            details=tuple(details),
            footer="Files of both runs: result.json and the tables in their folders.",
        )
    )


def _describe(run: RunResult) -> str:
    return f"{run.scenario}, seed {run.seed}, {run.devices:,} devices, {run.shards:,} shards"


def _make_tiles(a: RunResult, b: RunResult) -> tuple[Tile, ...]:
    def tile(name: str, of: Callable[[RunResult], float | None], write: Format) -> Tile:
        return Tile(name=name, value=f"{show(of(a), write)} · {show(of(b), write)}", note="A · B")

    return (
        tile("Accuracy", lambda run: run.final.accuracy, format_share),
        tile("Gini of rewards", lambda run: final_fairness(run).gini, format_index),
        tile("Sent by devices", lambda run: sum(row.bytes_up for row in run.rounds), format_bytes),
        tile("Run's own time", lambda run: run.virtual_ms, format_time),
    )


def _pair(
    labels: tuple[str, str],
    values: tuple[Sequence[tuple[float, float | None]], ...],
    *,
    is_step: bool,
) -> tuple[Line, ...]:
    return tuple(
        make_line(label, colour, points, is_dashed=colour is Colour.ORANGE, is_step=is_step)
        for label, colour, points in zip(labels, (Colour.BLUE, Colour.ORANGE), values, strict=True)
    )


def _chart_merged(a: RunResult, b: RunResult, labels: tuple[str, str]) -> Chart:
    values = tuple([(float(row.at_ms), row.accuracy) for row in run.globals] for run in (a, b))
    return Chart(
        key="accuracy",
        title="Accuracy of the merged model",
        caption="On held-out examples, over each run's own time.",
        x=Axis(
            label="time",
            top=max(1, a.virtual_ms, b.virtual_ms),
            format=format_time,
            steps=TIME_STEPS_MS,
            is_exact=True,
        ),
        y=Axis(label="accuracy", top=1.0, format=format_share),
        lines=_pair(labels, values, is_step=True),
        table=DataTable(
            columns=("run", "time", "accuracy"),
            rows=tuple(
                (label, format_time(x), show(y, format_share))
                for label, points in zip(labels, values, strict=True)
                for x, y in points
            ),
            source="globals.csv",
        ),
        is_wide=True,
    )


def _chart_gini(a: RunResult, b: RunResult, labels: tuple[str, str]) -> Chart:
    values = tuple(
        [(float(point.round), point.gini) for point in list_fairness(run)] for run in (a, b)
    )
    return _chart_pair(
        "fairness",
        "Gini of rewards",
        "Over what each honest device was paid so far; 0 is even.",
        labels,
        values,
        top=1.0,
        write=format_index,
    )


def _by_round(
    key: str,
    title: str,
    caption: str,
    both: tuple[Sequence[RoundTotals], Sequence[RoundTotals]],
    labels: tuple[str, str],
    read: Read,
    *,
    top: float = 1.0,
    write: Format = format_share,
) -> Chart:
    values = tuple([(float(row.round), read(row)) for row in totals] for totals in both)
    return _chart_pair(key, title, caption, labels, values, top=top, write=write)


def _chart_pair(
    key: str,
    title: str,
    caption: str,
    labels: tuple[str, str],
    values: tuple[Sequence[tuple[float, float | None]], ...],
    *,
    top: float,
    write: Format,
) -> Chart:
    rounds = sorted({round(x) for points in values for x, _ in points})
    known = [dict(points) for points in values]
    return Chart(
        key=key,
        title=title,
        caption=caption,
        x=round_axis(rounds),
        y=Axis(label=title, top=top or 1.0, format=write),
        lines=_pair(labels, values, is_step=False),
        table=DataTable(
            columns=("round", *labels),
            rows=tuple(
                (str(number), *(show(held.get(number), write) for held in known))
                for number in rounds
            ),
            source="rounds.csv",
        ),
    )
