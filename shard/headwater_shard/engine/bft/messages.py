"""What validators send each other, as records that can cross any wire.

A proposal carries the prevotes that justify proposing a block again, so it can be judged by itself:
nothing depends on votes of old views having been passed on. A block request is not signed: whoever
relays it gains one block for the named requester, at most once in a resend interval.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, cast

from headwater_protocol.chain.block import (
    MAX_BLOCK_BYTES,
    Block,
    Certificate,
    VoteSignature,
)
from headwater_protocol.chain.committee import MAX_DELEGATES
from headwater_protocol.chain.statement import NO_VIEW, LockView, ProposalClaim, SignedVote
from headwater_protocol.encoding.record import Count, decode_any_record, encode_record
from headwater_protocol.identifiers import (
    ChainId,
    Digest,
    Height,
    Signature,
    ValidatorId,
    View,
)

MAX_MESSAGE_BYTES: Final = MAX_BLOCK_BYTES + 64 * 1024
"""A block with the signatures of `MAX_DELEGATES` beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrevoteCertificate:
    """Prevotes of more than two thirds of the power for one block in one view."""

    view: View
    block: Digest
    signatures: Annotated[tuple[VoteSignature, ...], Count(1, MAX_DELEGATES)]
    """In order of the validators' keys."""


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


def claim_of(proposal: Proposal, block: Digest) -> ProposalClaim:
    """What the leader of `proposal` signed, `block` being its header's digest."""
    return ProposalClaim(
        chain=proposal.block.header.chain,
        height=proposal.block.header.height,
        view=proposal.view,
        block=block,
        valid_view=LockView(NO_VIEW if proposal.valid is None else proposal.valid.view),
    )
