"""Asks the probes and the policy, and remembers what they said for whoever wants to show it."""

from collections.abc import Callable
from dataclasses import dataclass

from headwater_agent.guest.config import GuestConfig
from headwater_agent.guest.policy import STRAINED, Decision, GuestReason, Readings, decide


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestReport:
    """For status."""

    last: Decision | None
    """None before the first question."""
    refusals: dict[GuestReason, int]
    """Since the start, by reason."""


class Host:
    """What a device asks before it trains.

    Args:
        config: What is asked of it.
        read: The probes.
    """

    def __init__(self, config: GuestConfig, read: Callable[[], Readings]) -> None:
        self._config = config
        self._read = read
        self._last: Decision | None = None
        self._num_strained = 0
        self._refusals: dict[GuestReason, int] = {}

    @property
    def report(self) -> GuestReport:
        """What was said so far."""
        return GuestReport(last=self._last, refusals=dict(self._refusals))

    def ask(self, *, needed_bytes: int) -> Decision:
        """Whether to train now.

        Args:
            needed_bytes: Of memory, for the training.
        """
        decision = decide(
            self._config,
            self._read(),
            needed_bytes=needed_bytes,
            num_strained=self._num_strained,
        )
        self._num_strained = self._num_strained + 1 if decision.reason in STRAINED else 0
        if not decision.may_train:
            self._refusals[decision.reason] = self._refusals.get(decision.reason, 0) + 1
        self._last = decision
        return decision
