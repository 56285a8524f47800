"""Training results as inputs: recorded, replayed, compared."""

import re
import resource
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from headwater_firmware_sim.cli import main
from headwater_firmware_sim.output.folder import load_run
from headwater_firmware_sim.scenario.reader import parse_scenario
from headwater_firmware_sim.stage import Stage, make_stage
from headwater_firmware_sim.trainings.comparison import Agreement, ComparedTrainings
from headwater_firmware_sim.trainings.recording import open_recording, record_trainings
from headwater_firmware_sim.trainings.work import LocalTrainings, Outcome, Refused, Work
from headwater_firmware_sim.virtual.run import VirtualRun
from headwater_models.trainer import TrainingResult
from headwater_protocol.errors import ConfigError
from headwater_protocol.reasons import ReasonCode

TEXT = """
name = "recorded"
devices = 9
rounds = 2
[network]
shards = 1
delegates = 2
[data]
examples = 6
[[attackers]]
kind = "alie"
count = 2
[[attackers]]
kind = "label_flip"
count = 1
[[attackers]]
kind = "free_rider"
count = 1
[[faults]]
kind = "reboot"
rate = 400.0
"""


COMMAND = [
    sys.executable,
    "-c",
    "import sys; from headwater_firmware_sim.cli import main; sys.exit(main())",
]


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "recorded.toml"
    path.write_text(TEXT)
    return path


@pytest.fixture
def stage() -> Stage:
    return make_stage(parse_scenario(TEXT), folder=Path())


def record(stage: Stage, path: Path) -> VirtualRun:
    with record_trainings(path, LocalTrainings(), stage.plan.network) as recorder:
        run = VirtualRun(stage, trainings=recorder)
        run.run()
    return run


def replay(stage: Stage, path: Path) -> tuple[VirtualRun, int]:
    with open_recording(path, stage.plan.network) as recording:
        run = VirtualRun(stage, trainings=recording)
        run.run()
    return run, recording.num_read


def digest(run: VirtualRun) -> str:
    return run.result().final.main_chain_digest


