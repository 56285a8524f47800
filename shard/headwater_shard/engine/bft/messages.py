"""What validators send each other, as records that can cross any wire.

A proposal carries the prevotes that justify proposing a block again, so it can be judged by itself:
nothing depends on votes of old views having been passed on. A block request is not signed: whoever
relays it gains one block for the named requester, at most once in a resend interval.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, NewType, cast

from headwater_protocol.chain.block import (
    MAX_BLOCK_BYTES,
    Block,
    Certificate,
    Vote,
    VoteSignature,
)
from headwater_protocol.chain.committee import MAX_DELEGATES
from headwater_protocol.crypto.hashing import Domain
from headwater_protocol.crypto.signing import signing_bytes
from headwater_protocol.encoding.record import Count, Range, decode_any_record, encode_record
from headwater_protocol.identifiers import (
    ChainId,
    Digest,
    Height,
    Network,
    Signature,
    ValidatorId,
    View,
)

MAX_MESSAGE_BYTES: Final = MAX_BLOCK_BYTES + 64 * 1024
"""A block with the signatures of `MAX_DELEGATES` beside it."""

NO_VIEW: Final = -1
"""In the place of a view: no block was locked, or justified, yet."""

LockView = NewType("LockView", Annotated[int, Range(NO_VIEW, 2**31 - 1)])
"""A view, or `NO_VIEW`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrevoteCertificate:
    """Prevotes of more than two thirds of the power for one block in one view."""

    view: View
    block: Digest
    signatures: Annotated[tuple[VoteSignature, ...], Count(1, MAX_DELEGATES)]
    """In order of the validators' keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposalClaim:
    """What a leader signs about its proposal."""

    KIND: ClassVar[str] = "proposal-claim/1"

    chain: ChainId
    height: Height
    view: View
    block: Digest
    """The header's digest."""
    valid_view: LockView
    """The view of the prevotes that justify the block; `NO_VIEW` where it is new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedClaim:
    """A proposal without its block: enough to convict a leader of proposing twice."""

    KIND: ClassVar[str] = "signed-claim/1"

    validator: ValidatorId
    claim: ProposalClaim
    signature: Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A leader's block for a view."""

    KIND: ClassVar[str] = "proposal/1"

    leader: ValidatorId
    view: View
    block: Block
    valid: PrevoteCertificate | None
    """Why a block of an earlier view may be proposed again; None for a new block."""
    signature: Signature
    """The leader's, over the `ProposalClaim`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedVote:
    """A vote with the name and signature of its validator."""

    KIND: ClassVar[str] = "signed-vote/1"

    validator: ValidatorId
    vote: Vote
    signature: Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRequest:
    """Asks for the finalized block of a height."""

    KIND: ClassVar[str] = "block-request/1"

    chain: ChainId
    height: Height
    requester: ValidatorId
    """Where the answer goes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockResponse:
    """A finalized block."""

    KIND: ClassVar[str] = "block-response/1"

    responder: ValidatorId
    """Who says so; not signed, since the certificate is what counts."""
    tip: Height
    """The responder's last finalized block, from which the receiver knows whether to go on."""
    block: Block
    certificate: Certificate


Message = Proposal | SignedVote | BlockRequest | BlockResponse


def encode_message(message: Message) -> bytes:
    """The canonical bytes of a message."""
    return encode_record(message)


def decode_message(data: bytes) -> Message:
    """The message that `data` encodes; nothing of it is verified.

    Raises:
        InvalidMessage: If it does not decode, or exceeds `MAX_MESSAGE_BYTES`.
    """
    kinds: tuple[type[object], ...] = (Proposal, SignedVote, BlockRequest, BlockResponse)
    return cast(Message, decode_any_record(kinds, data, max_bytes=MAX_MESSAGE_BYTES))


def proposal_message(network: Network, claim: ProposalClaim) -> bytes:
    """The bytes that a leader signs for `claim`."""
    return signing_bytes(Domain.PROPOSAL, network, encode_record(claim))


def claim_of(proposal: Proposal, block: Digest) -> ProposalClaim:
    """What the leader of `proposal` signed, `block` being its header's digest."""
    return ProposalClaim(
        chain=proposal.block.header.chain,
        height=proposal.block.header.height,
        view=proposal.view,
        block=block,
        valid_view=LockView(NO_VIEW if proposal.valid is None else proposal.valid.view),
    )
