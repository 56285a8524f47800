"""A second process that trains ahead changes nothing but the time that a run takes."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from headwater_firmware_sim.results import RunResult
from headwater_firmware_sim.scenario.reader import parse_scenario
from headwater_firmware_sim.stage import Stage, make_stage
from headwater_firmware_sim.training import MIN_ASIDE, FleetTrainer
from headwater_firmware_sim.trainings.aside import AsideTrainings, why_not_aside
from headwater_firmware_sim.trainings.slots import Numbers, Progress, Slots
from headwater_firmware_sim.virtual.run import VirtualRun
from tests.support.network import make_task

TEXT = """
name = "aside"
devices = 120
rounds = 3
seed = 3
[network]
shards = 2
[data]
examples = 6
[churn]
absent = 0.1
[[attackers]]
kind = "sign_flip"
count = 5
[[attackers]]
kind = "label_flip"
count = 5
[[attackers]]
kind = "alie"
count = 5
[[faults]]
kind = "reboot"
rate = 600.0
[[faults]]
kind = "watchdog"
rate = 0.05
"""

pytestmark = pytest.mark.skipif(
    why_not_aside() is not None, reason=f"trains in one process: {why_not_aside()}"
)


@pytest.fixture(scope="module")
def stage() -> Stage:
    return make_stage(parse_scenario(TEXT), folder=Path())


@pytest.fixture(scope="module")
def plain(stage: Stage) -> RunResult:
    run = VirtualRun(stage)
    run.run()
    return run.result()


@contextmanager
def aside(run: VirtualRun) -> Iterator[AsideTrainings]:
    trainer = run.world.trainer
    with trainer.aside():
        assert isinstance(trainer.trainings, AsideTrainings)
        yield trainer.trainings


def require_same(run: VirtualRun, plain: RunResult) -> None:
    result = run.result()
    assert result.final == plain.final
    assert result.device_rounds == plain.device_rounds
    assert result.counts == plain.counts


def test_the_ledgers_are_those_of_one_process(stage: Stage, plain: RunResult) -> None:
    run = VirtualRun(stage)
    with aside(run) as trainings:
        run.run()
    assert trainings.num_taken > 0
    require_same(run, plain)


def test_a_helper_that_dies_is_done_without(stage: Stage, plain: RunResult) -> None:
    run = VirtualRun(stage)
    with aside(run) as trainings:
        start_ms = run.world.start_ms
        run.start()
        run.run_until(start_ms + stage.warm_up_ms)
        while trainings.num_taken == 0:
            run.run_until(run.world.clock.now_ms + 1)
        os.kill(trainings.helper, signal.SIGKILL)
        run.run_until(start_ms + stage.warm_up_ms + round(stage.scenario.length_s * 1_000))
    require_same(run, plain)


def test_a_helper_that_does_nothing_keeps_nobody_waiting(stage: Stage, plain: RunResult) -> None:
    run = VirtualRun(stage)
    with aside(run) as trainings:
        os.kill(trainings.helper, signal.SIGSTOP)
        try:
            run.run()
        finally:
            os.kill(trainings.helper, signal.SIGCONT)
    assert trainings.num_taken == 0
    require_same(run, plain)


def test_a_small_fleet_trains_in_one_process() -> None:
    text = TEXT.replace("devices = 120", f"devices = {MIN_ASIDE - 1}")
    trainer = FleetTrainer(make_stage(parse_scenario(text), folder=Path()))
    before = trainer.trainings
    with trainer.aside():
        assert trainer.trainings is before


def test_slots_hold_what_was_left_and_no_other() -> None:
    slots = Slots(make_task())
    assert slots.count > 1
    for slot in (0, slots.count - 1):
        slots.residual(slot)[:] = np.arange(10) + slot
        slots.delta(slot)[:] = -np.arange(10) - slot
        slots.left(slot)[:] = 0.5
        numbers = Numbers(
            num_examples=3,
            num_steps=2,
            planned_steps=4,
            mean_loss=0.25,
            payload_bytes=2,
            delta_norm_units=2**63,
        )
        slots.write(slot, numbers, b"%c!" % (65 + slot % 2))
        slots.set_progress(slot, Progress.DONE)
    for slot in (0, slots.count - 1):
        assert slots.residual(slot).tolist() == [index + slot for index in range(10)]
        assert slots.delta(slot).tolist() == [-index - slot for index in range(10)]
        assert slots.left(slot).tolist() == [0.5] * 10
        assert slots.read(slot) == (numbers, b"%c!" % (65 + slot % 2))
        assert slots.progress(slot) is Progress.DONE
        assert not slots.is_called_off(slot)
    slots.call_off(0)
    assert slots.is_called_off(0)
    assert not slots.is_called_off(1)


def test_slots_take_tasks_of_their_size_alone() -> None:
    slots = Slots(make_task())
    assert slots.fits(make_task(rounds=9))
    assert not slots.fits(make_task(tensor_sizes=(6, 5)))
    huge = Slots(make_task(tensor_sizes=(8_000_000,)))
    assert huge.count == 0
