"""Training on the device: a real program, and every way in which a request can be wrong."""

import queue
import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_agent.data.pool import NoExamples
from headwater_agent.machine.effects import Train
from headwater_agent.machine.inputs import Trained, TrainingFailed
from headwater_agent.training import LocalTraining, TrainingWorker, count_work
from headwater_models.dataset import Dataset
from headwater_models.plan import training_plan
from headwater_models.program import Program
from headwater_protocol.chain.task import Normalisation
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.identifiers import RoundNumber
from headwater_protocol.reasons import ReasonCode
from tests.support.agent_support import make_task

MLP = Program.load("mlp-64-32-10")
HUGE = (np.random.default_rng(1).normal(size=MLP.num_parameters) * 1e25).astype(np.float32)


def make_dataset(num_examples: int = 40, **changes: object) -> Dataset:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 10, num_examples).astype(np.int32)
    features = rng.random((num_examples, 64), dtype=np.float32)
    features[np.arange(num_examples), labels] += 3
    return replace(Dataset(features=features, labels=labels), **changes)  # type: ignore[arg-type]


def make_request(**changes: object) -> Train:
    request = Train(
        round=RoundNumber(1),
        program_digest=blob_digest(MLP.data),
        program=MLP.data,
        tensor_sizes=MLP.tensor_sizes,
        parameters=np.zeros(MLP.num_parameters, np.float32),
        training=make_task().training,
        seed=5,
    )
    return replace(request, **changes)  # type: ignore[arg-type]


def test_request_is_trained_and_the_same_again() -> None:
    training = LocalTraining(make_dataset())
    first, second = training.run(make_request()), LocalTraining(make_dataset()).run(make_request())
    assert isinstance(first, Trained)
    assert isinstance(second, Trained)
    assert first.delta.shape == (MLP.num_parameters,)
    assert first.num_examples == 40
    assert float(np.abs(first.delta).sum()) > 0
    np.testing.assert_array_equal(first.delta, second.delta)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"program": b"no program", "program_digest": b"x" * 32}, ReasonCode.BAD_ENCODING),
        ({"program_digest": b"x" * 32}, ReasonCode.WRONG_DIGEST),
        ({"tensor_sizes": (1, 2)}, ReasonCode.OUT_OF_BOUNDS),
        ({"parameters": np.zeros(5, np.float32)}, ReasonCode.OUT_OF_BOUNDS),
        ({"parameters": np.full(MLP.num_parameters, np.nan, "f4")}, ReasonCode.OUT_OF_BOUNDS),
        ({"parameters": HUGE}, ReasonCode.OUT_OF_BOUNDS),
    ],
)
def test_bad_request_comes_back_with_a_reason(
    changes: dict[str, object], reason: ReasonCode
) -> None:
    result = LocalTraining(make_dataset()).run(make_request(**changes))
    assert isinstance(result, TrainingFailed)
    assert result.reason is reason
    assert "\n" not in result.detail


@pytest.mark.parametrize(
    "dataset",
    [
        Dataset(features=np.ones((3, 5), np.float32), labels=np.zeros(3, np.int32)),
        Dataset(features=np.ones((3, 64), np.float32), labels=np.full(3, 10, np.int32)),
    ],
)
def test_data_that_does_not_fit_the_program_comes_back_with_a_reason(dataset: Dataset) -> None:
    result = LocalTraining(dataset).run(make_request())
    assert isinstance(result, TrainingFailed)
    assert result.reason is ReasonCode.OUT_OF_BOUNDS


def test_plan_has_every_field_of_the_task() -> None:
    training = make_task().training
    plan = training_plan(training)
    names = type(training).__dataclass_fields__
    assert {name: getattr(plan, name) for name in names} == {
        name: getattr(training, name) for name in names
    }


