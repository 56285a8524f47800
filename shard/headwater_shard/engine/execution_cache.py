"""Sharing of execution between the replicas of one process.

Executing a block is a pure function of the state before it and of the block, and so is checking a
transaction, so replicas that run side by side in a simulation may compute it once. It is the ledger
that shares, since only it can take over the state behind an `Execution`: an implementation of
`Application` that is given a cache looks there before it executes. Without one, which is the
default everywhere, every replica really executes.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from headwater_protocol.identifiers import ChainId, Digest, Height
from headwater_protocol.reasons import ReasonCode
from headwater_shard.engine.border import BlockContext

MAX_CACHED_EXECUTIONS: Final = 16
"""Rival blocks of a few heights."""

MAX_CHECKED_STATES: Final = 4
"""Replicas are rarely more than a block apart, and what is no longer checked is let go."""

MAX_CACHED_CHECKS: Final = 4_096
"""Transactions that wait on top of a state."""

R = TypeVar("R")


class ExecutionCache(Generic[R]):
    """The latest results of executing blocks, by everything that they depend on."""

    __slots__ = ("_checks", "_max_results", "_results")

    def __init__(self, max_results: int = MAX_CACHED_EXECUTIONS) -> None:
        self._max_results = max_results
        self._checks: OrderedDict[tuple[ChainId, Height, Digest], dict[bytes, ReasonCode]] = (
            OrderedDict()
        )
        self._results: OrderedDict[tuple[ChainId, Digest, BlockContext], R] = OrderedDict()

    def __len__(self) -> int:
        return len(self._results)

    def get_or_compute(
        self,
        *,
        chain: ChainId,
        state_root: Digest,
        context: BlockContext,
        compute: Callable[[], R],
    ) -> R:
        """The result for `context` on top of `state_root`, computed where it is not known.

        What `compute` raises passes through and is not remembered. Results have to be immutable.
        """
        key = (chain, state_root, context)
        result = self._results.get(key)
        if result is None:
            result = self._results[key] = compute()
            if len(self._results) > self._max_results:
                self._results.popitem(last=False)
        return result

    def get_or_check(
        self,
        *,
        chain: ChainId,
        height: Height,
        state_root: Digest,
        transaction: bytes,
        check: Callable[[], ReasonCode],
    ) -> ReasonCode:
        """Whether `transaction` passes on top of the block at `height`."""
        key = (chain, height, state_root)
        known = self._checks.get(key)
        if known is None:
            known = self._checks[key] = {}
            if len(self._checks) > MAX_CHECKED_STATES:
                self._checks.popitem(last=False)
        reason = known.get(transaction)
        if reason is None:
            reason = check()
            if len(known) >= MAX_CACHED_CHECKS:
                del known[next(iter(known))]
            known[transaction] = reason
        return reason
