"""`report.html` of one run.

What differs between two runs of one seed, the time on the clock and the memory, stays in
`result.json`; so their reports are equal byte for byte.
"""

from collections.abc import Iterable, Mapping, Sequence

from headwater_firmware_sim.report import measures
from headwater_firmware_sim.report.chart import BarChart, Chart, DataTable, Tile, show
from headwater_firmware_sim.report.economy import (
    chart_deposits,
    list_units,
    make_economy_tiles,
    table_elections,
    table_penalties,
)
from headwater_firmware_sim.report.measures import RoundTotals, list_round_totals, share
from headwater_firmware_sim.report.numbers import (
    format_bytes,
    format_count,
    format_index,
    format_share,
    format_time,
)
from headwater_firmware_sim.report.page import Page, Section, render_page
from headwater_firmware_sim.report.rewards import chart_fairness, chart_rewards
from headwater_firmware_sim.report.rounds import (
    chart_backdoor,
    chart_bytes,
    chart_caught,
    chart_participation,
    chart_rejected,
)
from headwater_firmware_sim.report.timeline import chart_accuracy
from headwater_firmware_sim.results import HONEST, DeviceRow, JsonValue, RunResult


def render_report(result: RunResult) -> str:
    """The report as HTML text; the same result gives the same text."""
    totals = list_round_totals(result.rounds)
    learning: list[Chart | BarChart] = [chart_accuracy(result)]
    if any(row.backdoor is not None for row in result.rounds):
        learning.append(chart_backdoor(result))
    attackers: tuple[Chart | BarChart, ...] = (chart_caught(totals),) if result.attackers else ()
    rewards: list[Chart | BarChart] = [chart_rewards(result), chart_fairness(result)]
    if any(row.deposit for row in result.fleet):
        rewards.append(chart_deposits(result))
    return render_page(
        Page(
            title=result.title or result.scenario,
            kicker=f"{result.scenario} · seed {result.seed} · {result.mode}",
            lead=_describe(result),
            tiles=_make_tiles(result, totals),
            sections=(
                Section(title="Learning", charts=tuple(learning)),
                Section(
                    title="Taking part",
                    charts=(
                        chart_participation(totals),
                        chart_rejected(totals),
                        chart_bytes(result),
                        *attackers,
                    ),
                ),
                Section(title="Rewards", charts=tuple(rewards)),
            ),
            details=(
                ("Where it ended", _table_of(_list_final(result), "result.json")),
                ("Devices by class", _table_classes(result.fleet)),
                ("Units", _table_of(list_units(result), "result.json")),
                ("Elections", table_elections(result)),
                ("Delegates punished", table_penalties(result)),
                (
                    "Counts",
                    _table_of(
                        ((k, format_count(v)) for k, v in result.counts.items()), "result.json"
                    ),
                ),
                ("Scenario with all defaults", _table_of(flatten(result.config), "result.json")),
            ),
            footer=(
                "Times are the run's own; the same scenario and seed give this file byte for byte."
            ),
        )
    )


def _describe(result: RunResult) -> str:
    rounds = max((row.round for row in result.rounds), default=0)
    parts = [
        f"{_plural(result.devices, 'device')} in {_plural(result.shards, 'shard')}, "
        f"{_plural(rounds, 'round')} in {format_time(result.virtual_ms)}"
    ]
    if result.attackers:
        parts.append(f", {_plural(result.attackers, 'attacker')} among them")
    parts.append("." if result.final.is_complete else "; not every round was closed and settled.")
    if result.final.accuracy is not None:
        model = "merged model" if result.final.merges else "model"
        parts.append(
            f" The {model} is right on {format_share(result.final.accuracy)} of held-out examples."
        )
    return "".join(parts)


