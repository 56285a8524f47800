"""Whether there is a reason for a block, and the block that a leader makes of it."""

from headwater_protocol.chain.block import Block, header_digest
from headwater_protocol.identifiers import TimeMs, ValidatorId
from headwater_shard.engine.bft.height import HeightState
from headwater_shard.engine.bft.parent import ParentVotes
from headwater_shard.engine.bft.signer import Step
from headwater_shard.engine.bft.validation import MAX_PAYLOAD_BYTES, make_header
from headwater_shard.engine.border import Application, BlockContext
from headwater_shard.engine.mempool import Mempool


class Work:
    """What one validator has to do, as far as its mempool and its ledger tell."""

    __slots__ = ("_application", "_clock_drift_ms", "_mempool", "_validator")

    def __init__(
        self,
        *,
        application: Application,
        mempool: Mempool,
        validator: ValidatorId,
        clock_drift_ms: int,
    ) -> None:
        self._application = application
        self._mempool = mempool
        self._validator = validator
        self._clock_drift_ms = clock_drift_ms

    def is_due(self, state: HeightState, now_ms: int) -> bool:
        """Whether a block is wanted now."""
        return self._mempool.has_work or self._is_timer_due(state, now_ms)

    def is_leader(self, state: HeightState) -> bool:
        """Whether this validator may still propose in the current view."""
        return (
            state.is_active
            and state.step is Step.PROPOSE
            and state.view not in state.proposals
            and state.gave_up_view < state.view
            and state.leaders.leader(state.view) == self._validator
        )

    def is_too_early(self, state: HeightState, now_ms: int) -> bool:
        """Whether every time that a block can have is one that others would refuse."""
        return now_ms < self._first_acceptable_ms(state)

    def next_timer(self, state: HeightState) -> int | None:
        """When there will be a reason to act that is not acted on yet, in ms; 0 is now."""
        if state.electorate.power_of(self._validator) == 0:
            return None
        if state.is_active and not self.is_leader(state):
            return None
        is_obliged = state.is_active and (state.valid_block is not None or _has_waited(state))
        at = 0 if self._mempool.has_work or is_obliged else self._application.next_timer()
        if at is not None and at <= state.place.earliest_ms:
            at = 0
        if at is not None and state.is_active:
            at = max(at, self._first_acceptable_ms(state))
        return at

    def make_block(
        self, state: HeightState, parent: ParentVotes | None, now_ms: int
    ) -> Block | None:
        """A new block, kept in `state` with its outcome, or None where there is no reason for one.

        Raises:
            InvalidMessage: If the ledger refuses what it chose itself.
        """
        place = state.place
        is_wanted = self._is_timer_due(state, now_ms) or _has_waited(state)
        if not is_wanted and not self._mempool.has_work:
            return None
        time_ms = TimeMs(max(now_ms, place.earliest_ms))
        transactions = self._application.prepare_proposal(
            self._mempool.candidates(max_bytes=MAX_PAYLOAD_BYTES),
            time_ms=time_ms,
            max_bytes=MAX_PAYLOAD_BYTES,
        )
        if not transactions and not is_wanted:
            self._mempool.park()
            return None
        context = BlockContext(
            height=place.height,
            time_ms=time_ms,
            proposer=self._validator,
            previous=place.parent_digest,
            last_certificate=None if parent is None else parent.certificate(),
            transactions=transactions,
        )
        execution = self._application.finalize_block(context)
        block = Block(
            header=make_header(place, context, execution),
            transactions=transactions,
            last_certificate=context.last_certificate,
        )
        state.add_candidate(block, header_digest(block.header)).execution = execution
        return block

    def _is_timer_due(self, state: HeightState, now_ms: int) -> bool:
        at = self._application.next_timer()
        return at is not None and at <= max(now_ms, state.place.earliest_ms)

    def _first_acceptable_ms(self, state: HeightState) -> int:
        return state.place.earliest_ms - self._clock_drift_ms


def _has_waited(state: HeightState) -> bool:
    """Whether every delegate had about its turn, so that an empty block ends the height."""
    return state.view >= len(state.electorate)
