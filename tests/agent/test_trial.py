"""Programs that are truncated, damaged or deadly end in a reason, never in the agent's process."""

import random
import signal
from pathlib import Path

import numpy as np
import pytest

from headwater_agent.errors import UnsoundProgram
from headwater_agent.machine.effects import Train
from headwater_agent.machine.inputs import Trained, TrainingFailed
from headwater_agent.training import LocalTraining
from headwater_agent.trial import try_program, try_stranger
from headwater_models.dataset import Dataset
from headwater_models.program import Program
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.errors import InvalidMessage
from headwater_protocol.identifiers import RoundNumber
from headwater_protocol.reasons import ReasonCode
from tests.support.agent_support import make_task

PROGRAM = Program.load("mlp-64-32-10")
DEADLY = ((1214, 174), (2407, 174), (3210, 100), (2902, 120), (5183, 211))
"""Single bytes of the shipped program, found by search: their change passes every check of form."""


def damaged(offset: int, value: int) -> bytes:
    data = bytearray(PROGRAM.data)
    data[offset] = value
    return bytes(data)


def make_request(data: bytes) -> Train:
    return Train(
        round=RoundNumber(1),
        program_digest=blob_digest(data),
        program=data,
        tensor_sizes=PROGRAM.tensor_sizes,
        parameters=np.zeros(PROGRAM.num_parameters, np.float32),
        training=make_task().training,
        seed=1,
    )


def make_dataset() -> Dataset:
    rng = np.random.default_rng(0)
    return Dataset(
        features=rng.random((8, 64), dtype=np.float32), labels=np.arange(8, dtype=np.int32)
    )


def make_training() -> LocalTraining:
    return LocalTraining(make_dataset(), trial=try_program)


def test_a_sound_program_passes_and_trains() -> None:
    assert isinstance(make_training().run(make_request(PROGRAM.data)), Trained)


def test_a_program_that_ends_its_process_is_refused_and_the_next_round_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text("#!/bin/sh\nkill -SEGV $$\n")
    interpreter.chmod(0o755)
    training = make_training()
    with monkeypatch.context() as patch:
        patch.setattr("headwater_agent.trial.sys.executable", str(interpreter))
        outcome = training.run(make_request(PROGRAM.data))
    assert isinstance(outcome, TrainingFailed)
    assert f"ends its process with signal {signal.SIGSEGV}" in outcome.detail
    assert isinstance(training.run(make_request(PROGRAM.data)), Trained)


@pytest.mark.parametrize(("offset", "value"), DEADLY)
def test_a_damaged_graph_harms_no_process_but_the_child(offset: int, value: int) -> None:
    # What it reads beyond its tensors depends on the runtime and on what lies there: some end by a
    # signal, some in a refusal, some pass.
    said = try_damaged(offset, value)
    assert said == "" or "ends its process" in said or "does not run" in said


def try_damaged(offset: int, value: int) -> str:
    """What a trial says of a damaged program; empty if it passes."""
    try:
        try_program(damaged(offset, value))
    except UnsoundProgram as error:
        return str(error)
    return ""


def test_a_program_that_takes_too_long_is_refused() -> None:
    with pytest.raises(UnsoundProgram, match="takes more than"):
        try_program(PROGRAM.data, timeout_s=0.01)


def test_truncated_and_damaged_programs_are_refused_with_a_reason() -> None:
    rng = random.Random(3)
    training = make_training()
    for _ in range(120):
        data = PROGRAM.data[: rng.randrange(len(PROGRAM.data))]
        outcome = training.run(make_request(data))
        assert isinstance(outcome, TrainingFailed)
        assert outcome.reason is not ReasonCode.OK
    refused = 0
    for _ in range(120):
        changed = bytearray(PROGRAM.data)
        for _ in range(rng.randrange(1, 20)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        # Nothing but a refusal may come of reading it.
        try:
            Program(bytes(changed))
        except InvalidMessage:
            refused += 1
    assert refused > 30


def test_a_program_of_this_installation_is_no_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[bytes] = []
    monkeypatch.setattr("headwater_agent.trial.try_program", tried.append)
    try_stranger(PROGRAM.data)
    assert tried == []
    changed = PROGRAM.data[:-1] + bytes([PROGRAM.data[-1] ^ 1])
    try_stranger(changed)
    assert tried == [changed]
