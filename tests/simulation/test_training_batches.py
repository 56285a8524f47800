"""How trainings are handed to a cluster: in batches, a bounded number at a time.

The cluster here is a function call; what Ray itself does is tested with Ray.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from headwater_firmware_sim.data.examples import Examples
from headwater_firmware_sim.trainings.on_ray import BATCH, BATCHES_PER_CPU, RayTrainings
from headwater_firmware_sim.trainings.work import LocalTrainings, Work
from headwater_models.initialization import initial_parameters
from headwater_models.program import Program
from headwater_models.trainer import TrainingResult
from headwater_protocol.chain.task import OptimizerKind, Training
from headwater_protocol.errors import TransportError
from headwater_protocol.identifiers import Digest

PROGRAM = Program.load("mlp-64-32-10")
BASE = initial_parameters(PROGRAM, 1)
PLAN = Training(
    optimizer=OptimizerKind.SGD,
    learning_rate_millionths=10_000,
    momentum_thousandths=0,
    proximal_millionths=0,
    clip_norm_thousandths=0,
    local_epochs=1,
    max_steps=10,
    batch_size=4,
)


@dataclass
class Call:
    arguments: tuple[object, ...]


@dataclass
class InlineCluster:
    """Computes a call when its result is asked for."""

    function: Callable[..., object] = print
    waiting: dict[int, Call] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)
    most: int = 0
    num_puts: int = 0
    is_lost: bool = False

    def __call__(self, function: Callable[..., object]) -> "InlineCluster":
        self.function = function
        return self

    def remote(self, *arguments: object, **options: object) -> object:
        if options:
            return self
        number = len(self.sizes)
        items = arguments[2]
        assert isinstance(items, list)
        self.sizes.append(len(items))
        self.waiting[number] = Call(arguments)
        self.most = max(self.most, len(self.waiting))
        return number

    def put(self, value: object) -> object:
        self.num_puts += 1
        return value

    def wait(self, waiting: list[object], *, num_returns: int = 1) -> tuple[list[object], list]:
        return waiting[-1:], waiting[:-1]

    def get(self, reference: object) -> object:
        if self.is_lost:
            raise ConnectionError("the cluster has gone")
        assert isinstance(reference, int)
        return self.function(*self.waiting.pop(reference).arguments)

    def cancel(self, reference: object, *, force: bool) -> None:
        assert isinstance(reference, int)
        del self.waiting[reference]

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 1.0}


def make_work(device: int, *, round_: int = 1, loaded: list[int] | None = None) -> Work:
    def load() -> Examples:
        if loaded is not None:
            loaded.append(device)
        rng = np.random.default_rng(device)
        return Examples(
            features=rng.standard_normal((8, 64), dtype=np.float32),
            labels=rng.integers(0, 10, 8).astype(np.int32),
        )

    return Work(
        trainee=f"device {device}",
        round=round_,
        program=PROGRAM.data,
        program_digest=Digest(PROGRAM.digest),
        parameters=BASE,
        training=PLAN,
        seed=device * 1_000 + round_,
        load=load,
    )


def delta_of(trainings: LocalTrainings | RayTrainings, work: Work) -> bytes:
    outcome = trainings.outcome(work)
    assert isinstance(outcome, TrainingResult)
    return outcome.delta.tobytes()


@pytest.fixture
def cluster() -> InlineCluster:
    return InlineCluster()


@pytest.fixture
def trainings(cluster: InlineCluster) -> RayTrainings:
    return RayTrainings(cluster, address="here")  # type: ignore[arg-type]  # a part of Ray


def test_outcomes_are_the_local_ones_in_any_order_and_few_batches_are_under_way(
    cluster: InlineCluster, trainings: RayTrainings
) -> None:
    count = 6 * BATCH + 5
    works = [make_work(device) for device in range(count)]
    for work in works:
        trainings.begin(work)
    local = LocalTrainings()
    for index in np.random.default_rng(1).permutation(count).tolist():
        assert delta_of(trainings, works[index]) == delta_of(local, works[index])
    assert cluster.most == BATCHES_PER_CPU
    assert sorted(cluster.sizes) == [5, *[BATCH] * 6]
    assert cluster.num_puts == 1
    assert trainings.num_remote == count


def test_a_batch_goes_out_when_it_is_full_or_wanted(
    cluster: InlineCluster, trainings: RayTrainings
) -> None:
    loaded: list[int] = []
    works = [make_work(device, loaded=loaded) for device in range(BATCH + 3)]
    for work in works[: BATCH - 1]:
        trainings.begin(work)
    assert not cluster.sizes
    for work in works[BATCH - 1 :]:
        trainings.begin(work)
    assert cluster.sizes == [BATCH]
    trainings.outcome(works[-1])
    assert cluster.sizes == [BATCH, 3]
    assert sorted(loaded) == list(range(BATCH + 3))


def test_what_was_dropped_is_not_computed_and_a_newer_work_takes_its_place(
    cluster: InlineCluster, trainings: RayTrainings
) -> None:
    old, new, other = make_work(1), make_work(1, round_=2), make_work(2)
    trainings.begin(old)
    trainings.begin(other)
    trainings.drop("device 2")
    trainings.begin(new)
    local = LocalTrainings()
    assert delta_of(trainings, new) == delta_of(local, new) != delta_of(local, old)
    assert cluster.sizes == [1]
    # Asked for all the same, it is computed here.
    assert delta_of(trainings, other) == delta_of(local, other)
    assert delta_of(trainings, old) == delta_of(local, old)
    assert cluster.sizes == [1]


def test_a_lost_cluster_is_one_line_and_closing_stops_what_is_under_way(
    cluster: InlineCluster, trainings: RayTrainings
) -> None:
    work = make_work(1)
    trainings.begin(work)
    cluster.is_lost = True
    with pytest.raises(TransportError, match="at here: ConnectionError: the cluster has gone; run"):
        trainings.outcome(work)
    assert cluster.waiting
    trainings.close()
    assert not cluster.waiting
