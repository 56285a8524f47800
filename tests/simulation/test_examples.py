"""Every example scenario, small: it runs to its end, and its ledgers replay."""

import dataclasses
from pathlib import Path

import pytest

from headwater_firmware_sim.results import RunResult
from headwater_firmware_sim.scenario.model import Scenario
from headwater_firmware_sim.scenario.reader import load_scenario
from headwater_firmware_sim.stage import make_stage
from headwater_firmware_sim.virtual.folder import audit_run
from headwater_firmware_sim.virtual.run import VirtualRun

FOLDER = Path(__file__).parents[2] / "examples" / "scenarios"
NAMES = sorted(path.stem for path in FOLDER.glob("*.toml"))
MAX_DEVICES = 24


def make_small(name: str) -> Scenario:
    scenario = load_scenario(FOLDER / f"{name}.toml")
    attackers = tuple(
        dataclasses.replace(entry, count=min(entry.count or 0, 1)) if entry.count else entry
        for entry in scenario.attackers
    )
    return dataclasses.replace(
        scenario,
        devices=min(scenario.devices, MAX_DEVICES),
        rounds=min(scenario.rounds, 2),
        attackers=attackers,
    )


def run_small(name: str) -> tuple[VirtualRun, RunResult]:
    run = VirtualRun(make_stage(make_small(name), folder=FOLDER), keeps_payloads=True)
    run.run()
    return run, run.result(audit=audit_run(run))


def test_there_are_ten_scenarios_and_more() -> None:
    assert len(NAMES) >= 10


@pytest.mark.parametrize("name", NAMES)
def test_an_example_runs_to_its_end_and_its_ledgers_replay(name: str) -> None:
    run, result = run_small(name)
    assert result.final.audit == "ok"
    assert result.final.is_complete
    num_shards = len(run.stage.plan.genesis.shards)
    assert len(result.rounds) == run.stage.scenario.total_rounds * num_shards
    assert result.final.merges >= 1
    assert sum(row.accepted for row in result.rounds) > 0
    assert {row.device for row in result.fleet} == set(range(result.devices))
