"""A sponsor's next task changes the training program in mid-run, over the air."""

from dataclasses import replace
from pathlib import Path

import pytest

from headwater_firmware_sim.cli import main
from headwater_firmware_sim.scenario.reader import load_scenario
from headwater_firmware_sim.stage import Stage, make_stage
from headwater_firmware_sim.virtual.folder import audit_run
from headwater_firmware_sim.virtual.run import VirtualRun
from headwater_models.program import Program
from headwater_protocol.messages.chunk import count_chunks
from headwater_protocol.messages.topics import Topics

EXAMPLE = Path(__file__).parents[2] / "examples" / "scenarios" / "program-change.toml"
OLD, NEW = Program.load("mlp-64-32-10"), Program.load("har-cnn")
LONG_MS = 3_600_000
STEP_MS = 100


@pytest.fixture
def stage() -> Stage:
    scenario = replace(load_scenario(EXAMPLE), devices=12, faults=())
    return make_stage(scenario, folder=EXAMPLE.parent)


def has_fetched(run: VirtualRun, program: Program) -> bool:
    return all(device.state.program == program.data for device in run.devices)


def run_until_fetched(run: VirtualRun, program: Program) -> None:
    until_ms = run.world.clock.now_ms + LONG_MS
    while not has_fetched(run, program):
        assert run.world.clock.now_ms < until_ms
        run.run_until(run.world.clock.now_ms + STEP_MS)


def forget_program(run: VirtualRun, program: Program) -> None:
    """No broker has it any more, so a device that needs it again is stuck."""
    for shard in run.stage.plan.genesis.shards:
        topics = Topics(run.stage.plan.network, shard)
        for index in range(count_chunks(len(program.data))):
            run.world.broker.publish(topics.chunk(program.digest, index), b"", retain=True)


def test_devices_keep_the_new_program_through_a_power_cut_in_mid_round(stage: Stage) -> None:
    run = VirtualRun(stage, keeps_payloads=True)
    run.start()
    run_until_fetched(run, OLD)
    run_until_fetched(run, NEW)
    assert run.num_closed == 2 * 3
    assert {row.task for row in run.collector.rounds} == {"program-change"}
    forget_program(run, NEW)
    for device in run.devices:
        device.cut_power(again_after_ms=3_000)
    run.run_until(run.world.clock.now_ms + LONG_MS)
    result = run.result(audit=audit_run(run))
    assert result.final.is_complete
    assert result.final.audit == "ok"
    later = [row for row in result.rounds if row.task == "program-change-2"]
    assert sorted((row.round, row.shard) for row in later) == [
        (number, shard) for number in (4, 5, 6) for shard in ("shard-0", "shard-1")
    ]
    assert all(row.accepted == row.cohort == 6 for row in later)
    assert has_fetched(run, NEW)
    for device in run.devices:
        assert device.boots == 2
        assert device.state.residual is not None
        assert device.state.residual.task == "program-change-2"
        assert len(device.state.residual.values) == 4 * NEW.num_parameters
    assert result.counts["tasks_opened"] == 1


def test_a_new_program_learns_what_the_old_one_could_not_know() -> None:
    run = VirtualRun(make_stage(load_scenario(EXAMPLE), folder=EXAMPLE.parent))
    run.run()
    result = run.result()
    assert result.counts["reboot"] > 0
    assert result.final.is_complete
    by_round = {row.round: row.accuracy or 0.0 for row in result.rounds}
    assert by_round[6] > 0.95
    assert by_round[4] < by_round[6]


def test_a_task_that_no_block_has_is_sent_again(stage: Stage) -> None:
    run = VirtualRun(stage)
    sent: list[bytes] = []
    submit = run._sponsor._submit

    def lose_the_first(transaction: bytes) -> None:
        sent.append(transaction)
        if len(sent) > 1:
            submit(transaction)

    run._sponsor._submit = lose_the_first
    run.run()
    assert len(sent) == 2
    assert run.result().final.is_complete


def test_three_tasks_in_a_row_begin_anew_with_the_same_program(stage: Stage) -> None:
    first, *_ = stage.scenario.next_task
    again = replace(first, model=None, rounds=1)
    tasks = (again, replace(first, rounds=1), replace(again, learning_rate=0.01))
    scenario = replace(stage.scenario, rounds=1, next_task=tasks)
    run = VirtualRun(make_stage(scenario, folder=EXAMPLE.parent), keeps_payloads=True)
    run.run()
    result = run.result(audit=audit_run(run))
    assert result.final.audit == "ok"
    assert result.final.is_complete
    assert result.counts["tasks_opened"] == 3
    assert sorted({(row.round, row.task) for row in result.rounds}) == [
        (1, "program-change"),
        (2, "program-change-2"),
        (3, "program-change-3"),
        (4, "program-change-4"),
    ]
    assert has_fetched(run, OLD)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (('model = "har-cnn"', 'model = "gone"'), "line 18: next_task[1].model: 'gone' is neither"),
        (("rounds = 3\nafter_s", "after_s"), "line 17: next_task[1].rounds: is missing"),
        (("after_s = 30.0", "after = 30.0"), "line 20: next_task[1].after: is no key; write after"),
        (("after_s = 30.0", "bits = 9"), "line 20: next_task[1].bits: is 9"),
        (('"mlp-64-32-10"', '"mlp-64-32-10"\nbudget = 0'), "line 15: task.budget: is 0, and"),
        (('source = "vibration"', 'source = "digits"'), "digits have 64 values, the program takes"),
    ],
)
def test_a_wrong_next_task_is_one_line(
    change: tuple[str, str],
    problem: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    assert text.count(change[0]) == 1
    path = tmp_path / "x.toml"
    path.write_text(text.replace(*change))
    assert main(["run", str(path)]) == 2
    error = capsys.readouterr().err
    assert problem in error
    assert error.count("\n") == 1


def test_a_live_run_trains_one_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(EXAMPLE), "--live"]) == 2
    assert "line 17: next_task[1]: a live run trains one task" in capsys.readouterr().err
