"""Transactions that wait for a block, first come, first served.

What came in is checked against the committed state, once when it arrives and again after each
block. A transaction counts as work (a reason to make a block) until a leader's ledger took none of
those that wait: then they wait on, as parked, until the state has changed.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from headwater_protocol.chain.block import MAX_BLOCK_TRANSACTIONS, MAX_TRANSACTION_BYTES
from headwater_protocol.chain.transaction import transaction_digest
from headwater_protocol.identifiers import Digest, Height
from headwater_protocol.reasons import ReasonCode

MAX_MEMPOOL_TRANSACTIONS: Final = 10_000
MAX_MEMPOOL_BYTES: Final = 64 * 1024 * 1024
MAX_FINALIZED_DIGESTS: Final = 100_000
"""Finalized transactions that are refused as duplicates without asking the ledger: 10 MB."""

CheckTx = Callable[[bytes], ReasonCode]


class Mempool:
    """A bounded queue without duplicates; one may serve all replicas of a process."""

    __slots__ = (
        "_finalized",
        "_height",
        "_is_parked",
        "_max_bytes",
        "_max_count",
        "_size_bytes",
        "_waiting",
    )

    def __init__(
        self,
        *,
        max_count: int = MAX_MEMPOOL_TRANSACTIONS,
        max_bytes: int = MAX_MEMPOOL_BYTES,
    ) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._waiting: OrderedDict[Digest, bytes] = OrderedDict()
        self._size_bytes = 0
        self._finalized: OrderedDict[Digest, None] = OrderedDict()
        self._height = 0
        self._is_parked = False

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def size_bytes(self) -> int:
        """The waiting transactions, summed."""
        return self._size_bytes

    @property
    def has_work(self) -> bool:
        """Whether a transaction waits that a leader has not found unfit for the current state."""
        return bool(self._waiting) and not self._is_parked

    def add(self, transaction: bytes, check_tx: CheckTx) -> ReasonCode:
        """Queue a transaction; anything but `OK` says why not.

        `DUPLICATE` if it waits or was finalized lately, `BUSY` if a limit is reached, else the
        answer of `check_tx`.
        """
        if not transaction:
            return ReasonCode.BAD_ENCODING
        if len(transaction) > MAX_TRANSACTION_BYTES:
            return ReasonCode.TOO_LARGE
        digest = transaction_digest(transaction)
        if digest in self._waiting or digest in self._finalized:
            return ReasonCode.DUPLICATE
        if (
            len(self._waiting) >= self._max_count
            or self._size_bytes + len(transaction) > self._max_bytes
        ):
            return ReasonCode.BUSY
        reason = check_tx(transaction)
        if reason is ReasonCode.OK:
            self._waiting[digest] = transaction
            self._size_bytes += len(transaction)
            self._is_parked = False
        return reason

    def candidates(self, *, max_bytes: int) -> tuple[bytes, ...]:
        """The oldest transactions that fit `max_bytes` and the limit of a block together."""
        chosen: list[bytes] = []
        size = 0
        for transaction in self._waiting.values():
            size += len(transaction)
            if size > max_bytes or len(chosen) == MAX_BLOCK_TRANSACTIONS:
                break
            chosen.append(transaction)
        return tuple(chosen)

    def park(self) -> None:
        """Stop counting what waits as work until something arrives or a block is finalized."""
        self._is_parked = True

    def finalize(
        self, height: Height, transactions: Sequence[bytes], check_tx: CheckTx
    ) -> tuple[tuple[Digest, ReasonCode], ...]:
        """Take out a finalized block's transactions and recheck the rest.

        Replicas that share this queue each report a block; only the first report of a height
        counts, later ones are about a state that has been rechecked already.

        Returns:
            The transactions dropped because they do not pass any more, each with the reason.
        """
        if height <= self._height:
            return ()
        self._height = height
        self._is_parked = False
        for transaction in transactions:
            digest = transaction_digest(transaction)
            self._remove(digest)
            self._finalized[digest] = None
            if len(self._finalized) > MAX_FINALIZED_DIGESTS:
                self._finalized.popitem(last=False)
        dropped = [
            (digest, reason)
            for digest, transaction in self._waiting.items()
            if (reason := check_tx(transaction)) is not ReasonCode.OK
        ]
        self._remove_all(digest for digest, _ in dropped)
        return tuple(dropped)

    def _remove_all(self, digests: Iterable[Digest]) -> None:
        for digest in digests:
            self._remove(digest)

    def _remove(self, digest: Digest) -> None:
        transaction = self._waiting.pop(digest, None)
        if transaction is not None:
            self._size_bytes -= len(transaction)