def _make_tiles(result: RunResult, totals: Sequence[RoundTotals]) -> tuple[Tile, ...]:
    final = result.final
    fairness = measures.final_fairness(result)
    judged = sum(row.attackers_judged for row in totals)
    caught = sum(row.attackers_refused for row in totals)
    honest = sum(row.honest_judged for row in totals)
    refused = sum(row.honest_refused for row in totals)
    cohort = sum(row.cohort for row in totals)
    updates = sum(row.updates for row in totals)
    tiles = [
        Tile(
            name="Accuracy",
            value=show(final.accuracy, format_share),
            note=f"after {_plural(final.merges, 'merge')}",
        ),
        Tile(
            name="Took part",
            value=show(share(updates, cohort), format_share),
            note=f"{updates:,} of {cohort:,} updates asked for",
        ),
    ]
    if result.attackers:
        tiles.append(
            Tile(
                name="Attacks refused",
                value=show(share(caught, judged), format_share),
                note=f"{caught:,} of {judged:,} updates",
            )
        )
    tiles += [
        Tile(
            name="Honest refused",
            value=show(share(refused, honest), format_share),
            note=f"{refused:,} of {honest:,} updates",
        ),
        Tile(
            name="Sent by devices",
            value=format_bytes(sum(row.bytes_up for row in totals)),
            note=f"{sum(row.received for row in totals):,} messages",
        ),
        Tile(
            name="Gini of rewards",
            value=show(fairness.gini, format_index),
            note=f"honest devices; Jain {show(fairness.jain, format_index)}",
        ),
        *make_economy_tiles(result),
        Tile(
            name="Checkpoints",
            value=f"{len(result.checkpoints):,}",
            note=f"main chain at height {final.main_chain_height:,}",
        ),
        Tile(
            name="Audit",
            value=final.audit if final.audit in {"ok", "not run"} else "failed",
            note="ledgers replayed from genesis" if final.audit != "not run" else "",
        ),
    ]
    return tuple(tiles)


def _list_final(result: RunResult) -> Iterable[tuple[str, str]]:
    final = result.final
    yield "complete", "yes" if final.is_complete else "no"
    yield "audit", final.audit
    yield "model", final.model
    yield "accuracy", show(final.accuracy, format_share)
    yield "loss", show(final.loss, format_count)
    if final.backdoor is not None:
        yield "backdoor", format_share(final.backdoor)
    yield "merges", format_count(final.merges)
    yield "supply", format_count(final.supply)
    yield "main chain, height", format_count(final.main_chain_height)
    yield "main chain, digest", final.main_chain_digest
    for shard, height in sorted(final.chain_heights.items()):
        yield f"{shard}, height", format_count(height)
        yield f"{shard}, digest", final.chain_digests.get(shard, "–")


def _table_classes(fleet: Sequence[DeviceRow]) -> DataTable:
    groups: dict[tuple[str, str], list[DeviceRow]] = {}
    for row in fleet:
        groups.setdefault((row.device_class, row.attack), []).append(row)
    return DataTable(
        columns=(
            *("class", "attack", "devices", "accepted", "rejected", "mean reputation"),
            *("mean reward", "boots", "brown-outs", "torn writes"),
        ),
        rows=tuple(
            (
                device_class,
                "–" if attack == HONEST else attack,
                format_count(len(rows)),
                format_count(sum(row.accepted for row in rows)),
                format_count(sum(row.rejected for row in rows)),
                format_share(sum(row.reputation for row in rows) / len(rows) / 10_000),
                format_count(round(sum(row.reward for row in rows) / len(rows))),
                format_count(sum(row.boots for row in rows)),
                format_count(sum(row.brownouts for row in rows)),
                format_count(sum(row.torn_writes for row in rows)),
            )
            for (device_class, attack), rows in sorted(groups.items())
        ),
        source="devices.csv",
    )


def _table_of(rows: Iterable[tuple[str, str]], source: str) -> DataTable:
    return DataTable(columns=("name", "value"), rows=tuple(rows), source=source)


def flatten(value: JsonValue | Mapping[str, JsonValue], key: str = "") -> list[tuple[str, str]]:
    """Leaves of a scenario as (dotted key, text); entries of a list by their index."""
    if isinstance(value, Mapping):
        pairs = [(str(name), entry) for name, entry in value.items()]
    elif isinstance(value, list) and any(isinstance(entry, dict | list) for entry in value):
        pairs = [(str(index), entry) for index, entry in enumerate(value)]
    else:
        return [(key, _say(value))]
    return [
        leaf for name, entry in pairs for leaf in flatten(entry, f"{key}.{name}" if key else name)
    ]


def _say(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(_say(entry) for entry in value) or "–"
    return str(value)


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