class Clock:
    """A second passes each time that somebody looks."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


def test_training_stops_in_time_and_counts_for_the_steps_it_took() -> None:
    training = make_task().training
    request = make_request(training=replace(training, local_epochs=10, batch_size=4))
    whole = LocalTraining(make_dataset(), monotonic_s=Clock()).run(request)
    assert isinstance(whole, Trained)
    assert (whole.num_steps, whole.num_examples, whole.has_finished) == (100, 40, True)
    # The start, then a look before each step but the first.
    short = LocalTraining(make_dataset(), monotonic_s=Clock()).run(
        replace(request, time_limit_ms=25_000)
    )
    assert isinstance(short, Trained)
    assert (short.num_steps, short.num_examples, short.has_finished) == (25, 10, False)
    assert short.duration_ms == 26_000
    hasty = LocalTraining(make_dataset(), monotonic_s=Clock()).run(
        replace(request, time_limit_ms=0)
    )
    assert isinstance(hasty, Trained)
    assert (hasty.num_steps, hasty.num_examples) == (1, 1)


@given(num_examples=st.integers(1, 10**6), planned=st.integers(1, 10**6), share=st.floats(0, 1))
def test_work_counts_in_proportion_and_never_for_more(
    num_examples: int, planned: int, share: float
) -> None:
    steps = max(1, int(planned * share))
    counted = count_work(num_examples, steps=steps, planned=planned)
    assert 1 <= counted <= num_examples
    assert counted * planned >= num_examples * steps
    assert count_work(num_examples, steps=planned, planned=planned) == num_examples


def test_examples_go_through_the_tasks_normalisation() -> None:
    dataset = make_dataset()
    shifted = replace(dataset, features=(dataset.features * 4 + 1).astype(np.float32))
    normalisation = Normalisation(fraction_bits=2, offsets=(4,), scales=(1,))
    base = np.random.default_rng(2).normal(size=MLP.num_parameters).astype(np.float32)
    request = make_request(parameters=base / 10)
    plain = LocalTraining(dataset).run(request)
    found = LocalTraining(shifted).run(replace(request, normalisation=normalisation))
    other = LocalTraining(shifted).run(request)
    assert isinstance(plain, Trained)
    assert isinstance(found, Trained)
    assert isinstance(other, Trained)
    np.testing.assert_allclose(found.delta, plain.delta, atol=1e-5)
    assert not np.allclose(other.delta, plain.delta, atol=1e-2)


class Growing:
    """A source that has one example more each time, and none at first."""

    def __init__(self) -> None:
        self.num_looks = 0

    def dataset(self) -> Dataset:
        self.num_looks += 1
        if self.num_looks == 1:
            raise NoExamples("there are no examples: none have come")
        return make_dataset(self.num_looks)


def test_source_is_asked_before_each_training() -> None:
    training = LocalTraining(Growing())
    refused = training.run(make_request())
    assert isinstance(refused, TrainingFailed)
    assert refused.reason is ReasonCode.UNAVAILABLE
    assert "no examples" in refused.detail
    for number in (2, 3):
        found = training.run(make_request())
        assert isinstance(found, Trained)
        assert found.num_examples == number


class SlowTraining:
    """Runs when it is let, and remembers what it ran."""

    def __init__(self) -> None:
        self.started = threading.Semaphore(0)
        self.let = threading.Semaphore(0)
        self.rounds: list[int] = []

    def run(self, request: Train) -> TrainingFailed:
        self.rounds.append(request.round)
        self.started.release()
        self.let.acquire()
        return TrainingFailed(round=request.round, reason=ReasonCode.BUSY, detail="")


def test_waiting_request_is_replaced_by_a_newer_one() -> None:
    results: queue.Queue[object] = queue.Queue()
    training = SlowTraining()
    worker = TrainingWorker(training, deliver=results.put)
    worker.submit(make_request(round=RoundNumber(1)))
    assert training.started.acquire(timeout=2)
    for number in range(2, 100):
        worker.submit(make_request(round=RoundNumber(number)))
    training.let.release(2)
    for _ in range(2):
        results.get(timeout=2)
    worker.stop()
    assert training.rounds == [1, 99]
