"""Trainings on a Ray cluster, while clock, wires and ledgers stay in one process.

A training is handed over when a virtual device starts it and waited for when its virtual time has
come, so many are under way at once and the order of everything else stays what it was. Trainings of
one base travel in batches, with the examples, so that workers need neither files nor a scenario;
the base itself is stored once. A worker that dies costs its batch, which is computed again.

The ledgers are the same byte for byte as without Ray as long as the workers' processors and
runtimes give the same bits; machines of one kind do.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from headwater_firmware_sim.cluster import Ray, count_cpus, one_line, open_cluster
from headwater_firmware_sim.data.examples import Examples
from headwater_firmware_sim.trainings.work import (
    LocalTrainings,
    Outcome,
    Seed,
    TrainerShelf,
    Work,
    train,
)
from headwater_protocol.chain.task import Training
from headwater_protocol.errors import TransportError
from headwater_protocol.identifiers import Digest

BATCH: Final = 64
"""Trainings of one call; a call costs about as much as a training of a small program."""
BATCHES_PER_CPU: Final = 3
"""Under way at a time: one that runs, one that waits, one whose results travel."""
MAX_BASES: Final = 8
"""Models kept in the cluster's store: each shard's, of this round and of the last."""
WORKER_DEATHS: Final = 3
"""That a batch survives."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shared:
    """What the trainings of a batch have in common."""

    program: bytes
    program_digest: Digest
    training: Training


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Item:
    """What a training has for itself."""

    trainee: str
    round: int
    seed: Seed
    examples: Examples

    def get_examples(self) -> Examples:
        """For `Work.load`."""
        return self.examples


Compute = Callable[[Shared, NDArray[np.float32], Sequence[Item]], list[Outcome]]


def compute_batch(
    shared: Shared, parameters: NDArray[np.float32], items: Sequence[Item]
) -> list[Outcome]:
    """What a worker does; outcomes in the order of `items`."""
    shelf = TrainerShelf()
    outcomes: list[Outcome] = []
    for item in items:
        work = Work(
            trainee=item.trainee,
            round=item.round,
            program=shared.program,
            program_digest=shared.program_digest,
            parameters=parameters,
            training=shared.training,
            seed=item.seed,
            load=item.get_examples,
        )
        outcomes.append(train(shelf, work, item.examples))
    return outcomes


@dataclass(slots=True, eq=False)
class _Batch:
    """Trainings that travel together."""

    works: list[Work] = field(default_factory=list)
    reference: object = None
    """Ray's, once it is handed over."""


