"""A scenario's economy: deposits are locked, lost and returned, liars slashed, nobody else."""

from dataclasses import replace
from pathlib import Path

import pytest

from headwater_firmware_sim.report.run_report import render_report
from headwater_firmware_sim.results import HONEST, RunResult
from headwater_firmware_sim.scenario.reader import ScenarioError, parse_scenario
from headwater_firmware_sim.stage import make_stage
from headwater_firmware_sim.virtual.folder import audit_run
from headwater_firmware_sim.virtual.run import VirtualRun

TEXT = """
name = "stakes"
devices = 12
rounds = 8
[network]
shards = 2
gateways = "delegate"
[task]
local_epochs = 4
collect_s = 20.0
[data]
examples = 8
[economy]
device_deposit = 1000
quarantine_strikes = 2
penalty = 0.25
delegators = 2
[[attackers]]
kind = "sign_flip"
count = 2
[delegates]
byzantine = 1
"""


def run_text(text: str) -> tuple[VirtualRun, RunResult]:
    run = VirtualRun(make_stage(parse_scenario(text), folder=Path()), keeps_payloads=True)
    run.run()
    return run, run.result(audit=audit_run(run))


@pytest.fixture(scope="module")
def played() -> tuple[VirtualRun, RunResult]:
    return run_text(TEXT)


def test_attackers_lose_deposits_and_honest_devices_none(
    played: tuple[VirtualRun, RunResult],
) -> None:
    _, result = played
    assert (result.final.is_complete, result.final.audit) == (True, "ok")
    for row in result.fleet:
        assert row.deposit == 1_000
        assert (row.penalty > 0) == (row.attack != HONEST)
    economy = result.economy
    lost = sum(row.penalty for row in result.fleet)
    assert economy.attackers.before == 2_000
    assert economy.attackers.after == 2_000 - lost
    assert economy.honest.least_change > 0
    assert economy.burned == lost + sum(row.slashed - row.rewarded for row in result.penalties)
    assert economy.supply_before == economy.supply_after == result.final.supply
    assert (economy.deposits_left, economy.unclaimed) == (0, 0)
    assert economy.rewards_paid == economy.round_budgets_paid == sum(r.paid for r in result.rounds)


def test_liars_are_punished_and_not_elected_again(played: tuple[VirtualRun, RunResult]) -> None:
    run, result = played
    liars = {who.hex() for who in run.liars}
    assert {row.validator for row in result.penalties} == liars
    assert {row.behaviour for row in result.penalties} == {"all"}
    assert {row.validator for row in result.seats if row.behaviour != HONEST} == liars
    first, second, *_ = result.elections
    assert (first.epoch, first.delegates, first.left) == (0, 8, 0)
    assert (second.epoch, second.delegates, second.left) == (1, 6, 2)
    assert len(result.elections) == result.final.merges + 1
    later = [row for row in result.seats if row.epoch > 0]
    assert not any(row.validator in liars for row in later)
    for row in result.elections:
        seats = [seat for seat in result.seats if seat.epoch == row.epoch]
        assert sum(seat.voting_power for seat in seats) == row.voting_power


def test_delegators_change_what_an_election_counts(played: tuple[VirtualRun, RunResult]) -> None:
    _, result = played
    powers = {
        tuple(sorted(seat.voting_power for seat in result.seats if seat.epoch == row.epoch))
        for row in result.elections
    }
    assert len(powers) > 2


def test_the_report_tells_of_it(played: tuple[VirtualRun, RunResult]) -> None:
    _, result = played
    page = render_report(result)
    for words in ("Attackers lost", "Delegates punished", "Deposits lost", "elections"):
        assert words in page
    assert "double vote" in page
    quiet = replace(result, penalties=(), elections=(), seats=(), fleet=())
    assert "Deposits lost" not in render_report(quiet)


def test_the_same_seed_gives_the_same_economy(played: tuple[VirtualRun, RunResult]) -> None:
    _, first = played
    _, second = run_text(TEXT)
    assert first.economy == second.economy
    assert (first.elections, first.penalties) == (second.elections, second.penalties)
    assert first.final == second.final


def test_deposits_reach_the_ledger_through_loss_and_crashes() -> None:
    _, result = run_text(
        TEXT.replace("rounds = 8", "rounds = 3")
        + '[[faults]]\nkind = "loss"\nrate = 0.3\n'
        + '[[faults]]\nkind = "gateway_crash"\nrate = 200.0\nfor_s = 5.0\n'
    )
    assert result.final.is_complete
    assert all(row.deposit == 1_000 for row in result.fleet)


def test_nothing_is_asked_by_default() -> None:
    scenario = parse_scenario('name = "x"\ndevices = 4\nrounds = 1\n')
    stage = make_stage(scenario, folder=Path())
    assert stage.lock_deposits() == []
    incentives = stage.plan.genesis.parameters.incentives
    assert (incentives.device_deposit, incentives.quarantine_strikes) == (0, 0)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("penalty = 0.5", ["economy.penalty", "quarantine_strikes"]),
        ("device_deposit = -1", ["economy.device_deposit", "0 to"]),
        ("deposit = 5", ["economy.deposit", "device_deposit"]),
    ],
)
def test_an_economy_that_makes_no_sense_is_refused(line: str, words: list[str]) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse_scenario(f'name = "x"\ndevices = 4\nrounds = 1\n[economy]\n{line}\n')
    for word in words:
        assert word in str(caught.value)


def test_a_genesis_holds_so_many_accounts_and_no_more() -> None:
    text = 'name = "x"\ndevices = {}\nrounds = 1\n[economy]\ndevice_deposit = 1\n'
    parse_scenario(text.format(99_999))
    with pytest.raises(ScenarioError, match="100001 accounts"):
        parse_scenario(text.format(100_000))
