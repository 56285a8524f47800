"""A run's result without running anything: made from a seed, with all kinds of rows."""

import random
from dataclasses import replace

from headwater_firmware_sim.results import (
    HONEST,
    CheckpointRow,
    DeviceRoundRow,
    DeviceRow,
    EconomyRow,
    ElectionRow,
    FaultRow,
    FinalRow,
    GlobalRow,
    HoldingsRow,
    PenaltyRow,
    RoundRow,
    RunResult,
    SeatRow,
)

ROUND_MS = 20_000


def make_result(
    *,
    seed: int = 1,
    devices: int = 24,
    shards: int = 2,
    rounds: int = 5,
    title: str = "A fleet in the field",
    with_faults: bool = True,
) -> RunResult:
    draw = random.Random(seed)
    names = [f"shard-{index}" for index in range(shards)]
    classes = ("gateway-powered", "battery", "solar")
    fleet = [
        DeviceRow(
            device=index,
            id=f"{index:064x}",
            shard=names[index % shards],
            device_class=classes[index % 3],
            attack="sign_flip" if index % 8 == 7 else HONEST,
            examples=20 + index,
            accepted=0,
            rejected=0,
            reputation=draw.randrange(4_000, 9_000),
            reward=0,
            signed=rounds,
            boots=1 + index % 2,
            brownouts=index % 3,
            torn_writes=index % 2,
            battery_thousandths=1_000 - index,
            deposit=1_000,
            penalty=500 if index % 8 == 7 else 0,
            quarantines=3 if index % 8 == 7 else 0,
        )
        for index in range(devices)
    ]
    rewards = dict.fromkeys(range(devices), 0)
    entries: list[DeviceRoundRow] = []
    rows: list[RoundRow] = []
    for number in range(1, rounds + 1):
        for shard in names:
            outcomes = []
            for row in fleet:
                if row.shard != shard:
                    continue
                outcome = "ok"
                if row.attack != HONEST and draw.random() < 0.95:
                    outcome = "low_score"
                elif draw.random() < 0.1:
                    outcome = draw.choice(["absent", "stale_round", "low_score"])
                reward = draw.randrange(80, 120) if outcome == "ok" else 0
                rewards[row.device] += reward
                outcomes.append(
                    DeviceRoundRow(
                        shard=shard,
                        round=number,
                        device=row.device,
                        device_class=row.device_class,
                        attack=row.attack,
                        outcome=outcome,
                        score=draw.randrange(-500, 9_000),
                        reward=reward,
                        examples=row.examples,
                    )
                )
            entries += outcomes
            rows.append(make_round(shard, number, names.index(shard), outcomes, draw))
    fleet = [replace(row, reward=rewards[row.device]) for row in fleet]
    end_ms = rounds * ROUND_MS + 5_000
    merges = tuple(
        GlobalRow(
            epoch=index + 1,
            at_ms=(index + 1) * 2 * ROUND_MS + 2_500,
            accuracy=1 - 0.7 / (2 * index + 2),
            loss=1 / (index + 1),
            backdoor=None,
            model=f"{index:064x}",
        )
        for index in range(rounds // 2)
    )
    faults = (
        FaultRow(kind="partition", from_ms=32_000, until_ms=51_000, target="shard-1", count=1),
        FaultRow(
            kind="gateway_crash", from_ms=70_000, until_ms=74_500, target="gateway-0", count=1
        ),
        *(
            FaultRow(
                kind=kind, from_ms=at_ms, until_ms=at_ms, target="all", count=draw.randrange(1, 5)
            )
            for kind in ("reboot", "torn_write", "brownout")
            for at_ms in range(1_000, end_ms, draw.randrange(5_000, 9_000))
        ),
    )
    return RunResult(
        scenario="field",
        title=title,
        seed=seed,
        mode="virtual",
        devices=devices,
        shards=shards,
        attackers=sum(row.attack != HONEST for row in fleet),
        virtual_ms=end_ms,
        wall_ms=1_234,
        peak_memory_bytes=10**8,
        counts={"blocks": 60, "messages": 1_200},
        rounds=tuple(sorted(rows, key=lambda row: (row.closed_ms, row.shard))),
        globals=merges,
        checkpoints=tuple(
            CheckpointRow(shard=shard, number=number, at_ms=number * 2 * ROUND_MS + 1_000 + index)
            for number in range(1, rounds // 2 + 1)
            for index, shard in enumerate(names)
        ),
        elections=tuple(
            ElectionRow(
                epoch=number,
                at_ms=merges[number - 1].at_ms if number else 0,
                height=10 * number,
                delegates=4 * shards - (number > 0),
                voting_power=4_000_000 * shards,
                moved=number % 2,
                left=int(number == 1),
            )
            for number in range(len(merges) + 1)
        ),
        seats=tuple(
            SeatRow(
                epoch=number,
                shard=shard,
                validator=f"{4 * names.index(shard) + seat:064x}",
                voting_power=1_000_000,
                behaviour="all" if seat == 3 else HONEST,
            )
            for number in range(len(merges) + 1)
            for shard in names
            for seat in range(4)
        ),
        penalties=(
            PenaltyRow(
                at_ms=21_000,
                validator=f"{3:064x}",
                behaviour="all",
                offence="double_vote",
                chain="shard-0",
                place=7,
                height=9,
                slashed=50_000,
                rewarded=5_000,
                tombstoned=True,
            ),
        ),
        economy=EconomyRow(
            supply_before=10**9,
            supply_after=10**9,
            round_budgets_paid=sum(rewards.values()),
            rewards_paid=sum(rewards.values()),
            burned=46_500,
            attackers=HoldingsRow(before=3_000, after=1_500, least_change=-500, most_change=-500),
            honest=HoldingsRow(before=21_000, after=31_000, least_change=90, most_change=600),
        ),
        faults=faults if with_faults else (),
        fleet=tuple(fleet),
        device_rounds=tuple(entries),
        final=FinalRow(
            main_chain_digest="ab" * 32,
            main_chain_height=40,
            chain_digests=dict.fromkeys(names, "cd" * 32),
            chain_heights=dict.fromkeys(names, 30),
            model="ef" * 32,
            accuracy=merges[-1].accuracy if merges else None,
            loss=0.3,
            backdoor=None,
            merges=len(merges),
            supply=10**9,
            is_complete=True,
            audit="ok",
        ),
        config={
            "name": "field",
            "seed": seed,
            "fleet": {"devices": devices, "classes": [{"name": name} for name in classes]},
        },
    )


def make_round(
    shard: str, number: int, lag: int, outcomes: list[DeviceRoundRow], draw: random.Random
) -> RoundRow:
    rejected: dict[str, int] = {}
    for row in outcomes:
        if row.outcome not in {"ok", "absent"}:
            rejected[row.outcome] = rejected.get(row.outcome, 0) + 1
    judged = [row for row in outcomes if row.outcome in {"ok", "low_score"}]
    bad = [row for row in judged if row.attack != HONEST]
    good = [row for row in judged if row.attack == HONEST]
    return RoundRow(
        shard=shard,
        round=number,
        task="t",
        epoch=(number - 1) // 2,
        opened_ms=(number - 1) * ROUND_MS,
        closed_ms=number * ROUND_MS + lag * 700,
        cohort=len(outcomes),
        updates=len(judged),
        accepted=sum(row.outcome == "ok" for row in outcomes),
        examples=sum(row.examples for row in judged),
        received=len(outcomes) + 2,
        bytes_up=900 * (len(outcomes) + 2),
        bytes_per_update=890,
        rejected=dict(sorted(rejected.items())),
        attackers_judged=len(bad),
        attackers_refused=sum(row.outcome != "ok" for row in bad),
        honest_judged=len(good),
        honest_refused=sum(row.outcome != "ok" for row in good),
        paid=sum(row.reward for row in outcomes),
        accuracy=1 - 0.8 / (number + lag * 0.3) - draw.random() * 0.03,
        loss=2 / number,
        backdoor=None,
        model="12" * 32,
    )
