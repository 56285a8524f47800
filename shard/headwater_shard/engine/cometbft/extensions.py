"""Vote extensions: each precommit brings its validator's signature over our header of the block.

An extension is a precommit of ours, encoded: it names the view in which its validator precommits,
so signatures of different views never add up to one certificate. That matters as much as the block
itself: a validator may precommit one block in a view and another in a later one, and be honest.
"""

from collections.abc import Mapping
from typing import Final

from headwater_protocol.chain.block import Certificate, Vote, VoteKind, VoteSignature, vote_message
from headwater_protocol.chain.committee import Committee
from headwater_protocol.chain.statement import SignedVote, verify_statement
from headwater_protocol.crypto.signing import SecretKey, Verifier
from headwater_protocol.encoding.record import decode_record, encode_record
from headwater_protocol.errors import InvalidMessage, OutOfBounds
from headwater_protocol.identifiers import (
    ChainId,
    Digest,
    Height,
    Network,
    Signature,
    ValidatorId,
    View,
)

MAX_EXTENSION_BYTES: Final = 512
"""A signed vote is below 300 bytes."""

DECIDED_VIEW: Final = View(2**31 - 1)
"""The view of a late vote: what was decided, in whatever round; no round gets this far. A validator
signs it for the one block that CometBFT decided, so never for two."""

MAX_VIEWS_KEPT: Final = 16
"""Extensions of one validator for one height; what comes on top is not kept, only judged."""


def sign_extension(
    key: SecretKey, *, network: Network, chain: ChainId, height: Height, view: View, block: Digest
) -> bytes:
    """The extension with which `key` precommits the header `block` in `view`."""
    vote = Vote(kind=VoteKind.PRECOMMIT, chain=chain, height=height, view=view, block=block)
    return encode_record(
        SignedVote(
            validator=key.validator, vote=vote, signature=key.sign(vote_message(network, vote))
        )
    )


def decode_extension(data: bytes) -> SignedVote:
    """The vote in an extension; its signature is not checked.

    Raises:
        InvalidMessage: If it does not decode.
    """
    return decode_record(SignedVote, data, max_bytes=MAX_EXTENSION_BYTES)


class ExtensionBook:
    """The extensions of one height that were found to hold."""

    __slots__ = ("_chain", "_committee", "_height", "_network", "_signatures", "_verifier")

    def __init__(
        self,
        *,
        network: Network,
        chain: ChainId,
        height: Height,
        committee: Committee,
        verifier: Verifier,
    ) -> None:
        self._network = network
        self._chain = chain
        self._height = height
        self._committee = committee
        self._verifier = verifier
        self._signatures: dict[tuple[View, Digest], dict[ValidatorId, Signature]] = {}

    @property
    def signatures(self) -> Mapping[tuple[View, Digest], Mapping[ValidatorId, Signature]]:
        """By view and header, who signed."""
        return self._signatures

    def add(self, validator: ValidatorId, data: bytes) -> SignedVote:
        """Check and keep what came with a validator's precommit.

        Raises:
            InvalidMessage: If it is no signature of that validator over a block of this height.
        """
        signed = decode_extension(data)
        vote = signed.vote
        if (signed.validator, vote.kind, vote.chain, vote.height) != (
            validator,
            VoteKind.PRECOMMIT,
            self._chain,
            self._height,
        ):
            raise OutOfBounds(f"an extension of another vote than {validator.hex()[:16]}'s")
        if vote.block is None:
            raise OutOfBounds("an extension for no block")
        if self._committee.power_of(validator) == 0:
            raise OutOfBounds(f"{validator.hex()[:16]} is no delegate")
        entries = self._signatures.get((vote.view, vote.block), {})
        if entries.get(validator) == signed.signature:
            return signed
        verify_statement(signed, network=self._network, verifier=self._verifier)
        if self._count_of(validator) < MAX_VIEWS_KEPT:
            self._signatures.setdefault((vote.view, vote.block), {})[validator] = signed.signature
        return signed

    def add_all(self, extensions: Mapping[ValidatorId, bytes]) -> None:
        """Keep those that hold, pass over the others."""
        for validator in sorted(extensions):
            try:
                self.add(validator, extensions[validator])
            except InvalidMessage:
                continue

    def certificate(self, block: Digest) -> Certificate | None:
        """The certificate of a header, where one view has a quorum for it; else None."""
        for view, digest in sorted(self._signatures):
            signatures = self._signatures[view, digest]
            power = self._committee.power_of_all(signatures)
            if digest == block and self._committee.is_quorum(power):
                return Certificate(
                    chain=self._chain,
                    height=self._height,
                    view=view,
                    block=block,
                    signatures=tuple(
                        VoteSignature(validator=validator, signature=signature)
                        for validator, signature in sorted(signatures.items())
                    ),
                )
        return None

    def _count_of(self, validator: ValidatorId) -> int:
        return sum(validator in entries for entries in self._signatures.values())
