"""Blocks, votes and certificates of both ledgers.

A header commits to the state after its own block, so a single certified header proves accounts,
rounds and rewards. A certificate is the votes of more than two thirds of the committee for one
header; the next block carries it, which ties who signed into the chain.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar, Final

from headwater_protocol.chain.committee import MAX_DELEGATES, Committee, committee_digest
from headwater_protocol.crypto.hashing import Domain, hash_bytes, hash_record
from headwater_protocol.crypto.signing import Verifier, signing_bytes
from headwater_protocol.encoding.record import Count, Length, encode_record
from headwater_protocol.errors import BadEncoding, BadSignature, OutOfBounds
from headwater_protocol.identifiers import (
    ChainId,
    Digest,
    Height,
    Network,
    Signature,
    TimeMs,
    ValidatorId,
    View,
)
from headwater_protocol.merkle.sequence import compute_list_root

MAX_TRANSACTION_BYTES: Final = 1024 * 1024
MAX_BLOCK_TRANSACTIONS: Final = 10_000
MAX_BLOCK_BYTES: Final = 8 * 1024 * 1024
"""What CometBFT's default of 21 MB leaves room for, and a relay sends in a second on 100 Mbit/s."""

NO_DIGEST: Final = Digest(bytes(32))
"""The predecessor of a first block, and the certificate before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockHeader:
    """What a certificate signs."""

    KIND: ClassVar[str] = "header/1"

    network: Network
    chain: ChainId
    height: Height
    """From 1."""
    time_ms: TimeMs
    """The proposer's clock, later than the predecessor's."""
    previous: Digest
    """The predecessor's header digest; zeros at height 1."""
    last_certificate: Digest
    """The digest of the predecessor's certificate; zeros at height 1."""
    transactions_root: Digest
    """List root over the encoded transactions."""
    outcomes_root: Digest
    """List root over what became of each of them."""
    state_root: Digest
    """The state after this block."""
    committee: Digest
    """Who may certify this header."""
    next_committee: Digest
    """Who may certify the next one."""
    proposer: ValidatorId


class VoteKind(StrEnum):
    """The two steps of a view; only precommits make a certificate."""

    PREVOTE = "prevote"
    PRECOMMIT = "precommit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """What a delegate signs about a block, or about having seen none."""

    KIND: ClassVar[str] = "vote/1"

    kind: VoteKind
    chain: ChainId
    height: Height
    view: View
    block: Digest | None
    """A header's digest; None votes for no block in this view."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteSignature:
    """One delegate's signature over a vote that the context states."""

    validator: ValidatorId
    signature: Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """Precommits for one block, in order of the validators' keys."""

    KIND: ClassVar[str] = "certificate/1"

    chain: ChainId
    height: Height
    view: View
    block: Digest
    signatures: Annotated[tuple[VoteSignature, ...], Count(1, MAX_DELEGATES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A header, its transactions, and the certificate of the block before."""

    KIND: ClassVar[str] = "block/1"

    header: BlockHeader
    transactions: Annotated[
        tuple[Annotated[bytes, Length(1, MAX_TRANSACTION_BYTES)], ...],
        Count(0, MAX_BLOCK_TRANSACTIONS),
    ]
    """Encoded `SignedTransaction`s in order of execution."""
    last_certificate: Certificate | None
    """None at height 1."""


def header_digest(header: BlockHeader) -> Digest:
    """The name of a block."""
    return hash_record(Domain.HEADER, header)


def certificate_digest(certificate: Certificate | None) -> Digest:
    """What the next header commits to; zeros for None."""
    return NO_DIGEST if certificate is None else hash_record(Domain.CERTIFICATE, certificate)


def transactions_root(transactions: tuple[bytes, ...]) -> Digest:
    """The list root of a block's transactions, in a domain of its own."""
    return hash_bytes(Domain.TRANSACTION_LIST, compute_list_root(transactions))


def vote_message(network: Network, vote: Vote) -> bytes:
    """The bytes that a delegate signs for `vote`."""
    return signing_bytes(Domain.VOTE, network, encode_record(vote))


def verify_certificate(
    certificate: Certificate,
    *,
    header: BlockHeader,
    committee: Committee,
    verifier: Verifier,
    is_complete: bool = True,
) -> None:
    """Check that more than two thirds of `committee` signed `header`.

    Args:
        certificate: The signatures, untrusted.
        header: The header that they should be about.
        committee: Who may sign; must be the one that the header names.
        verifier: Checks single signatures.
        is_complete: Check every signature, as an auditor does; else stop at a quorum, as a device
            may.

    Raises:
        BadEncoding: If it is about another block, or the signatures are not in order.
        OutOfBounds: If a signer is no delegate, or the header names another committee.
        InsufficientPower: If the signers have too little power.
        BadSignature: If a signature does not verify.
    """
    if certificate.block != header_digest(header) or (certificate.chain, certificate.height) != (
        header.chain,
        header.height,
    ):
        raise BadEncoding("the certificate is about another block")
    if header.committee != committee_digest(committee):
        raise OutOfBounds("the header names another committee")
    signers = [entry.validator for entry in certificate.signatures]
    if signers != sorted(set(signers)):
        raise BadEncoding("a certificate lists each signer once, in order of the keys")
    for signer in signers:
        if committee.power_of(signer) == 0:
            raise OutOfBounds(f"{signer.hex()[:16]} is no delegate")
    committee.require_quorum(committee.power_of_all(signers))
    message = vote_message(
        header.network,
        Vote(
            kind=VoteKind.PRECOMMIT,
            chain=certificate.chain,
            height=certificate.height,
            view=certificate.view,
            block=certificate.block,
        ),
    )
    power = 0
    for entry in certificate.signatures:
        if not verifier.verify(entry.validator, message, entry.signature):
            raise BadSignature(f"no vote of {entry.validator.hex()[:16]} for this block")
        power += committee.power_of(entry.validator)
        if not is_complete and committee.is_quorum(power):
            return
