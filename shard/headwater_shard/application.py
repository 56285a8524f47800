"""A ledger behind the engine's border: the committed state and the executions on top of it."""

from collections.abc import Iterable, Sequence
from typing import Final

from headwater_protocol.chain.block import MAX_BLOCK_TRANSACTIONS, Certificate
from headwater_protocol.chain.committee import Committee
from headwater_protocol.chain.genesis import Genesis
from headwater_protocol.chain.transaction import SignedTransaction
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.errors import InvalidBlock, InvalidMessage, StorageError
from headwater_protocol.identifiers import (
    MAIN_CHAIN,
    ChainId,
    Digest,
    Height,
    Network,
    TimeMs,
    ValidatorId,
)
from headwater_protocol.reasons import ReasonCode
from headwater_shard.engine.border import BlockContext, Changes, Execution, QueryResult
from headwater_shard.engine.execution_cache import ExecutionCache
from headwater_shard.mainchain.ledger import MainLedger
from headwater_shard.mainchain.records import MAIN_TABLES
from headwater_shard.shardchain.ledger import ShardLedger
from headwater_shard.shardchain.records import SHARD_TABLES
from headwater_shard.state.draft import Draft
from headwater_shard.state.state import State, load_state
from headwater_shard.state.table import Table
from headwater_shard.transition import (
    Ledger,
    apply_block,
    decode_for,
    process_transaction,
    reason_of,
    select_transactions,
)


def make_ledger(genesis: Genesis, chain: ChainId) -> Ledger:
    """The rules of `chain` under `genesis`.

    Raises:
        ConfigError: If the genesis has no such chain.
    """
    return MainLedger(genesis) if chain == MAIN_CHAIN else ShardLedger(genesis, chain)


def tables_of(chain: ChainId) -> tuple[Table[object], ...]:
    """The tables of `chain`'s state."""
    return MAIN_TABLES if chain == MAIN_CHAIN else SHARD_TABLES


MAX_RECENT: Final = 16
"""States kept for proofs of blocks that are not the tip any more; they share what is equal."""


