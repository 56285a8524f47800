"""Whether a block holds: its link, its execution, and for a vote its time."""

from collections.abc import Callable

from headwater_protocol.chain.block import Block
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.errors import InvalidMessage
from headwater_shard.engine.bft.height import Candidate
from headwater_shard.engine.bft.validation import (
    Place,
    make_context,
    verify_clock,
    verify_execution,
    verify_link,
)
from headwater_shard.engine.border import Application, Execution


class Judge:
    """Executes blocks of others and compares what they claim."""

    __slots__ = ("_application", "_clock_drift_ms", "_count")

    def __init__(
        self,
        *,
        application: Application,
        clock_drift_ms: int,
        count: Callable[[InvalidMessage], None],
    ) -> None:
        self._application = application
        self._clock_drift_ms = clock_drift_ms
        self._count = count

    def is_fit(
        self, candidate: Candidate, *, place: Place, verifier: Verifier, now_ms: int
    ) -> bool:
        """Whether to vote for a block; what speaks against it is counted.

        The block itself is judged once. The clock is asked each time, since what was too early in
        one view may be in time in the next.
        """
        if candidate.execution is None and candidate.error is None:
            try:
                verify_link(candidate.block, place, verifier)
                execution = self._application.process_proposal(make_context(candidate.block))
                verify_execution(candidate.block, place, execution)
                candidate.execution = execution
            except InvalidMessage as error:
                candidate.error = error
                self._count(error)
        if candidate.error is not None:
            return False
        try:
            verify_clock(candidate.block.header, now_ms=now_ms, clock_drift_ms=self._clock_drift_ms)
        except InvalidMessage as error:
            self._count(error)
            return False
        return True

    def execute_certified(self, block: Block, *, place: Place, verifier: Verifier) -> Execution:
        """What a certified block leads to.

        Raises:
            InvalidMessage: If it is not what its header says; then this replica is wrong, or more
                than a third of the power.
        """
        verify_link(block, place, verifier)
        execution = self._application.finalize_block(make_context(block))
        verify_execution(block, place, execution)
        return execution
