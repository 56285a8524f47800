"""Charts by round: who took part, who was refused and why, bytes, attackers."""

from collections.abc import Callable, Sequence

from headwater_firmware_sim.report.chart import (
    SERIES,
    Axis,
    Chart,
    Colour,
    DataTable,
    Stack,
    make_line,
    show,
)
from headwater_firmware_sim.report.measures import RoundTotals, share
from headwater_firmware_sim.report.numbers import (
    Format,
    format_bytes,
    format_count,
    format_share,
)
from headwater_firmware_sim.report.timeline import MAX_SHARD_LINES, natural
from headwater_firmware_sim.results import RunResult


def round_axis(rounds: Sequence[int]) -> Axis:
    """The x of charts by round."""
    return Axis(
        label="round",
        top=max(rounds, default=1),
        steps=tuple(n * 10**power for power in range(7) for n in (1, 2, 5)),
        is_slots=True,
    )


def chart_participation(totals: Sequence[RoundTotals]) -> Chart:
    """What became of the devices that a round drew."""
    return _stack(
        "participation",
        "Participation",
        "Devices that the round drew, over all shards: their update was accepted, refused by the "
        "committee, or never reached the ledger.",
        totals,
        (
            ("accepted", Colour.GREEN, lambda row: row.accepted),
            ("refused", Colour.ORANGE, lambda row: row.updates - row.accepted),
            ("missing", Colour.SLATE, lambda row: max(0, row.cohort - row.updates)),
        ),
        format_count,
        label="devices",
    )


def chart_rejected(totals: Sequence[RoundTotals]) -> Chart:
    """Refused updates by reason."""
    reasons = sorted({reason for row in totals for reason in row.rejected})
    return _stack(
        "rejected",
        "Refused by reason",
        "Update messages refused at intake and by the committee, over all shards. A repeat counts "
        "each time.",
        totals,
        [
            (
                reason,
                SERIES[(index + 1) % len(SERIES)],
                lambda row, reason=reason: row.rejected.get(reason, 0),  # type: ignore[misc]
            )
            for index, reason in enumerate(reasons)
        ],
        format_count,
        label="updates",
    )


def chart_bytes(result: RunResult) -> Chart:
    """Bytes that the gateways of each shard received."""
    shards = sorted({row.shard for row in result.rounds}, key=natural)
    rounds = sorted({row.round for row in result.rounds})
    held = {(row.shard, row.round): row for row in result.rounds}
    is_crowd = len(shards) > MAX_SHARD_LINES
    groups = {"all shards": shards} if is_crowd else {shard: [shard] for shard in shards}
    stacks = tuple(
        Stack(
            name=name,
            colour=SERIES[index],
            heights=tuple(
                float(sum(held[s, n].bytes_up for s in members if (s, n) in held)) for n in rounds
            ),
        )
        for index, (name, members) in enumerate(groups.items())
    )
    return Chart(
        key="bytes",
        title="Bytes sent by devices",
        caption="All update messages that reached a gateway, with repeats and refused ones.",
        x=round_axis(rounds),
        y=Axis(label="bytes", top=_highest(stacks), format=format_bytes),
        xs=tuple(rounds),
        stacks=stacks,
        table=DataTable(
            columns=("round", "shard", "bytes", "messages", "bytes an update"),
            rows=tuple(
                (
                    str(row.round),
                    row.shard,
                    format_count(row.bytes_up),
                    format_count(row.received),
                    format_count(row.bytes_per_update),
                )
                for row in result.rounds
            ),
            source="rounds.csv",
        ),
    )


def chart_caught(totals: Sequence[RoundTotals]) -> Chart:
    """Attackers' and honest updates that the committee refused."""
    return Chart(
        key="caught",
        title="Attackers caught",
        caption=(
            "Of the updates that the committee judged, the share that it refused. Attackers "
            "belong at the top, honest devices at the bottom."
        ),
        x=round_axis([row.round for row in totals]),
        y=Axis(label="refused", top=1.0, format=format_share),
        lines=(
            make_line(
                "attackers",
                Colour.RED,
                [(row.round, share(row.attackers_refused, row.attackers_judged)) for row in totals],
            ),
            make_line(
                "honest devices",
                Colour.GREEN,
                [(row.round, share(row.honest_refused, row.honest_judged)) for row in totals],
                is_dashed=True,
            ),
        ),
        table=DataTable(
            columns=("round", "attackers judged", "refused", "honest judged", "refused"),
            rows=tuple(
                (
                    str(row.round),
                    format_count(row.attackers_judged),
                    format_count(row.attackers_refused),
                    format_count(row.honest_judged),
                    format_count(row.honest_refused),
                )
                for row in totals
            ),
            source="rounds.csv",
        ),
    )


def chart_backdoor(result: RunResult) -> Chart:
    """How often a trigger leads the model to the attackers' class."""
    shards = sorted({row.shard for row in result.rounds}, key=natural)
    is_crowd = len(shards) > MAX_SHARD_LINES
    return Chart(
        key="backdoor",
        title="Backdoor",
        caption="Share of triggered examples that a shard's model takes for the attackers' class.",
        x=round_axis([row.round for row in result.rounds]),
        y=Axis(label="backdoor", top=1.0, format=format_share),
        lines=tuple(
            make_line(
                shard,
                Colour.SLATE if is_crowd else SERIES[index],
                [(row.round, row.backdoor) for row in result.rounds if row.shard == shard],
                group=f"{len(shards)} shards" if is_crowd else "",
            )
            for index, shard in enumerate(shards)
        ),
        table=DataTable(
            columns=("round", "shard", "backdoor"),
            rows=tuple(
                (str(row.round), row.shard, show(row.backdoor, format_share))
                for row in result.rounds
            ),
            source="rounds.csv",
        ),
        is_wide=True,
    )


def _stack(
    key: str,
    title: str,
    caption: str,
    totals: Sequence[RoundTotals],
    layers: Sequence[tuple[str, Colour, Callable[[RoundTotals], int]]],
    write: Format,
    *,
    label: str,
) -> Chart:
    stacks = tuple(
        Stack(name=name, colour=colour, heights=tuple(float(get(row)) for row in totals))
        for name, colour, get in layers
    )
    return Chart(
        key=key,
        title=title,
        caption=caption,
        x=round_axis([row.round for row in totals]),
        y=Axis(label=label, top=_highest(stacks), format=write),
        xs=tuple(row.round for row in totals),
        stacks=stacks,
        table=DataTable(
            columns=("round", *(name for name, _, _ in layers)),
            rows=tuple(
                (str(row.round), *(write(get(row)) for _, _, get in layers)) for row in totals
            ),
            source="rounds.csv",
        ),
    )


def _highest(stacks: Sequence[Stack]) -> float:
    columns = zip(*(stack.heights for stack in stacks), strict=True)
    return max((sum(column) for column in columns), default=0.0) or 1.0
