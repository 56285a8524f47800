"""What the wires do to messages: the state that faults change while a run goes on."""

import random
from dataclasses import dataclass, field
from typing import Final

MAX_REPLAY_MS: Final = 60_000
MAX_HOLD_MS: Final = 5_000
"""Of a message that others overtake."""


@dataclass(slots=True)
class Conditions:
    """Of all wires."""

    loss: float = 0.0
    duplicate: float = 0.0
    replay: float = 0.0
    reorder: float = 0.0
    is_broker_up: bool = True
    cut: frozenset[int] | None = None
    """Gateways on one side of a partition; None where all hear each other."""
    counts: dict[str, int] = field(default_factory=dict)
    """Messages that were hit, by kind."""

    @property
    def is_calm(self) -> bool:
        """Whether no message is hit by chance."""
        return not (self.loss or self.duplicate or self.replay or self.reorder)

    def connects(self, first: int, second: int) -> bool:
        """Whether two gateways hear each other."""
        return self.cut is None or (first in self.cut) == (second in self.cut)

    def plan(self, rng: random.Random, *, delay_ms: int, loss: float = 0.0) -> tuple[int, ...]:
        """When the copies of one message arrive, in ms from now; none if it is lost.

        Args:
            rng: Draws.
            delay_ms: Of the wire.
            loss: Of this wire, beside what holds for all.
        """
        if loss and rng.random() < loss:
            self.count("loss")
            return ()
        if self.is_calm:
            return (delay_ms,)
        if self.loss and rng.random() < self.loss:
            self.count("loss")
            return ()
        copies = [delay_ms]
        if self.reorder and rng.random() < self.reorder:
            self.count("reorder")
            copies[0] += rng.randrange(MAX_HOLD_MS)
        if self.duplicate and rng.random() < self.duplicate:
            self.count("duplicate")
            copies.append(delay_ms + rng.randrange(100))
        if self.replay and rng.random() < self.replay:
            self.count("replay")
            copies.append(delay_ms + rng.randrange(MAX_REPLAY_MS))
        return tuple(copies)

    def count(self, kind: str) -> None:
        """Count a message that was hit."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
