"""What all sources have: a reservoir, a lock for the thread that feeds it, and their problems."""

import threading
from collections.abc import Callable
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from headwater_agent.data.config import DataConfig
from headwater_agent.data.problems import Problems
from headwater_agent.data.reservoir import Bounds, Kept, Reservoir
from headwater_models.dataset import Dataset
from headwater_protocol.crypto.hashing import Domain, hash_bytes
from headwater_protocol.errors import InvalidMessage, OutOfBounds
from headwater_protocol.reasons import ReasonCode

FIX_ROW: Final = "correct or remove it"


class NoExamples(InvalidMessage):
    """There is nothing to train on yet; the round is left to others."""

    reason = ReasonCode.UNAVAILABLE


class ExampleSource(Protocol):
    """Where a device's examples come from."""

    @property
    def pool(self) -> "Pool":
        """What is kept of them."""
        ...

    @property
    def is_stream(self) -> bool:
        """Whether what came before cannot be read again, so that it has to be persisted."""
        ...

    def open(self) -> None:
        """Start to read.

        Raises:
            ConfigError: If the source cannot be used; says how it can.
        """
        ...

    def dataset(self) -> Dataset:
        """What there is to train on now, newly arrived examples included.

        Raises:
            NoExamples: If there are none yet; says why.
        """
        ...

    def close(self) -> None:
        """Stop reading."""
        ...


class Pool:
    """A reservoir that one thread may fill while another trains.

    Args:
        config: What is kept, and how the classes are called.
        entropy: Decides which examples are; the device's own.
        problems: Counts what is wrong with the data.
    """

    def __init__(self, config: DataConfig, *, entropy: bytes, problems: Problems) -> None:
        self._config = config
        self._entropy = hash_bytes(Domain.SEED, entropy, b"examples")
        self._lock = threading.Lock()
        self._reservoir = self._make()
        self.problems = problems
        self.fingerprint = config.fingerprint
        """What the examples are of."""

    @property
    def num_examples(self) -> int:
        """How many are kept."""
        with self._lock:
            return len(self._reservoir)

    @property
    def num_seen(self) -> int:
        """How many came, of all classes."""
        with self._lock:
            return sum(self._reservoir.seen)

    def start_over(self) -> None:
        """Forget all examples."""
        with self._lock:
            self._reservoir = self._make()

    def fill(self, offer: Callable[[Reservoir], None]) -> None:
        """Replace all examples by those that `offer` puts into an empty reservoir.

        If it raises, the old ones stay.
        """
        fresh = self._make()
        offer(fresh)
        with self._lock:
            self._reservoir = fresh

    def offer(self, features: NDArray[np.float32], label: int) -> None:
        """Take an example in, or not.

        Raises:
            WrongShape: If its shape is not that of the others.
            OutOfBounds: If it is not finite or not one fits.
        """
        with self._lock:
            self._reservoir.offer(features, label)

    def dataset(self, *, why_empty: Callable[[], str], copies: bool) -> Dataset:
        """The examples.

        Raises:
            NoExamples: If there are none.
        """
        with self._lock:
            if len(self._reservoir):
                return self._reservoir.dataset(copies=copies)
        raise NoExamples(f"there are no examples: {why_empty()}")

    def take_changes(self) -> Kept | None:
        """What is to be persisted; None where nothing changed."""
        with self._lock:
            return self._reservoir.take_changes()

    def give_back(self, kept: Kept) -> None:
        """Changes that could not be written."""
        with self._lock:
            self._reservoir.give_back(kept)

    def restore(self, kept: Kept) -> None:
        """Go on from what was persisted; what does not fit the configuration is forgotten."""
        fresh = self._make()
        try:
            fresh.restore(kept)
        except OutOfBounds:
            fresh = self._make()
        with self._lock:
            self._reservoir = fresh

    def why_empty(self) -> str:
        """The latest problem, as far as there was one."""
        latest = self.problems.latest
        return str(latest[-1]) if latest else "none have come"

    def _make(self) -> Reservoir:
        memory = self._config.memory
        return Reservoir(
            entropy=self._entropy,
            bounds=Bounds(max_examples=memory.max_examples, max_bytes=memory.max_bytes),
            num_classes=self._config.labels.num_classes if memory.per_class else None,
        )
