"""Counts by reason: what the device refused, and what it was answered.

Counting must not cost a write a message, or a flood would wear out the disk; the counts go along
with whatever is written next.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from headwater_agent.machine.effects import Rejected
from headwater_agent.state import Changes, Counts, DeviceState
from headwater_protocol.reasons import ReasonCode


class Tally:
    """Two maps with at most one entry a reason code.

    The maps are never changed in place, so the state that is persisted may refer to them.

    Args:
        rejections: From before a restart.
        answers: From before a restart.
    """

    __slots__ = ("_answers", "_rejections")

    def __init__(self, *, rejections: Counts, answers: Counts) -> None:
        self._rejections = rejections
        self._answers = answers

    @property
    def rejections(self) -> Mapping[ReasonCode, int]:
        """Inputs refused."""
        return self._rejections

    @property
    def answers(self) -> Mapping[ReasonCode, int]:
        """Receipts taken."""
        return self._answers

    def add_rejection(self, reason: ReasonCode, detail: str) -> Rejected | None:
        """Count one; the effect for the 1st, 2nd, 4th, 8th and so on, else None."""
        self._rejections = _add_one(self._rejections, reason)
        count = self._rejections[reason]
        if count & (count - 1):
            return None
        return Rejected(reason=reason, count=count, detail=detail)

    def add_answer(self, reason: ReasonCode) -> None:
        """Count one."""
        self._answers = _add_one(self._answers, reason)

    def complete(self, changes: Changes, state: DeviceState) -> Changes:
        """`changes` with the counts that differ from those in `state`."""
        rejections = None if self._rejections == state.rejections else self._rejections
        answers = None if self._answers == state.answers else self._answers
        if rejections is None and answers is None:
            return changes
        return replace(changes, rejections=rejections, answers=answers)


def _add_one(counts: Counts, reason: ReasonCode) -> Counts:
    return MappingProxyType(dict(sorted({**counts, reason: counts.get(reason, 0) + 1}.items())))
