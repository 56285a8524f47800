"""Runners for sweeps that take no time; importable in a worker's process."""

import os
import signal
from pathlib import Path

from headwater_firmware_sim.results import RunResult
from headwater_firmware_sim.scenario.model import Scenario
from headwater_protocol.errors import ConfigError
from tests.support.run_results import make_result


def run_fake(scenario: Scenario, folder: Path) -> RunResult:
    """Leaves a file for each call, so that a test counts them."""
    (folder / f"ran-{scenario.seed}-{scenario.task.bits}").touch(exist_ok=False)
    return make_result(seed=scenario.seed, devices=scenario.devices, rounds=scenario.rounds)


def fail_at_two(scenario: Scenario, folder: Path) -> RunResult:
    if scenario.seed == 2:
        raise ConfigError("data.path", "is gone", fix="bring it back")
    if scenario.seed == 3:
        raise ZeroDivisionError("a bug")
    return run_fake(scenario, folder)


def die_at_two(scenario: Scenario, folder: Path) -> RunResult:
    if scenario.seed == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return run_fake(scenario, folder)


def hang_at_two(scenario: Scenario, folder: Path) -> RunResult:
    if scenario.seed == 2:
        (folder / f"hangs-{os.getpid()}").touch()
        signal.pause()
    return run_fake(scenario, folder)