def change(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


def test_a_recorded_run_is_the_run_and_its_replay_computes_nothing(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = VirtualRun(stage)
    plain.run()
    recorded = record(stage, tmp_path / "r")
    assert list(tmp_path.iterdir()) == [tmp_path / "r"]

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a replay trains")

    monkeypatch.setattr("headwater_models.trainer.Trainer.train", refuse)
    replayed, num_read = replay(stage, tmp_path / "r")
    assert num_read > 2 * 9
    assert digest(replayed) == digest(recorded) == digest(plain)
    assert replayed.result().rounds == plain.result().rounds


def test_a_recording_is_what_counts(stage: Stage, tmp_path: Path) -> None:
    recorded = record(stage, tmp_path / "r")
    zeros = bytes(4 * stage.program.num_parameters).hex()
    change(
        tmp_path / "r",
        f"UPDATE trainings SET delta = x'{zeros}' WHERE trainee LIKE 'device %' AND round = 2",
    )
    replayed, _ = replay(stage, tmp_path / "r")
    assert digest(replayed) != digest(recorded)


def test_a_refused_training_is_replayed_as_refused(stage: Stage, tmp_path: Path) -> None:
    refused = Refused(reason=ReasonCode.OUT_OF_BOUNDS, detail="no examples")

    class Refusing(LocalTrainings):
        def outcome(self, work: Work) -> Outcome:
            return refused

    with record_trainings(tmp_path / "r", Refusing(), stage.plan.network) as recorder:
        VirtualRun(stage, trainings=recorder).run()
    run, num_read = replay(stage, tmp_path / "r")
    assert num_read
    assert all(row.accepted == 0 for row in run.result().rounds)


def test_the_command_line_records_and_replays(
    scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "r.trainings"
    one, two = tmp_path / "one", tmp_path / "two"
    call = ["run", str(scenario), "--seed", "3"]
    assert main([*call, "--record-training", str(file), "--out", str(one)]) == 0
    assert main([*call, "--replay-training", str(file), "--check-training", "--out", str(two)]) == 0
    said = capsys.readouterr().out
    assert "trainings as recorded with CPython" in said
    assert re.search(r": (\d+) of \1 trainings have the same bits\n", said)
    assert load_run(one).final == load_run(two).final


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--replay-training", "gone"], "--replay-training: gone is no file"),
        (["--replay-training", "FILE", "--seed", "4"], "of another scenario or seed"),
        (["--replay-training", "JUNK"], "is no recording"),
        (["--replay-training", "FILE", "--record-training", "x"], "--record-training: goes with"),
        (["--replay-training", "FILE", "--ray", "local"], "--ray: goes with"),
        (["--check-training"], "--check-training: has nothing"),
        (["--workers", "2"], "--workers: are those of a Ray"),
        (["--live", "--replay-training", "FILE"], "--live: trains in its own process"),
        (["--record-training", "/nowhere/file"], "/nowhere/file"),
    ],
)
def test_options_that_cannot_be_used_are_one_line(
    arguments: list[str],
    problem: str,
    scenario: Path,
    stage: Stage,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file, junk = tmp_path / "FILE", tmp_path / "JUNK"
    if "FILE" in arguments:
        record(stage, file)
    junk.write_bytes(b"no database" * 100)
    names = {"FILE": str(file), "JUNK": str(junk)}
    call = ["run", str(scenario), *(names.get(argument, argument) for argument in arguments)]
    assert main(call) == 2
    error = capsys.readouterr().err
    assert problem in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("DELETE FROM trainings WHERE round = 2", "has no training of d"),
        ("UPDATE trainings SET delta = x'00'", "is damaged"),
        ("UPDATE trainings SET num_steps = 'x'", "is damaged"),
        ("UPDATE trainings SET reason = 'bored', detail = ''", "'bored' is not"),
        ("UPDATE about SET value = 'x' WHERE name = 'format'", "has the format 'x'"),
        ("DROP TABLE trainings", "no such table"),
    ],
)
def test_a_damaged_recording_is_one_line(
    statement: str,
    problem: str,
    scenario: Path,
    stage: Stage,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    record(stage, tmp_path / "r")
    change(tmp_path / "r", statement)
    assert main(["run", str(scenario), "--replay-training", str(tmp_path / "r")]) in {1, 2}
    error = capsys.readouterr().err
    assert problem in error
    assert error.count("\n") == 1


def test_a_failed_run_leaves_no_recording(stage: Stage, tmp_path: Path) -> None:
    recording = record_trainings(tmp_path / "r", LocalTrainings(), stage.plan.network)
    with pytest.raises(ZeroDivisionError), recording:
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_no_recording(scenario: Path, tmp_path: Path) -> None:
    file = tmp_path / "r"
    done = subprocess.run(
        [*COMMAND, "run", str(scenario), "--record-training", str(file)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (64_000, 64_000)),
    )
    assert done.returncode == 2
    assert str(file) in done.stderr
    assert done.stderr.count("headwater-sim") == 1
    assert list(tmp_path.iterdir()) == [scenario]


def result(values: list[float]) -> TrainingResult:
    return TrainingResult(
        delta=np.array(values, np.float32),
        num_examples=1,
        num_steps=1,
        planned_steps=1,
        mean_loss=0.0,
    )


def test_a_comparison_counts_equal_bits_and_measures_the_rest() -> None:
    outcomes = iter([result([3, 4]), result([3, 4.5]), result([3, 4])])
    refused = Refused(reason=ReasonCode.OUT_OF_BOUNDS, detail="x")

    class Fixed(LocalTrainings):
        def __init__(self, *answers: Outcome) -> None:
            self.answers = iter(answers)

        def outcome(self, work: Work) -> Outcome:
            return next(self.answers)

    compared = ComparedTrainings(
        Fixed(result([3, 4]), result([3, 4]), refused, refused), Fixed(*outcomes, refused)
    )
    for _ in range(4):
        compared.outcome(None)  # type: ignore[arg-type]  # the sources do not look at it
    assert compared.agreement == Agreement(
        num_equal=2, num_apart=2, distance_sum=1.1, largest_distance=1.0
    )
    assert str(compared.agreement).startswith("2 of 4 trainings have the same bits; the other")


def test_a_recording_of_another_network_is_refused(stage: Stage, tmp_path: Path) -> None:
    record(stage, tmp_path / "r")
    other = make_stage(parse_scenario(TEXT), folder=Path(), seed=99)
    with pytest.raises(ConfigError, match="another scenario or seed"):
        replay(other, tmp_path / "r")
