"""A bounded sample of all examples that ever came, each of them in it with the same probability.

Algorithm R: the first `capacity` examples are kept; the n-th one after that takes the place of a
random one with probability `capacity / n`. With one reservoir for each class, a rare class keeps
its share however long the common ones go on.

No generator is carried along: the draw for the n-th example is a hash of the entropy and n, so the
state is the examples and the counts, and a restart goes on as if there had been none.

Vitter, "Random Sampling with a Reservoir", ACM TOMS 1985, algorithm R.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater_models.dataset import Dataset
from headwater_protocol.crypto.hashing import Domain, hash_bytes
from headwater_protocol.errors import OutOfBounds

LABEL_BYTES: Final = 4
FIRST_CAPACITY: Final = 64
"""Examples that memory is taken for at first; it doubles as they come."""


class WrongShape(OutOfBounds):
    """An example of another shape than the ones before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a reservoir may hold."""

    max_examples: int
    """At least 1."""
    max_bytes: int
    """Of features and labels together."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KeptExample:
    """One place of a reservoir."""

    slot: int
    label: int
    features: NDArray[np.float32]
    """Shape of an example, flat."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kept:
    """A reservoir as it is persisted."""

    shape: tuple[int, ...]
    """Of one example."""
    seen: tuple[int, ...]
    """Examples offered so far, of each stratum."""
    count: int
    """Places in use; what lies behind them is stale."""
    examples: tuple[KeptExample, ...]


class Reservoir:
    """The sample.

    Args:
        entropy: Decides who stays; secret where others choose what is offered.
        bounds: How much is kept.
        num_classes: With one reservoir for each class, how many; None for one in all.
    """

    def __init__(self, *, entropy: bytes, bounds: Bounds, num_classes: int | None = None) -> None:
        if bounds.max_examples < 1:
            raise ValueError("a reservoir holds at least one example")
        self._entropy = entropy
        self._bounds = bounds
        self._num_strata = num_classes or 1
        self._is_stratified = num_classes is not None
        self._shape: tuple[int, ...] | None = None
        self._features = np.empty((0, 0), np.float32)
        self._labels = np.empty(0, np.int32)
        self._slots: list[list[int]] = [[] for _ in range(self._num_strata)]
        self._seen = [0] * self._num_strata
        self._count = 0
        self._capacity = 0
        self._dirty: set[int] = set()

    def __len__(self) -> int:
        return self._count

    @property
    def seen(self) -> tuple[int, ...]:
        """Examples offered so far, of each stratum."""
        return tuple(self._seen)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Of one example; None before the first."""
        return self._shape

    @property
    def capacity(self) -> int:
        """Examples of each stratum that are kept at the most; 0 before the first."""
        return self._capacity

    @property
    def num_changed(self) -> int:
        """Places that changed since `take_changes`."""
        return len(self._dirty)

    def offer(self, features: NDArray[np.float32], label: int) -> bool:
        """Take an example in, or not; whether it was.

        Args:
            features: Finite, of the shape of all others.
            label: Not negative.

        Raises:
            WrongShape: If the shape differs.
            OutOfBounds: If not even one example fits, a value is not finite, or there is no
                reservoir for the class.
        """
        if self._shape is None:
            self._begin(features.shape)
        elif features.shape != self._shape:
            raise WrongShape(f"an example of shape {features.shape}, not {self._shape}")
        stratum = label if self._is_stratified else 0
        if label < 0 or stratum >= self._num_strata:
            raise OutOfBounds(f"label {label} is not 0 to {self._num_strata - 1}")
        if not bool(np.isfinite(features).all()):
            raise OutOfBounds("a feature is NaN or infinite")
        self._seen[stratum] += 1
        slots, count = self._slots[stratum], self._seen[stratum]
        if len(slots) < self._capacity:
            slot = self._count
            slots.append(slot)
            self._count += 1
            self._grow()
        else:
            place = self._draw(stratum, count)
            if place >= self._capacity:
                return False
            slot = slots[place]
        self._features[slot] = features.reshape(-1)
        self._labels[slot] = label
        self._dirty.add(slot)
        return True

    def dataset(self, *, copies: bool) -> Dataset:
        """The sample; without `copies` it is valid until the next `offer`.

        Raises:
            OutOfBounds: If it is empty.
        """
        features, labels = self._features[: self._count], self._labels[: self._count]
        if copies:
            features, labels = features.copy(), labels.copy()
        return Dataset(
            features=features.reshape(self._count, *(self._shape or (0,))), labels=labels
        )

    def take_changes(self) -> Kept | None:
        """What changed since the last time; None where nothing did."""
        if not self._dirty or self._shape is None:
            return None
        changed = sorted(self._dirty)
        self._dirty.clear()
        return Kept(
            shape=self._shape,
            seen=self.seen,
            count=self._count,
            examples=tuple(
                KeptExample(
                    slot=slot, label=int(self._labels[slot]), features=self._features[slot].copy()
                )
                for slot in changed
            ),
        )

    def give_back(self, kept: Kept) -> None:
        """Changes that could not be written: they are due again."""
        self._dirty.update(example.slot for example in kept.examples)

    def restore(self, kept: Kept) -> None:
        """Go on from what was persisted; called on an empty reservoir.

        What does not fit the bounds any more is left out.

        Raises:
            OutOfBounds: If it was kept under other classes, or contradicts itself.
        """
        if len(kept.seen) != self._num_strata or self._count:
            raise OutOfBounds(f"{len(kept.seen)} strata, not {self._num_strata}")
        self._begin(kept.shape)
        for example in sorted(kept.examples, key=lambda entry: entry.slot):
            stratum = example.label if self._is_stratified else 0
            if not 0 <= stratum < self._num_strata or example.features.shape != (
                self._features.shape[1],
            ):
                raise OutOfBounds(f"kept example {example.slot} does not fit")
            if len(self._slots[stratum]) >= self._capacity:
                continue
            slot = self._count
            self._slots[stratum].append(slot)
            self._count += 1
            self._grow()
            self._features[slot] = example.features
            self._labels[slot] = example.label
            if slot != example.slot:
                self._dirty.add(slot)
        self._seen = [
            max(seen, len(slots)) for seen, slots in zip(kept.seen, self._slots, strict=True)
        ]

    def _begin(self, shape: tuple[int, ...]) -> None:
        size = int(np.prod(shape, dtype=np.int64))
        if size < 1:
            raise OutOfBounds(f"an example of shape {shape} holds nothing")
        row_bytes = size * 4 + LABEL_BYTES
        fits = min(self._bounds.max_examples, self._bounds.max_bytes // row_bytes)
        if fits < self._num_strata:
            raise OutOfBounds(
                f"{fits} examples of {row_bytes} bytes fit, {self._num_strata} are needed; "
                "raise max_bytes or max_examples"
            )
        self._shape = shape
        self._capacity = fits // self._num_strata
        self._features = np.empty((0, size), np.float32)

    def _grow(self) -> None:
        have = len(self._labels)
        if self._count <= have:
            return
        most = self._capacity * self._num_strata
        room = min(most, max(FIRST_CAPACITY, 2 * have))
        features = np.empty((room, self._features.shape[1]), np.float32)
        labels = np.empty(room, np.int32)
        features[:have], labels[:have] = self._features, self._labels
        self._features, self._labels = features, labels

    def _draw(self, stratum: int, count: int) -> int:
        digest = hash_bytes(
            Domain.SEED,
            self._entropy,
            b"reservoir",
            stratum.to_bytes(4, "big"),
            count.to_bytes(8, "big"),
        )
        # 128 bits leave a bias below 2**-64 for any count that a device lives to see.
        return int.from_bytes(digest[:16], "big") % count


def offer_all(reservoir: Reservoir, features: NDArray[np.float32], labels: Iterable[int]) -> int:
    """Offer examples in turn; how many were taken in.

    Raises:
        OutOfBounds: As `Reservoir.offer`; what came before stays.
    """
    return sum(reservoir.offer(row, label) for row, label in zip(features, labels, strict=True))
