"""What a block has to be before a validator votes for it, and what it has to be once certified.

The checks that every replica decides alike come first; a clock is asked only before a vote, since a
block that others certified stands whatever this validator's clock says.
"""

from dataclasses import dataclass, fields
from functools import cache
from typing import Final

from headwater_protocol.chain.block import (
    MAX_BLOCK_BYTES,
    MAX_BLOCK_TRANSACTIONS,
    NO_DIGEST,
    Block,
    BlockHeader,
    Certificate,
    Vote,
    VoteKind,
    certificate_digest,
    transactions_root,
    verify_certificate,
    vote_message,
)
from headwater_protocol.chain.committee import Committee, committee_digest
from headwater_protocol.crypto.hashing import Domain, hash_bytes
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.errors import (
    BadEncoding,
    BadSignature,
    InsufficientPower,
    InvalidBlock,
    OutOfBounds,
    TooLarge,
)
from headwater_protocol.identifiers import (
    ChainId,
    Digest,
    Height,
    Network,
    TimeMs,
)
from headwater_protocol.merkle.sequence import compute_list_root
from headwater_shard.engine.bft.errors import NotPermitted, WrongField, WrongTime
from headwater_shard.engine.bft.messages import PrevoteCertificate
from headwater_shard.engine.bft.votes import Electorate
from headwater_shard.engine.border import BlockContext, Execution, Outcome

BLOCK_OVERHEAD_BYTES: Final = 128 * 1024
"""Header, certificate and the lengths of transactions, at most."""

MAX_PAYLOAD_BYTES: Final = MAX_BLOCK_BYTES - BLOCK_OVERHEAD_BYTES
"""The transactions of one block, summed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the next block goes: what its header has to follow from."""

    network: Network
    chain: ChainId
    parent: BlockHeader | None
    """None before the first block."""
    parent_digest: Digest
    """The parent's name, zeros before the first block."""
    certifiers: Committee | None
    """Who certified the parent."""
    committee: Committee
    """Who certifies the next block."""
    committee_digest: Digest

    @property
    def height(self) -> Height:
        """The next block's."""
        return Height(1 if self.parent is None else self.parent.height + 1)

    @property
    def earliest_ms(self) -> TimeMs:
        """The first time that the next block can have."""
        return TimeMs(0 if self.parent is None else self.parent.time_ms + 1)


# There are as many different ones as reason codes, and a block has thousands.
_encode_outcome = cache(encode_record)


def outcomes_root(outcomes: tuple[Outcome, ...]) -> Digest:
    """The list root of what became of a block's transactions, in a domain of its own."""
    return hash_bytes(
        Domain.OUTCOME_LIST, compute_list_root([_encode_outcome(outcome) for outcome in outcomes])
    )


def make_place(
    *,
    network: Network,
    chain: ChainId,
    parent: BlockHeader | None,
    parent_digest: Digest = NO_DIGEST,
    certifiers: Committee | None,
    committee: Committee,
) -> Place:
    """The place after `parent`."""
    return Place(
        network=network,
        chain=chain,
        parent=parent,
        parent_digest=parent_digest,
        certifiers=certifiers,
        committee=committee,
        committee_digest=committee_digest(committee),
    )


def make_header(place: Place, context: BlockContext, execution: Execution) -> BlockHeader:
    """The one header that `context` and `execution` lead to at `place`."""
    return BlockHeader(
        network=place.network,
        chain=place.chain,
        height=place.height,
        time_ms=context.time_ms,
        previous=place.parent_digest,
        last_certificate=certificate_digest(context.last_certificate),
        transactions_root=transactions_root(context.transactions),
        outcomes_root=outcomes_root(execution.outcomes),
        state_root=execution.state_root,
        committee=place.committee_digest,
        next_committee=(
            place.committee_digest
            if execution.next_committee == place.committee
            else committee_digest(execution.next_committee)
        ),
        proposer=context.proposer,
    )


def make_context(block: Block) -> BlockContext:
    """What a ledger is told about `block`."""
    header = block.header
    return BlockContext(
        height=header.height,
        time_ms=header.time_ms,
        proposer=header.proposer,
        previous=header.previous,
        last_certificate=block.last_certificate,
        transactions=block.transactions,
    )


