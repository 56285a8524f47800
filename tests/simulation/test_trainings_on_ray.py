"""One simulation whose devices train on Ray workers: the same ledgers, whatever workers do."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from headwater_firmware_sim.cli import main
from headwater_firmware_sim.output.folder import load_run
from headwater_firmware_sim.results import RunResult
from headwater_firmware_sim.scenario.reader import parse_scenario
from headwater_firmware_sim.stage import make_stage
from headwater_firmware_sim.trainings.on_ray import (
    BATCH,
    Compute,
    Item,
    RayTrainings,
    Shared,
    compute_batch,
    train_on_ray,
)
from headwater_firmware_sim.trainings.work import Outcome
from headwater_firmware_sim.virtual.run import VirtualRun
from headwater_protocol.errors import TransportError
from tests.conftest import ROOT

TEXT = """
name = "on-ray"
devices = 200
rounds = 2
[network]
shards = 2
delegates = 2
[data]
examples = 6
[churn]
absent = 0.1
[[attackers]]
kind = "alie"
count = 5
[[attackers]]
kind = "backdoor"
count = 5
[[attackers]]
kind = "gaussian"
count = 5
from_round = 2
[[faults]]
kind = "reboot"
rate = 600.0
[[faults]]
kind = "watchdog"
rate = 0.05
"""

pytestmark = pytest.mark.study


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))


def simulate(text: str, trainings: RayTrainings | None = None) -> RunResult:
    run = VirtualRun(make_stage(parse_scenario(text), folder=Path()), trainings=trainings)
    run.run()
    return run.result()


def die_once(folder: Path) -> Compute:
    def compute(
        shared: Shared, parameters: NDArray[np.float32], items: Sequence[Item]
    ) -> list[Outcome]:
        with (folder / "calls").open("a") as file:
            file.write("x")
        if (folder / "calls").stat().st_size == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return compute_batch(shared, parameters, items)

    return compute


def die(shared: Shared, parameters: NDArray[np.float32], items: Sequence[Item]) -> list[Outcome]:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_the_ledgers_are_those_of_one_process_and_a_worker_that_dies_is_retried(
    tmp_path: Path,
) -> None:
    plain = simulate(TEXT)
    with train_on_ray("local", workers=2, compute=die_once(tmp_path)) as trainings:
        result = simulate(TEXT, trainings)
    assert result.final == plain.final
    assert result.device_rounds == plain.device_rounds
    assert result.counts == plain.counts
    # All honest devices' trainings came from workers, batched, and one batch came twice.
    assert trainings.num_remote > 250
    calls = (tmp_path / "calls").stat().st_size
    assert trainings.num_remote / BATCH < calls < trainings.num_remote / 4


def test_workers_that_keep_dying_are_one_line() -> None:
    text = TEXT.replace("devices = 200", "devices = 20")
    problem = "the Ray cluster at local: WorkerCrashedError"
    cluster = train_on_ray("local", workers=1, compute=die)
    with pytest.raises(TransportError, match=problem), cluster as trainings:
        simulate(text, trainings)


def test_the_command_line_trains_on_ray(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, file = tmp_path / "on-ray.toml", tmp_path / "trainings"
    path.write_text(TEXT)
    call = ["run", str(path), "--seed", "5", "--out"]
    ray = ["--ray", "local", "--workers", "2", "--record-training", str(file)]
    assert main([*call, str(tmp_path / "a")]) == 0
    assert main([*call, str(tmp_path / "b"), *ray]) == 0
    assert main([*call, str(tmp_path / "c"), "--replay-training", str(file)]) == 0
    runs = [load_run(tmp_path / name).final for name in "abc"]
    assert runs[0] == runs[1] == runs[2]
    assert main(["run", str(path), "--ray", "127.0.0.1:1"]) == 2
    assert "--ray: 127.0.0.1:1" in capsys.readouterr().err
