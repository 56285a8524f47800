"""Evidence of equivocation: two statements that no honest validator signs both of."""

from dataclasses import dataclass
from typing import ClassVar, Final

from headwater_protocol.chain.block import vote_message
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.errors import BadProof, BadSignature
from headwater_protocol.identifiers import Height, Network, ValidatorId
from headwater_shard.engine.bft.messages import SignedClaim, SignedVote, proposal_message

MAX_EVIDENCE: Final = 256
"""Equivocations that one machine remembers; later ones are counted only."""

Statement = SignedVote | SignedClaim


@dataclass(frozen=True, slots=True, kw_only=True)
class Equivocation:
    """Two different votes for one step of a view, or two proposals for one view."""

    KIND: ClassVar[str] = "equivocation/1"

    first: Statement
    second: Statement

    @property
    def validator(self) -> ValidatorId:
        """Who signed both."""
        return self.first.validator

    @property
    def height(self) -> Height:
        """At which height."""
        return statement_height(self.first)


def statement_height(statement: Statement) -> Height:
    """The height that a statement is about."""
    return statement.vote.height if isinstance(statement, SignedVote) else statement.claim.height


def verify_equivocation(evidence: Equivocation, *, network: Network, verifier: Verifier) -> None:
    """Check that `evidence` convicts its validator on `network`.

    Raises:
        BadProof: If an honest validator could have signed both.
        BadSignature: If one of them is not signed by the validator.
    """
    if _slot(evidence.first) != _slot(evidence.second):
        raise BadProof("the two statements are about different steps or of different validators")
    if _content(evidence.first) == _content(evidence.second):
        raise BadProof("the two statements say the same")
    for statement in (evidence.first, evidence.second):
        message = (
            vote_message(network, statement.vote)
            if isinstance(statement, SignedVote)
            else proposal_message(network, statement.claim)
        )
        if not verifier.verify(statement.validator, message, statement.signature):
            raise BadSignature(f"not signed by {statement.validator.hex()[:16]}")


def _slot(statement: Statement) -> tuple[object, ...]:
    if isinstance(statement, SignedVote):
        vote = statement.vote
        return (statement.validator, vote.kind, vote.chain, vote.height, vote.view)
    claim = statement.claim
    return (statement.validator, "proposal", claim.chain, claim.height, claim.view)


def _content(statement: Statement) -> object:
    return statement.vote if isinstance(statement, SignedVote) else statement.claim