class LedgerApplication:
    """One replica of a ledger; pure but for holding which state is committed.

    Execution results of rival proposals of one height are kept until one is committed, so that
    committing what was voted for does not execute it again.
    """

    MAX_PENDING: int = 16
    """Executions kept; a height rarely has more than one proposal a view."""

    def __init__(
        self,
        ledger: Ledger,
        verifier: Verifier,
        *,
        cache: ExecutionCache[tuple[State, Execution]] | None = None,
        max_recent: int = MAX_RECENT,
    ) -> None:
        """Start at genesis.

        Args:
            ledger: The rules.
            verifier: Checks signatures.
            cache: Shares executions between the replicas of a simulation; None really executes.
            max_recent: How many states of earlier blocks are kept.
        """
        self._ledger = ledger
        self._verifier = verifier
        self._cache = cache
        self._max_recent = max_recent
        self._state = ledger.genesis_state()
        self._height = Height(0)
        self._time_ms = TimeMs(0)
        self._recent: dict[Height, State] = {}
        self._pending: dict[BlockContext, tuple[State, Execution]] = {}
        self._chosen: dict[bytes, SignedTransaction] = {}
        """What the last proposal was made of: no more than a block, and about to be executed."""

    @property
    def network(self) -> Network:
        """The digest of the genesis."""
        return self._ledger.network

    @property
    def chain(self) -> ChainId:
        """Which ledger this is."""
        return self._ledger.chain

    @property
    def state(self) -> State:
        """The committed state; it never changes, the next block brings another."""
        return self._state

    def state_at(self, height: Height) -> State | None:
        """The state after one of the last blocks committed here; None for others."""
        return self._recent.get(height)

    @property
    def height(self) -> Height:
        """The last committed block; 0 after genesis."""
        return self._height

    @property
    def time_ms(self) -> TimeMs:
        """Block time of the last committed block; 0 after genesis."""
        return self._time_ms

    @property
    def state_root(self) -> Digest:
        """The committed state's digest."""
        return self._state.root

    @property
    def committee(self) -> Committee:
        """Who certifies the next block."""
        return self._ledger.committee(self._state)

    def restore(
        self,
        *,
        height: Height,
        time_ms: TimeMs,
        state_root: Digest,
        entries: Iterable[tuple[str, bytes, bytes]],
    ) -> None:
        """Go on from a stored state.

        Raises:
            StorageError: If the entries do not decode or lead to another root.
        """
        try:
            state = load_state(tables_of(self.chain), entries)
        except InvalidMessage as error:
            raise StorageError(f"{self.chain}: a stored entry does not decode: {error}") from error
        if state.root != state_root:
            raise StorageError(
                f"{self.chain}: the stored state is not that of block {height}; "
                "restore the folder from a backup or fetch the blocks anew"
            )
        self._state, self._height, self._time_ms = state, height, time_ms
        self._pending.clear()

    def restore_from(self, other: "LedgerApplication") -> None:
        """Go on from the committed state of another replica in this process."""
        self._state, self._height, self._time_ms = other._state, other._height, other._time_ms
        self._pending.clear()

    def next_timer(self) -> int | None:
        """The block time from which an empty block would change something."""
        return self._ledger.next_timer(self._state)

    def check_tx(self, transaction: bytes) -> ReasonCode:
        """Whether a transaction would succeed now; never raises on a peer's bytes."""
        if self._cache is None:
            return self._check(transaction)
        return self._cache.get_or_check(
            chain=self.chain,
            height=self._height,
            state_root=self._state.root,
            transaction=transaction,
            check=lambda: self._check(transaction),
        )

    def _check(self, transaction: bytes) -> ReasonCode:
        try:
            signed = decode_for(self._ledger, transaction, self._verifier)
            draft = Draft(self._state)
            context = self._next_context(self._time_ms, None)
            self._ledger.begin_block(draft, self._state, context)
            process_transaction(self._ledger, draft, signed, context, self._verifier)
        except InvalidMessage as error:
            return reason_of(error)
        return ReasonCode.OK

    def prepare_proposal(
        self, candidates: Sequence[bytes], *, time_ms: TimeMs, max_bytes: int
    ) -> tuple[bytes, ...]:
        """Those of `candidates`, in their order, that succeed and fit into `max_bytes`."""
        self._chosen = select_transactions(
            self._ledger,
            self._state,
            self._next_context(time_ms, None),
            candidates,
            self._verifier,
            max_bytes=max_bytes,
            max_count=MAX_BLOCK_TRANSACTIONS,
        )
        return tuple(self._chosen)

    def process_proposal(self, context: BlockContext) -> Execution:
        """Execute a peer's proposal; an honest one holds only transactions that succeed.

        Raises:
            InvalidBlock: If it does not follow the committed state or holds what fails.
        """
        execution = self.finalize_block(context)
        for index, outcome in enumerate(execution.outcomes):
            if outcome.reason is not ReasonCode.OK:
                raise InvalidBlock(f"transaction {index} is refused: {outcome.reason}")
        return execution

    def finalize_block(self, context: BlockContext) -> Execution:
        """Execute a block on top of the committed state, without committing it.

        Raises:
            InvalidBlock: If it does not follow the committed state, or holds bytes that are no
                transaction of this chain.
        """
        known = self._pending.get(context)
        if known is not None:
            return known[1]
        if context.height != self._height + 1:
            raise InvalidBlock(f"block {context.height} after {self._height}")
        if context.time_ms <= self._time_ms:
            raise InvalidBlock(f"block time {context.time_ms} after {self._time_ms}")
        if self._cache is None:
            executed = self._execute(context)
        else:
            executed = self._cache.get_or_compute(
                chain=self.chain,
                state_root=self._state.root,
                context=context,
                compute=lambda: self._execute(context),
            )
        while len(self._pending) >= self.MAX_PENDING:
            self._pending.pop(next(iter(self._pending)))
        self._pending[context] = executed
        return executed[1]

    def _execute(self, context: BlockContext) -> tuple[State, Execution]:
        draft, outcomes = apply_block(
            self._ledger, self._state, context, self._verifier, decoded=self._chosen
        )
        state, changes = self._state.updated_with_bytes(draft.changes)
        execution = Execution(
            state_root=state.root,
            outcomes=outcomes,
            next_committee=self._ledger.committee(state),
            changes=self._with_genesis(changes),
            elected_committee=self._ledger.elected_committee(state),
        )
        return state, execution

    def _with_genesis(self, changes: dict[str, dict[bytes, bytes | None]]) -> Changes:
        """What a store has to write; the first block brings the genesis' entries along."""
        if self._height == 0:
            for namespace, key, value in self._state.encoded_entries():
                changes.setdefault(namespace, {}).setdefault(key, value)
        return changes

    def executed_state(self, context: BlockContext) -> State:
        """The state that a block leads to, committed or not.

        Raises:
            InvalidBlock: As `finalize_block`, which is called where it was not.
        """
        self.finalize_block(context)
        return self._pending[context][0]

    def commit(self, context: BlockContext) -> None:
        """Make an executed block the committed one.

        Raises:
            InvalidBlock: As `finalize_block`, which is called where it was not.
        """
        self.finalize_block(context)
        self._state = self._pending[context][0]
        self._height, self._time_ms = context.height, context.time_ms
        self._recent[context.height] = self._state
        self._recent.pop(Height(context.height - self._max_recent), None)
        self._pending.clear()
        self._chosen = {}

    def query(self, namespace: str, key: bytes) -> QueryResult:
        """An entry of the committed state with its proof.

        Raises:
            KeyError: If there is no such namespace.
        """
        return QueryResult(
            height=self._height,
            value=self._state.get_encoded(namespace, key),
            proof=self._state.prove(namespace, key),
        )

    def _next_context(self, time_ms: TimeMs, last_certificate: Certificate | None) -> BlockContext:
        return BlockContext(
            height=Height(self._height + 1),
            time_ms=time_ms,
            proposer=ValidatorId(bytes(32)),
            previous=Digest(bytes(32)),
            last_certificate=last_certificate,
            transactions=(),
        )
