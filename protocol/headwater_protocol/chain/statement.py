"""What a validator signs while a block is agreed on: votes, and claims about proposals.

They are here and not beside the engine, because two that conflict are evidence that any ledger,
light client or auditor can judge.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, NewType

from headwater_protocol.chain.block import Vote, vote_message
from headwater_protocol.crypto.hashing import Domain
from headwater_protocol.crypto.signing import Verifier, signing_bytes
from headwater_protocol.encoding.record import Range, encode_record
from headwater_protocol.errors import BadSignature
from headwater_protocol.identifiers import (
    ChainId,
    Digest,
    Height,
    Network,
    Signature,
    ValidatorId,
    View,
)

NO_VIEW: Final = -1
"""In the place of a view: no block was locked, or justified, yet."""

LockView = NewType("LockView", Annotated[int, Range(NO_VIEW, 2**31 - 1)])
"""A view, or `NO_VIEW`."""


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
class SignedVote:
    """A vote with the name and signature of its validator."""

    KIND: ClassVar[str] = "signed-vote/1"

    validator: ValidatorId
    vote: Vote
    signature: Signature


Statement = SignedVote | SignedClaim


def proposal_message(network: Network, claim: ProposalClaim) -> bytes:
    """The bytes that a leader signs for `claim`."""
    return signing_bytes(Domain.PROPOSAL, network, encode_record(claim))


def statement_chain(statement: Statement) -> ChainId:
    """The chain that a statement is about."""
    return statement.vote.chain if isinstance(statement, SignedVote) else statement.claim.chain


def statement_height(statement: Statement) -> Height:
    """The height that a statement is about."""
    return statement.vote.height if isinstance(statement, SignedVote) else statement.claim.height


def verify_statement(statement: Statement, *, network: Network, verifier: Verifier) -> None:
    """Check the validator's signature.

    Raises:
        BadSignature: If it does not verify.
    """
    message = (
        vote_message(network, statement.vote)
        if isinstance(statement, SignedVote)
        else proposal_message(network, statement.claim)
    )
    if not verifier.verify(statement.validator, message, statement.signature):
        raise BadSignature(f"not signed by {statement.validator.hex()[:16]}")
