"""The precommits for the last finalized block, which the next block carries as its certificate.

A block stands as soon as a quorum signed it; the signatures that come after that are still worth
having, since the ledger may pay those who signed and penalise those who did not.
"""

from headwater_protocol.chain.block import (
    Certificate,
    Vote,
    VoteKind,
    VoteSignature,
    vote_message,
)
from headwater_protocol.chain.statement import SignedVote
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.errors import BadSignature
from headwater_protocol.identifiers import Network, Signature, TimeMs, ValidatorId
from headwater_shard.engine.bft.votes import Electorate


class ParentVotes:
    """The certificate of one block, growing by the votes that come late."""

    __slots__ = ("_certificate", "_electorate", "_message", "_signatures", "_vote", "decided_ms")

    def __init__(
        self,
        certificate: Certificate,
        *,
        network: Network,
        electorate: Electorate,
        decided_ms: TimeMs,
    ) -> None:
        self.decided_ms = decided_ms
        """When this replica learned that the block stands."""
        self._certificate = certificate
        self._electorate = electorate
        self._vote = Vote(
            kind=VoteKind.PRECOMMIT,
            chain=certificate.chain,
            height=certificate.height,
            view=certificate.view,
            block=certificate.block,
        )
        self._message = vote_message(network, self._vote)
        self._signatures: dict[ValidatorId, Signature] = {
            entry.validator: entry.signature for entry in certificate.signatures
        }

    def take(self, signed: SignedVote, verifier: Verifier) -> bool:
        """Add a late precommit; False where it is not one for this certificate.

        Raises:
            BadSignature: If it is, but its signature does not verify.
        """
        if signed.vote != self._vote or self._electorate.power_of(signed.validator) == 0:
            return False
        if signed.validator not in self._signatures:
            if not verifier.verify(signed.validator, self._message, signed.signature):
                raise BadSignature(f"not signed by {signed.validator.hex()[:16]}")
            self._signatures[signed.validator] = signed.signature
        return True

    def certificate(self) -> Certificate:
        """All precommits so far."""
        if len(self._signatures) == len(self._certificate.signatures):
            return self._certificate
        return Certificate(
            chain=self._certificate.chain,
            height=self._certificate.height,
            view=self._certificate.view,
            block=self._certificate.block,
            signatures=tuple(
                VoteSignature(validator=validator, signature=signature)
                for validator, signature in sorted(self._signatures.items())
            ),
        )

    def knows(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """Whether this signature is among those that were verified."""
        return (
            message == self._message and self._signatures.get(ValidatorId(public_key)) == signature
        )


class ParentVerifier:
    """A verifier that does not repeat what `ParentVotes` has verified already."""

    __slots__ = ("_parent", "_verifier")

    def __init__(self, parent: ParentVotes | None, verifier: Verifier) -> None:
        self._parent = parent
        self._verifier = verifier

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """Whether `signature` (64 bytes) is `public_key`'s (32 bytes) over `message`."""
        if self._parent is not None and self._parent.knows(public_key, message, signature):
            return True
        return self._verifier.verify(public_key, message, signature)
