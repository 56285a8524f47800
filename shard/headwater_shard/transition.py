"""What both ledgers share: executing a block over a state, transaction by transaction.

`apply_block` is a pure function of the state and the block. A block with bytes that are no signed
transaction of this chain is invalid as a whole, since an honest leader never proposes one; a
transaction that breaks a rule of the ledger leaves the state unchanged and its reason in the
outcome.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from headwater_protocol.chain.committee import Committee
from headwater_protocol.chain.transaction import (
    SignedTransaction,
    decode_transaction,
    verify_transaction,
)
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.errors import InvalidBlock, InvalidMessage
from headwater_protocol.identifiers import AccountId, ChainId, Network, Nonce
from headwater_protocol.reasons import ReasonCode
from headwater_shard.engine.border import BlockContext, Outcome
from headwater_shard.state.draft import Draft
from headwater_shard.state.state import State
from headwater_shard.state.table import Table


class InvalidTransaction(InvalidMessage):
    """A transaction breaks a rule of the ledger; it carries the reason of its own."""

    def __init__(self, reason: ReasonCode, message: str) -> None:
        super().__init__(message)
        self.refusal = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class NonceEntry:
    """The nonce of a sender's last executed transaction."""

    KIND: ClassVar[str] = "nonce/1"

    nonce: Nonce


NONCES = Table("nonces", NonceEntry)

OK = Outcome(reason=ReasonCode.OK)


class Ledger(Protocol):
    """The rules of one kind of chain."""

    @property
    def chain(self) -> ChainId:
        """Which chain the rules are applied to."""
        ...

    @property
    def network(self) -> Network:
        """The digest of the genesis."""
        ...

    def genesis_state(self) -> State:
        """The state at height 0."""
        ...

    def begin_block(self, draft: Draft, state: State, context: BlockContext) -> None:
        """What happens before the transactions; `state` is the one that the block builds on."""
        ...

    def process_body(
        self, draft: Draft, signed: SignedTransaction, context: BlockContext, verifier: Verifier
    ) -> None:
        """Execute one transaction.

        Raises:
            InvalidMessage: If it breaks a rule; what it wrote into `draft` is forgotten.
        """
        ...

    def end_block(self, draft: Draft, context: BlockContext) -> None:
        """What happens after the transactions, by block time and state alone."""
        ...

    def committee(self, state: State) -> Committee:
        """Who certifies the block after `state`."""
        ...

    def elected_committee(self, state: State) -> Committee | None:
        """Who certifies the block after the next one, where the next one hands over to them."""
        ...

    def next_timer(self, state: State) -> int | None:
        """The block time from which an empty block would change `state`."""
        ...


def reason_of(error: InvalidMessage) -> ReasonCode:
    """The code that a refusal is answered with."""
    return error.refusal if isinstance(error, InvalidTransaction) else error.reason


def decode_for(ledger: Ledger, data: bytes, verifier: Verifier) -> SignedTransaction:
    """The signed transaction that `data` encodes, meant for this chain.

    Raises:
        InvalidMessage: If it does not decode, is of another network or chain, or is not signed.
    """
    signed = decode_transaction(data)
    transaction = signed.transaction
    if transaction.network != ledger.network:
        raise InvalidTransaction(ReasonCode.WRONG_NETWORK, "signed for another network")
    if transaction.chain != ledger.chain:
        raise InvalidTransaction(ReasonCode.WRONG_CHAIN, f"signed for {transaction.chain}")
    verify_transaction(signed, verifier)
    return signed


def process_transaction(
    ledger: Ledger,
    draft: Draft,
    signed: SignedTransaction,
    context: BlockContext,
    verifier: Verifier,
) -> None:
    """Execute one transaction in `draft`, which stays as it was if the transaction is refused.

    Raises:
        InvalidMessage: If it breaks a rule.
    """
    sender = signed.transaction.sender
    last = draft.get(NONCES, sender)
    if last is not None and signed.transaction.nonce <= last.nonce:
        raise InvalidTransaction(
            ReasonCode.WRONG_NONCE, f"nonce {signed.transaction.nonce} after {last.nonce}"
        )
    attempt = Draft(draft)
    ledger.process_body(attempt, signed, context, verifier)
    attempt.put(NONCES, sender, NonceEntry(nonce=signed.transaction.nonce))
    draft.merge(attempt)


def apply_block(
    ledger: Ledger,
    state: State,
    context: BlockContext,
    verifier: Verifier,
    *,
    decoded: Mapping[bytes, SignedTransaction],
) -> tuple[Draft, tuple[Outcome, ...]]:
    """Execute a block: the draft that leads from `state` to the next one, and the outcomes.

    Args:
        ledger: The rules.
        state: What the block builds on.
        context: The block.
        verifier: Checks signatures.
        decoded: Transactions that `decode_for` returned before, by their bytes.

    Raises:
        InvalidBlock: If it holds bytes that are no transaction of this chain.
    """
    draft = Draft(state)
    ledger.begin_block(draft, state, context)
    outcomes: list[Outcome] = []
    for index, data in enumerate(context.transactions):
        try:
            signed = decoded.get(data) or decode_for(ledger, data, verifier)
        except InvalidMessage as error:
            raise InvalidBlock(f"transaction {index}: {error}") from error
        try:
            process_transaction(ledger, draft, signed, context, verifier)
        except InvalidMessage as error:
            outcomes.append(Outcome(reason=reason_of(error)))
        else:
            outcomes.append(OK)
    ledger.end_block(draft, context)
    return draft, tuple(outcomes)


def select_transactions(
    ledger: Ledger,
    state: State,
    context: BlockContext,
    candidates: Sequence[bytes],
    verifier: Verifier,
    *,
    max_bytes: int,
    max_count: int,
) -> dict[bytes, SignedTransaction]:
    """Those of `candidates`, in their order, that succeed one after the other and fit."""
    draft = Draft(state)
    ledger.begin_block(draft, state, context)
    selected: dict[bytes, SignedTransaction] = {}
    size = 0
    for data in candidates:
        if len(data) > max_bytes:
            continue  # It never fits, so it must not hold up those behind it.
        if len(selected) == max_count or size + len(data) > max_bytes:
            break
        try:
            signed = decode_for(ledger, data, verifier)
            process_transaction(ledger, draft, signed, context, verifier)
        except InvalidMessage:
            continue
        selected[data] = signed
        size += len(data)
    return selected


def require_role(*, holds: bool, sender: AccountId, role: str) -> None:
    """Check that the sender holds a role.

    Raises:
        InvalidTransaction: With `not_permitted`, if it does not.
    """
    if not holds:
        raise InvalidTransaction(ReasonCode.NOT_PERMITTED, f"{sender.hex()[:16]} is no {role}")