class RayTrainings:
    """Trainings that workers do; what was not announced is done here."""

    is_early = True

    def __init__(self, ray: Ray, *, address: str, compute: Compute = compute_batch) -> None:
        """Use a cluster.

        Args:
            ray: Connected.
            address: For messages.
            compute: What a worker does; importable on every machine of the cluster.
        """
        self._ray = ray
        self._address = address
        self._compute = ray.remote(max_retries=WORKER_DEATHS)(compute)
        self._at_once = count_cpus(ray) * BATCHES_PER_CPU
        self._local = LocalTrainings()
        self._open: dict[tuple[Digest, int, Training], _Batch] = {}
        self._ready: deque[_Batch] = deque()
        self._under_way: dict[object, _Batch] = {}
        self._batch_of: dict[str, tuple[Work, _Batch]] = {}
        self._outcomes: dict[str, tuple[Work, Outcome]] = {}
        self._bases: OrderedDict[int, tuple[NDArray[np.float32], object]] = OrderedDict()
        self.num_remote = 0
        """Outcomes that workers computed and the run asked for."""

    def begin(self, work: Work) -> None:
        """Put `work` into a batch, and hand that over once it is full.

        Raises:
            TransportError: If the cluster is lost.
        """
        self.drop(work.trainee)
        key = (work.program_digest, id(work.parameters), work.training)
        batch = self._open.setdefault(key, _Batch())
        batch.works.append(work)
        self._batch_of[work.trainee] = (work, batch)
        if len(batch.works) >= BATCH:
            self._ready.append(self._open.pop(key))
            self._hand_over()

    def drop(self, trainee: str) -> None:
        """A batch that is under way goes on, and this part of it is thrown away."""
        self._batch_of.pop(trainee, None)
        self._outcomes.pop(trainee, None)

    def outcome(self, work: Work) -> Outcome:
        """What came of `work`, once it is there.

        Raises:
            TransportError: If the cluster is lost, or workers keep dying.
        """
        while (known := self._batch_of.get(work.trainee)) is not None and _is_same(known[0], work):
            self._advance(known[1])
        found = self._outcomes.pop(work.trainee, None)
        if found is None or not _is_same(found[0], work):
            return self._local.outcome(work)
        self.num_remote += 1
        return found[1]

    def close(self) -> None:
        """Stop what is under way."""
        for reference in self._under_way:
            self._ray.cancel(reference, force=True)
        self._under_way.clear()

    def _advance(self, batch: _Batch) -> None:
        """One step towards the outcomes of `batch`."""
        if batch.reference is not None:
            self._collect(batch.reference)
            return
        for key, other in self._open.items():
            if other is batch:
                del self._open[key]
                self._ready.appendleft(batch)
                break
        else:
            # It waits behind others; it is wanted now.
            self._ready.remove(batch)
            self._ready.appendleft(batch)
        if len(self._under_way) >= self._at_once:
            done, _ = self._ray.wait(list(self._under_way))
            self._collect(done[0])
        self._hand_over()

    def _hand_over(self) -> None:
        while self._ready and len(self._under_way) < self._at_once:
            batch = self._ready.popleft()
            # What was dropped meanwhile need not be computed.
            batch.works = [work for work in batch.works if self._is_wanted(work, batch)]
            if not batch.works:
                continue
            first = batch.works[0]
            shared = Shared(
                program=first.program,
                program_digest=first.program_digest,
                training=first.training,
            )
            items = [
                Item(
                    trainee=work.trainee,
                    round=work.round,
                    seed=work.seed,
                    examples=work.load(),
                )
                for work in batch.works
            ]
            with self._explained():
                batch.reference = self._compute.remote(shared, self._store(first), items)
            self._under_way[batch.reference] = batch

    def _store(self, work: Work) -> object:
        known = self._bases.get(id(work.parameters))
        if known is None or known[0] is not work.parameters:
            known = (work.parameters, self._ray.put(work.parameters))
            self._bases[id(work.parameters)] = known
            while len(self._bases) > MAX_BASES:
                self._bases.popitem(last=False)
        return known[1]

    def _collect(self, reference: object) -> None:
        batch = self._under_way[reference]
        with self._explained():
            outcomes = cast("list[Outcome]", self._ray.get(reference))
        del self._under_way[reference]
        for work, outcome in zip(batch.works, outcomes, strict=True):
            if self._is_wanted(work, batch):
                del self._batch_of[work.trainee]
                self._outcomes[work.trainee] = (work, outcome)
        self._hand_over()

    def _is_wanted(self, work: Work, batch: _Batch) -> bool:
        known = self._batch_of.get(work.trainee)
        return known is not None and known[0] is work and known[1] is batch

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            # Ray's own errors: a cluster that is gone, a worker that died too often.
            raise TransportError(
                f"the Ray cluster at {self._address}: {type(error).__name__}: {one_line(error)}; "
                "run the same command again, or without --ray"
            ) from error


@contextmanager
def train_on_ray(
    address: str, *, workers: int, compute: Compute = compute_batch
) -> Iterator[RayTrainings]:
    """Trainings on the cluster at `address` until the block ends.

    Args:
        address: `local`, `auto`, `HOST:6379` or `ray://HOST:10001`.
        workers: Processes of a local Ray.
        compute: What a worker does.

    Raises:
        ConfigError: If Ray is not installed or the cluster cannot be reached.
    """
    with open_cluster(address, workers=workers) as ray:
        trainings = RayTrainings(ray, address=address, compute=compute)
        try:
            yield trainings
        finally:
            trainings.close()


def _is_same(first: Work, second: Work) -> bool:
    return (
        first.round == second.round
        and first.seed == second.seed
        and first.parameters is second.parameters
        and first.program_digest == second.program_digest
    )
