"""Votes of CometBFT as its validators sign them, for ledgers that run on it.

A validator's key is the same on both sides, so a vote that CometBFT holds is a statement of our
validator, and two that conflict convict it. What is signed is the canonical protobuf message with
its length in front; it is written out here, because whoever judges evidence, a device among them,
needs these bytes and nothing else of CometBFT. They can never be taken for one of our own signed
messages: those begin with `headwater/`, whose second letter is no field of a canonical vote.

CometBFT specification 0.38, "Data Structures": `CanonicalVote`, `CanonicalVoteExtension`.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from headwater_protocol.chain.block import VoteKind
from headwater_protocol.encoding.record import Range
from headwater_protocol.identifiers import MAX_UNSIGNED, ChainId, Digest, Height, Network, View

NETWORK_HEX_DIGITS: Final = 16
"""Of the network in the name of a chain, of which CometBFT takes 50 characters."""

_STEPS: Final = {VoteKind.PREVOTE: 1, VoteKind.PRECOMMIT: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class CometBlockId:
    """How CometBFT names a block."""

    digest: Digest
    num_parts: Annotated[int, Range(1, 2**32 - 1)]
    parts: Digest
    """The root over the parts in which the block travels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CometVote:
    """A prevote or a precommit of CometBFT."""

    KIND: ClassVar[str] = "comet-vote/1"

    kind: VoteKind
    chain: ChainId
    height: Height
    view: View
    """CometBFT calls it the round."""
    block: CometBlockId | None
    """None votes for no block in this view."""
    seconds: Annotated[int, Range(0, MAX_UNSIGNED)]
    """The voter's clock, in Unix seconds."""
    nanoseconds: Annotated[int, Range(0, 999_999_999)]


def comet_chain_id(network: Network, chain: ChainId) -> str:
    """The name under which CometBFT knows a chain; every vote contains it."""
    return f"{chain}-{network.hex()[:NETWORK_HEX_DIGITS]}"


def comet_vote_message(network: Network, vote: CometVote) -> bytes:
    """The bytes that a validator signs for `vote`."""
    block = b""
    if vote.block is not None:
        parts = _number(1, vote.block.num_parts) + _bytes(2, vote.block.parts)
        block = _bytes(4, _bytes(1, vote.block.digest) + _bytes(2, parts))
    time = _number(1, vote.seconds) + _number(2, vote.nanoseconds)
    return _delimited(
        _number(1, _STEPS[vote.kind])
        + _fixed(2, vote.height)
        + _fixed(3, vote.view)
        + block
        + _bytes(5, time)
        + _bytes(6, comet_chain_id(network, vote.chain).encode())
    )


def comet_extension_message(
    network: Network, chain: ChainId, extension: bytes, *, height: Height, view: View
) -> bytes:
    """The bytes that a validator signs for what its application adds to a precommit."""
    return _delimited(
        (_bytes(1, extension) if extension else b"")
        + _fixed(2, height)
        + _fixed(3, view)
        + _bytes(4, comet_chain_id(network, chain).encode())
    )


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _number(field: int, value: int) -> bytes:
    """A varint field; a zero is left out, as protobuf has it."""
    return _varint(field << 3) + _varint(value) if value else b""


def _fixed(field: int, value: int) -> bytes:
    """A field of 64 bits; a zero is left out."""
    return _varint(field << 3 | 1) + value.to_bytes(8, "little") if value else b""


def _bytes(field: int, value: bytes) -> bytes:
    """A field with its length; an empty one is written, since only set ones come here."""
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _delimited(message: bytes) -> bytes:
    return _varint(len(message)) + message
