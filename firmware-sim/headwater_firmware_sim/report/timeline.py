"""Accuracy over the time of a run, with what was settled and what broke under it."""

from collections import defaultdict
from typing import Final

from headwater_firmware_sim.report.chart import (
    SERIES,
    Axis,
    Chart,
    Colour,
    DataTable,
    Lane,
    Line,
    Mark,
    make_line,
    show,
)
from headwater_firmware_sim.report.economy import list_delegate_lanes
from headwater_firmware_sim.report.measures import list_round_totals
from headwater_firmware_sim.report.numbers import TIME_STEPS_MS, format_share, format_time
from headwater_firmware_sim.results import FaultRow, RunResult

MAX_SHARD_LINES: Final = 8
"""Past that many shards, their lines share a colour and a place in the legend."""
MAX_CHECKPOINT_LANES: Final = 4
"""Past that many shards, their checkpoints share a lane."""
MAX_FAULT_LANES: Final = 12


def chart_accuracy(result: RunResult) -> Chart:
    """Each shard's model after each round, the merged model, checkpoints, merges, faults."""
    top = max(
        [result.virtual_ms, *(row.closed_ms for row in result.rounds)]
        + [row.until_ms for row in result.faults]
    )
    lasting = [row for row in result.faults if row.until_ms > row.from_ms]
    return Chart(
        key="accuracy",
        title="Accuracy on held-out examples",
        caption=(
            "Each shard's model when its round closed, and the merged model of the main chain. "
            "Below, on the same axis: checkpoints settled, merges, elections, delegates punished, "
            "and what the scenario broke; faults that last are shaded."
        ),
        x=Axis(
            label="virtual time" if result.mode == "virtual" else "time",
            top=max(1, top),
            format=format_time,
            steps=TIME_STEPS_MS,
            is_exact=True,
        ),
        y=Axis(label="accuracy", top=1.0, format=format_share),
        lines=(*_shard_lines(result), _global_line(result)),
        bands=tuple(_mark(row) for row in lasting),
        lanes=(
            *_checkpoint_lanes(result),
            *list_delegate_lanes(result),
            *_fault_lanes(result),
        ),
        table=DataTable(
            columns=("closed at", "shard", "round", "accuracy", "loss"),
            rows=tuple(
                (
                    format_time(row.closed_ms),
                    row.shard,
                    str(row.round),
                    show(row.accuracy, format_share),
                    show(row.loss, lambda value: f"{value:.4f}"),
                )
                for row in result.rounds
            ),
            source="rounds.csv",
        ),
        is_wide=True,
    )


def _shard_lines(result: RunResult) -> list[Line]:
    by_shard: defaultdict[str, list[tuple[float, float | None]]] = defaultdict(list)
    for row in result.rounds:
        by_shard[row.shard].append((row.closed_ms, row.accuracy))
    is_crowd = len(by_shard) > MAX_SHARD_LINES
    lines = [
        make_line(
            shard,
            Colour.SLATE if is_crowd else SERIES[index % len(SERIES)],
            sorted(by_shard[shard], key=lambda point: point[0]),
            group=f"{len(by_shard)} shards" if is_crowd else "",
        )
        for index, shard in enumerate(sorted(by_shard, key=natural))
    ]
    if is_crowd:
        closed = {row.round: row.closed_ms for row in result.rounds}
        mean = [
            (float(closed[row.round]), row.accuracy) for row in list_round_totals(result.rounds)
        ]
        lines.append(make_line("mean of shards", Colour.BLUE, sorted(mean), is_strong=True))
    return lines


def _global_line(result: RunResult) -> Line:
    return make_line(
        "merged model",
        Colour.INK,
        [(row.at_ms, row.accuracy) for row in result.globals],
        is_step=True,
        is_dashed=True,
        is_strong=True,
    )


def _checkpoint_lanes(result: RunResult) -> list[Lane]:
    lanes: defaultdict[str, list[Mark]] = defaultdict(list)
    shards = sorted({row.shard for row in result.checkpoints}, key=natural)
    for row in result.checkpoints:
        at = format_time(row.at_ms)
        name = f"checkpoints of {row.shard}"
        if len(shards) > MAX_CHECKPOINT_LANES:
            name = "checkpoints of all shards"
        lanes[name].append(
            Mark(
                start=row.at_ms,
                end=row.at_ms,
                count=1,
                label=f"checkpoint {row.number} of {row.shard}, {at}",
            )
        )
    merges = tuple(
        Mark(
            start=row.at_ms,
            end=row.at_ms,
            count=1,
            label=f"merge {row.epoch}, {format_time(row.at_ms)}",
        )
        for row in result.globals
    )
    colours = {name: SERIES[index] for index, name in enumerate(sorted(lanes, key=natural))}
    drawn = [
        Lane(name=name, colour=colours[name], marks=tuple(lanes[name]))
        for name in sorted(lanes, key=natural)
    ]
    return [*drawn, Lane(name="merges", colour=Colour.SLATE, marks=merges)] if merges else drawn


def _fault_lanes(result: RunResult) -> list[Lane]:
    by_kind: defaultdict[str, list[FaultRow]] = defaultdict(list)
    for row in result.faults:
        by_kind[row.kind].append(row)
    shown = sorted(by_kind)[:MAX_FAULT_LANES]
    return [
        Lane(
            name=f"{kind.replace('_', ' ')} · {sum(row.count for row in by_kind[kind]):,}",
            colour=Colour.RED,
            marks=tuple(_mark(row) for row in by_kind[kind]),
        )
        for kind in shown
    ]


def _mark(row: FaultRow) -> Mark:
    span = format_time(row.from_ms)
    if row.until_ms > row.from_ms:
        span = f"{span} to {format_time(row.until_ms)}"
    count = f"{row.count:,} times, " if row.count > 1 else ""
    return Mark(
        start=row.from_ms,
        end=row.until_ms,
        count=row.count,
        label=f"{row.kind.replace('_', ' ')}, {row.target}, {count}{span}",
    )


def natural(name: str) -> tuple[str, int]:
    """Sorts `shard-2` before `shard-10`."""
    stem, _, number = name.rpartition("-")
    return (stem, int(number)) if number.isdecimal() else (name, 0)
