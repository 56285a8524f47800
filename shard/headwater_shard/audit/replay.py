"""Replaying one chain: every field of every header, every certificate, every state root."""

from dataclasses import dataclass

from headwater_protocol.chain.block import (
    MAX_BLOCK_BYTES,
    NO_DIGEST,
    Block,
    BlockHeader,
    Certificate,
    certificate_digest,
    header_digest,
    transactions_root,
    verify_certificate,
)
from headwater_protocol.chain.committee import Committee, committee_digest
from headwater_protocol.chain.genesis import Genesis
from headwater_protocol.chain.transaction import Transaction, decode_transaction
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.errors import InvalidMessage
from headwater_protocol.identifiers import ChainId, Digest, Height
from headwater_protocol.reasons import ReasonCode
from headwater_shard.application import LedgerApplication, make_ledger
from headwater_shard.audit.failure import Mismatch, require_equal
from headwater_shard.engine.bft.history import FinalizedBlock
from headwater_shard.engine.bft.validation import make_context, outcomes_root
from headwater_shard.engine.border import BlockContext, Changes
from headwater_shard.state.draft import Draft
from headwater_shard.state.state import State
from headwater_shard.transition import decode_for, process_transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedBlock:
    """A block that holds, with what it did."""

    header: BlockHeader
    digest: Digest
    """The header's."""
    parent: BlockHeader | None
    """None at height 1."""
    committee: Committee
    """Who certified it."""
    transactions: tuple[Transaction, ...]
    """Those that the ledger executed, in order; refused ones are left out."""
    num_refused: int
    state: State
    """After the block."""
    changes: Changes
    """The entries that differ from the state before."""


class ChainReplay:
    """Follows one chain from its genesis, block by block."""

    def __init__(self, *, genesis: Genesis, chain: ChainId, verifier: Verifier) -> None:
        """Start at the genesis state.

        Raises:
            ConfigError: If the genesis has no such chain.
        """
        self._ledger = make_ledger(genesis, chain)
        self._application = LedgerApplication(self._ledger, verifier)
        self._verifier = verifier
        self._parent: BlockHeader | None = None
        self._parent_digest = NO_DIGEST
        self._parent_committee: Committee | None = None
        self._parent_certificate: Certificate | None = None
        self._committee = self._application.committee
        self._committee_digest = committee_digest(self._committee)

    @property
    def height(self) -> Height:
        """The last block followed; 0 at the start."""
        return self._application.height

    @property
    def state(self) -> State:
        """After the last block followed."""
        return self._application.state

    def follow(self, final: FinalizedBlock) -> ReplayedBlock:
        """Check the next block and execute it.

        Raises:
            HeadwaterError: Says what does not hold; the replay cannot go on then.
        """
        block, certificate = final.block, final.certificate
        self._require_place(block.header)
        self._require_body(block)
        verify_certificate(
            certificate, header=block.header, committee=self._committee, verifier=self._verifier
        )
        self._require_parent_certificate(block)
        return self._execute(block, certificate)

    def _require_place(self, header: BlockHeader) -> None:
        """What follows from the chain so far."""
        for what, found, expected in (
            ("network", header.network, self._application.network),
            ("chain", header.chain, self._application.chain),
            ("height", header.height, self._application.height + 1),
            ("previous", header.previous, self._parent_digest),
            ("committee", header.committee, self._committee_digest),
        ):
            require_equal(what, found=found, expected=expected)
        if self._parent is not None and header.time_ms <= self._parent.time_ms:
            raise Mismatch(f"time {header.time_ms} is not later than {self._parent.time_ms}")
        if self._committee.power_of(header.proposer) == 0:
            raise Mismatch(f"the proposer {header.proposer.hex()[:16]}… is no delegate")

    def _require_body(self, block: Block) -> None:
        """What the header says about the block's own contents."""
        size = sum(len(transaction) for transaction in block.transactions)
        if size > MAX_BLOCK_BYTES:
            raise Mismatch(f"transactions of {size} bytes, the limit is {MAX_BLOCK_BYTES}")
        for what, found, expected in (
            (
                "last_certificate",
                block.header.last_certificate,
                certificate_digest(block.last_certificate),
            ),
            (
                "transactions_root",
                block.header.transactions_root,
                transactions_root(block.transactions),
            ),
        ):
            require_equal(what, found=found, expected=expected, by="the block")

    def _require_parent_certificate(self, block: Block) -> None:
        carried = block.last_certificate
        if self._parent is None or self._parent_committee is None:
            if carried is not None:
                raise Mismatch("a first block carries a certificate of a block before it")
            return
        if carried is None:
            raise Mismatch("the certificate of the block before is missing")
        # The one in the store may have gained late votes; where both are one it has been checked.
        if carried != self._parent_certificate:
            verify_certificate(
                carried,
                header=self._parent,
                committee=self._parent_committee,
                verifier=self._verifier,
            )

    def _execute(self, block: Block, certificate: Certificate) -> ReplayedBlock:
        header, context = block.header, make_context(block)
        execution = self._application.finalize_block(context)
        is_same = execution.next_committee == self._committee
        next_digest = (
            self._committee_digest if is_same else committee_digest(execution.next_committee)
        )
        executed: list[Transaction] = []
        for data, outcome in zip(block.transactions, execution.outcomes, strict=True):
            if outcome.reason is ReasonCode.OK:
                executed.append(decode_transaction(data).transaction)
        if header.outcomes_root != outcomes_root(execution.outcomes):
            raise self._explain_outcomes(context)
        for what, found, expected in (
            ("state_root", header.state_root, execution.state_root),
            ("next_committee", header.next_committee, next_digest),
        ):
            require_equal(what, found=found, expected=expected)
        self._application.commit(context)
        parent, committee = self._parent, self._committee
        self._parent, self._parent_digest = header, header_digest(header)
        self._parent_committee, self._parent_certificate = committee, certificate
        self._committee, self._committee_digest = execution.next_committee, next_digest
        return ReplayedBlock(
            header=header,
            digest=self._parent_digest,
            parent=parent,
            committee=committee,
            transactions=tuple(executed),
            num_refused=len(block.transactions) - len(executed),
            state=self._application.state,
            changes=execution.changes,
        )

    def _explain_outcomes(self, context: BlockContext) -> Mismatch:
        """Which transaction the replay refuses, in the refusal's own words."""
        state = self._application.state
        draft = Draft(state)
        self._ledger.begin_block(draft, state, context)
        for index, data in enumerate(context.transactions):
            try:
                signed = decode_for(self._ledger, data, self._verifier)
                process_transaction(self._ledger, draft, signed, context, self._verifier)
            except InvalidMessage as error:
                return Mismatch(
                    f"outcomes_root differs: replay refuses the transaction, {error}",
                    item=f"transaction {index}",
                )
        return Mismatch("outcomes_root differs: replay refuses no transaction")
