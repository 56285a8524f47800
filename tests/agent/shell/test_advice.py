"""Whatever is wrong, its owner reads one line that ends with what to do."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from headwater_agent.machine.effects import Train
from headwater_agent.machine.inputs import TrainingFailed
from headwater_agent.shell.advice import advise_on_message, advise_on_refusal, advise_on_round
from headwater_agent.training import LocalTraining
from headwater_models.dataset import Dataset
from headwater_models.program import Program
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.identifiers import RoundNumber
from headwater_protocol.reasons import ReasonCode
from tests.support.agent_support import make_task

PROGRAM = Program.load("mlp-64-32-10")
REQUEST = Train(
    round=RoundNumber(1),
    program_digest=blob_digest(PROGRAM.data),
    program=PROGRAM.data,
    tensor_sizes=PROGRAM.tensor_sizes,
    parameters=np.zeros(PROGRAM.num_parameters, np.float32),
    training=make_task().training,
    seed=1,
)
GOOD = Dataset(features=np.ones((8, 64), np.float32), labels=np.zeros(8, np.int32))


def with_program(data: bytes) -> Train:
    return replace(REQUEST, program=data, program_digest=blob_digest(data))


BAD: dict[str, Callable[[], tuple[Train, Dataset]]] = {
    "truncated": lambda: (with_program(PROGRAM.data[: len(PROGRAM.data) // 2]), GOOD),
    "garbage": lambda: (with_program(b"x" * 5_000), GOOD),
    "empty": lambda: (with_program(b""), GOOD),
    "another program": lambda: (replace(REQUEST, program=PROGRAM.data + b"x"), GOOD),
    "another size": lambda: (replace(REQUEST, tensor_sizes=(10, 10)), GOOD),
    "wrong shape": lambda: (REQUEST, replace(GOOD, features=np.ones((8, 63), np.float32))),
    "unknown label": lambda: (REQUEST, replace(GOOD, labels=np.full(8, 10, np.int32))),
}


@pytest.mark.parametrize("name", BAD)
def test_a_training_that_cannot_be_done_is_one_line_with_the_fix(name: str) -> None:
    request, data = BAD[name]()
    failed = LocalTraining(data).run(request)
    assert isinstance(failed, TrainingFailed)
    assert "\n" not in failed.detail
    problem, _, fix = failed.detail.rpartition("; ")
    assert problem
    assert fix.startswith(("tell", "headwater-model", "check", "correct"))
    assert advise_on_round(failed.reason, failed.detail) == ""


@pytest.mark.parametrize("reason", ReasonCode)
def test_every_reason_has_advice_of_one_line(reason: ReasonCode) -> None:
    for advice in (
        advise_on_message(reason, "what it was"),
        advise_on_round(reason, "what it was"),
        advise_on_refusal(reason),
    ):
        assert advice
        assert "\n" not in advice
        assert not advice.endswith(".")