def verify_body(block: Block) -> None:
    """Check a block's limits, and that its header names its contents.

    Blocks are told apart by their headers alone, so contents that belong to another header must not
    be kept under this one.

    Raises:
        TooLarge: If its transactions exceed `MAX_PAYLOAD_BYTES`.
        OutOfBounds: If there are more than `MAX_BLOCK_TRANSACTIONS`.
        WrongField: If the header names other transactions, or another certificate.
    """
    if len(block.transactions) > MAX_BLOCK_TRANSACTIONS:
        raise OutOfBounds(
            f"{len(block.transactions)} transactions, allowed up to {MAX_BLOCK_TRANSACTIONS}"
        )
    size = sum(len(transaction) for transaction in block.transactions)
    if size > MAX_PAYLOAD_BYTES:
        raise TooLarge("a block's transactions", size=size, limit=MAX_PAYLOAD_BYTES)
    header = block.header
    for field, found, expected in (
        ("transactions_root", header.transactions_root, transactions_root(block.transactions)),
        ("last_certificate", header.last_certificate, certificate_digest(block.last_certificate)),
    ):
        if found != expected:
            raise WrongField(field, found=found, expected=expected)


def verify_link(block: Block, place: Place, verifier: Verifier) -> None:
    """Check that a block, its body verified, follows the one before.

    Raises:
        InvalidBlock: If a field does not follow from the place.
        InvalidMessage: If the certificate of the block before does not hold.
    """
    header = block.header
    for field, found, expected in (
        ("network", header.network, place.network),
        ("chain", header.chain, place.chain),
        ("height", header.height, place.height),
        ("previous", header.previous, place.parent_digest),
        ("committee", header.committee, place.committee_digest),
    ):
        if found != expected:
            raise WrongField(field, found=found, expected=expected)
    if header.time_ms < place.earliest_ms:
        raise WrongTime(time_ms=header.time_ms, earliest_ms=place.earliest_ms, latest_ms=None)
    if place.committee.power_of(header.proposer) == 0:
        raise NotPermitted(header.proposer, "propose without voting power")
    if place.parent is None or place.certifiers is None:
        if block.last_certificate is not None:
            raise InvalidBlock("a first block has no certificate before it")
        return
    if block.last_certificate is None:
        raise InvalidBlock("the certificate of the block before is missing")
    verify_certificate(
        block.last_certificate,
        header=place.parent,
        committee=place.certifiers,
        verifier=verifier,
    )


def verify_clock(header: BlockHeader, *, now_ms: int, clock_drift_ms: int) -> None:
    """Check that a block's time is not too far ahead of this validator's.

    Raises:
        WrongTime: If it is.
    """
    latest_ms = now_ms + clock_drift_ms
    if header.time_ms > latest_ms:
        raise WrongTime(time_ms=header.time_ms, earliest_ms=0, latest_ms=latest_ms)


def verify_execution(block: Block, place: Place, execution: Execution) -> None:
    """Check that `block` says what executing it leads to.

    Raises:
        InvalidBlock: If there is not one outcome for each transaction.
        WrongField: The first field of the header that differs.
    """
    if len(execution.outcomes) != len(block.transactions):
        raise InvalidBlock(
            f"{len(execution.outcomes)} outcomes of {len(block.transactions)} transactions"
        )
    expected = make_header(place, make_context(block), execution)
    if block.header == expected:
        return
    for field in fields(BlockHeader):
        found = getattr(block.header, field.name)
        if found != getattr(expected, field.name):
            raise WrongField(field.name, found=found, expected=getattr(expected, field.name))


def verify_prevotes(
    certificate: PrevoteCertificate,
    *,
    place: Place,
    electorate: Electorate,
    verifier: Verifier,
) -> None:
    """Check that a quorum of the next block's committee signed these prevotes.

    Raises:
        BadEncoding: If the signatures are not in order.
        NotPermitted: If a signer is no delegate.
        InsufficientPower: If the signers have too little power.
        BadSignature: If a signature does not verify.
    """
    signers = [entry.validator for entry in certificate.signatures]
    if signers != sorted(set(signers)):
        raise BadEncoding("prevotes list each signer once, in order of the keys")
    power = 0
    for signer in signers:
        if electorate.power_of(signer) == 0:
            raise NotPermitted(signer, "vote without voting power")
        power += electorate.power_of(signer)
    if not electorate.is_quorum(power):
        raise InsufficientPower(signed_power=power, total_power=electorate.total_power)
    message = vote_message(
        place.network,
        Vote(
            kind=VoteKind.PREVOTE,
            chain=place.chain,
            height=place.height,
            view=certificate.view,
            block=certificate.block,
        ),
    )
    for entry in certificate.signatures:
        if not verifier.verify(entry.validator, message, entry.signature):
            raise BadSignature(f"no prevote of {entry.validator.hex()[:16]} for this block")


def verify_final(block: Block, certificate: Certificate, place: Place, verifier: Verifier) -> None:
    """Check a finalized block received from a peer, short of executing it.

    Raises:
        InvalidMessage: If it is not bound to its header, or its header not certified.
    """
    verify_body(block)
    verify_link(block, place, verifier)
    verify_certificate(
        certificate, header=block.header, committee=place.committee, verifier=verifier
    )
