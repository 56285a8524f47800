"""Where the units went: what attacks cost, who was elected, who was punished."""

from collections import defaultdict
from collections.abc import Iterable

from headwater_firmware_sim.report.chart import (
    Bar,
    BarChart,
    Colour,
    DataTable,
    Lane,
    Mark,
    Tile,
)
from headwater_firmware_sim.report.measures import compute_quantile
from headwater_firmware_sim.report.numbers import format_count, format_time
from headwater_firmware_sim.results import HONEST, ElectionRow, PenaltyRow, RunResult

SHOWN_DIGITS = 12
"""Of a validator's key."""


def make_economy_tiles(result: RunResult) -> tuple[Tile, ...]:
    """What attackers lost, where deposits were locked, and how many delegates were punished."""
    tiles: list[Tile] = []
    lost = sum(row.penalty for row in result.fleet if row.attack != HONEST)
    locked = sum(row.deposit for row in result.fleet if row.attack != HONEST)
    if locked:
        tiles.append(
            Tile(
                name="Attackers lost",
                value=format_count(lost),
                note=f"of {locked:,} units of deposits",
            )
        )
    if result.penalties:
        punished = {row.validator for row in result.penalties}
        tiles.append(
            Tile(
                name="Delegates punished",
                value=format_count(len(punished)),
                note=f"{sum(row.slashed for row in result.penalties):,} units slashed",
            )
        )
    return tuple(tiles)


def chart_deposits(result: RunResult) -> BarChart:
    """What a device lost of its deposit, by how it behaved."""
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for row in result.fleet:
        groups[row.attack].append(row.penalty)
    names = {
        attack: "honest" if attack == HONEST else attack.replace("_", " ") for attack in groups
    }
    ordered = [(attack, sorted(groups[attack])) for attack in sorted(groups)]
    means = {attack: sum(lost) / len(lost) for attack, lost in ordered}
    spans = {
        attack: tuple(compute_quantile(lost, thousandths=share) for share in (100, 900))
        for attack, lost in ordered
    }
    return BarChart(
        key="deposits",
        title="Deposits lost",
        caption=(
            "Units that a device lost of its deposit by coming back from quarantine and going on "
            "as before: the mean, and from the lowest to the highest tenth."
        ),
        bars=tuple(
            Bar(
                name=f"{names[attack]} · {len(lost):,}",
                value=means[attack],
                low=spans[attack][0],
                high=spans[attack][1],
                text=format_count(round(means[attack])),
                colour=Colour.BLUE if attack == HONEST else Colour.RED,
            )
            for attack, lost in ordered
        ),
        table=DataTable(
            columns=("behaviour", "devices", "mean", "lowest tenth", "highest tenth"),
            rows=tuple(
                (
                    names[attack],
                    format_count(len(lost)),
                    format_count(round(means[attack])),
                    *(format_count(value) for value in spans[attack]),
                )
                for attack, lost in ordered
            ),
            source="devices.csv",
        ),
    )


def list_delegate_lanes(result: RunResult) -> list[Lane]:
    """Elections and penalties on the axis of time."""
    lanes: list[Lane] = []
    elections = tuple(_mark_election(row) for row in result.elections if row.epoch)
    if elections:
        lanes.append(Lane(name="elections", colour=Colour.SLATE, marks=elections))
    penalties = tuple(_mark_penalty(row) for row in result.penalties)
    if penalties:
        lanes.append(Lane(name="delegates punished", colour=Colour.RED, marks=penalties))
    return lanes


def table_elections(result: RunResult) -> DataTable:
    """Who was elected, epoch by epoch."""
    return DataTable(
        columns=("epoch", "at", "delegates", "voting power", "moved", "not elected again"),
        rows=tuple(
            (
                format_count(row.epoch),
                format_time(row.at_ms),
                format_count(row.delegates),
                format_count(row.voting_power),
                format_count(row.moved),
                format_count(row.left),
            )
            for row in result.elections
        ),
        source="elections.csv",
    )


def table_penalties(result: RunResult) -> DataTable:
    """Who was punished, and for what."""
    return DataTable(
        columns=("at", "delegate", "behaviour", "offence", "chain", "slashed", "ends as"),
        rows=tuple(
            (
                format_time(row.at_ms),
                row.validator[:SHOWN_DIGITS],
                row.behaviour,
                row.offence.replace("_", " "),
                row.chain,
                format_count(row.slashed),
                "out for good" if row.tombstoned else "jailed",
            )
            for row in result.penalties
        ),
        source="penalties.csv",
    )


def list_units(result: RunResult) -> Iterable[tuple[str, str]]:
    """The units of the main chain at the end, as names and numbers."""
    economy = result.economy
    yield "supply before", format_count(economy.supply_before)
    yield "supply after, with what was burned", format_count(economy.supply_after)
    yield "paid by rounds", format_count(economy.round_budgets_paid)
    yield "of these claimed", format_count(economy.rewards_paid)
    yield "not claimed", format_count(economy.unclaimed)
    yield "returned to the sponsor", format_count(economy.returned_to_sponsor)
    yield "deposits left", format_count(economy.deposits_left)
    yield "burned", format_count(economy.burned)
    for name, group in (("honest devices", economy.honest), ("attackers", economy.attackers)):
        yield f"{name}, before", format_count(group.before)
        yield f"{name}, after", format_count(group.after)


def _mark_election(row: ElectionRow) -> Mark:
    changes = [f"{row.moved} moved" if row.moved else "", f"{row.left} left" if row.left else ""]
    told = ", ".join(change for change in changes if change)
    return Mark(
        start=row.at_ms,
        end=row.at_ms,
        count=1,
        label=f"epoch {row.epoch}, {row.delegates} delegates"
        + (f", {told}" if told else "")
        + f", {format_time(row.at_ms)}",
    )


def _mark_penalty(row: PenaltyRow) -> Mark:
    return Mark(
        start=row.at_ms,
        end=row.at_ms,
        count=1,
        label=(
            f"{row.validator[:SHOWN_DIGITS]}, {row.offence.replace('_', ' ')}, "
            f"{row.slashed:,} units, {format_time(row.at_ms)}"
        ),
    )
