"""Evidence against a validator: records that convict by themselves, whoever sends them.

| kind | what convicts |
|---|---|
| `Equivocation` | two votes for one step of a view, or two proposals for one view |
| `CometEquivocation` | two votes for one step of a round, on a chain that runs on CometBFT |
| `DoubleAttestation` | two signed transactions that attest different digests of one model |
| `WrongAttestation` | a signed digest of a round's model, and the round closed with another one |
| `RefutedScore` | signed scores, the two vectors that one of them compares, another cosine |
| `WithheldPayload` | more than two thirds of a committee say that a gateway does not serve a blob |

What an honest validator may have signed never convicts it. Downtime needs no evidence: the
certificates in the blocks show it.

Signed transactions travel as their encoded bytes, the form in which they stand in a block, so that
evidence inside a transaction cannot nest.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from headwater_protocol.chain.block import BlockHeader, Certificate, VoteSignature
from headwater_protocol.chain.comet_vote import CometVote, comet_vote_message
from headwater_protocol.chain.committee import MAX_DELEGATES
from headwater_protocol.chain.proof import StateProof
from headwater_protocol.chain.statement import (
    SignedVote,
    Statement,
    statement_chain,
    statement_height,
    verify_statement,
)
from headwater_protocol.crypto.hashing import Domain
from headwater_protocol.crypto.signing import Verifier, signing_bytes
from headwater_protocol.encoding.record import Count, Length, Range, encode_record
from headwater_protocol.errors import BadProof, BadSignature
from headwater_protocol.identifiers import (
    MAX_UNSIGNED,
    ChainId,
    Digest,
    Height,
    Network,
    RoundNumber,
    Signature,
    ValidatorId,
)
from headwater_protocol.reasons import ReasonCode

MAX_ATTESTATION_BYTES: Final = 1_024
"""A signed `AttestModel` or `AttestMerge`."""

MAX_SCORES_BYTES: Final = 16 * 1024
"""A signed `PostScores` with a score for each commit of the largest batch."""

MAX_PROVEN_BYTES: Final = 256 * 1024
"""A record of a shard's state: the largest is a batch."""

MAX_REFERENCE_BYTES: Final = 400 * 1024
"""A delegate's reference in evidence: about 100 000 parameters. A score about a larger model cannot
be refuted on the ledger; an auditor refutes it from the same two blobs."""

MAX_PAYLOAD_EVIDENCE_BYTES: Final = 256 * 1024
"""An update's payload in evidence; together with the rest it fits one transaction."""


class DifferentSteps(BadProof):
    """Two statements that one honest validator may have signed, or that two signed."""

    reason = ReasonCode.DIFFERENT_STEPS


class SameStatement(BadProof):
    """Two statements that do not conflict."""

    reason = ReasonCode.SAME_STATEMENT


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
    def chain(self) -> ChainId:
        """On which chain."""
        return statement_chain(self.first)

    @property
    def height(self) -> Height:
        """At which height."""
        return statement_height(self.first)


@dataclass(frozen=True, slots=True, kw_only=True)
class CometEquivocation:
    """Two votes of CometBFT for different blocks in one step of one round."""

    KIND: ClassVar[str] = "comet-equivocation/1"

    validator: ValidatorId
    first: CometVote
    first_signature: Signature
    second: CometVote
    second_signature: Signature

    @property
    def chain(self) -> ChainId:
        """On which chain."""
        return self.first.chain

    @property
    def height(self) -> Height:
        """At which height."""
        return self.first.height


@dataclass(frozen=True, slots=True, kw_only=True)
class DoubleAttestation:
    """Two `AttestModel` for one round of a shard, or two `AttestMerge` for one attempt at one."""

    KIND: ClassVar[str] = "double-attestation/1"

    first: Annotated[bytes, Length(1, MAX_ATTESTATION_BYTES)]
    """An encoded `SignedTransaction`."""
    second: Annotated[bytes, Length(1, MAX_ATTESTATION_BYTES)]
    """Another one of the same sender, for the same chain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenEntry:
    """An entry of a shard's state under a header that its committee certified.

    Which entry it is follows from the evidence around it.
    """

    header: BlockHeader
    certificate: Certificate
    proof: StateProof
    value: Annotated[bytes, Length(1, MAX_PROVEN_BYTES)]
    """The entry's record, encoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongAttestation:
    """A digest that more than two thirds refuted: what they attested is what recomputation gives.

    Only a round whose model differs from its base convicts. A round may also close on its base
    because no quorum came together in time, and then the honest attested another digest.
    """

    KIND: ClassVar[str] = "wrong-attestation/1"

    attestation: Annotated[bytes, Length(1, MAX_ATTESTATION_BYTES)]
    """An encoded `SignedTransaction` with an `AttestModel`."""
    round: ProvenEntry
    """The closed round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefutedScore:
    """A score that is not the cosine of the two vectors that it claims to compare."""

    KIND: ClassVar[str] = "refuted-score/1"

    scores: Annotated[bytes, Length(1, MAX_SCORES_BYTES)]
    """An encoded `SignedTransaction` with a `PostScores`, which names the reference."""
    batch: ProvenEntry
    """The batch that was scored; it names the payload."""
    position: Annotated[int, Range(0, MAX_UNSIGNED)]
    """Of the score in the batch."""
    reference: Annotated[bytes, Length(1, MAX_REFERENCE_BYTES)]
    """The delegate's reference, the blob that `PostScores` names."""
    payload: Annotated[bytes, Length(1, MAX_PAYLOAD_EVIDENCE_BYTES)]
    """The update's payload, the blob that the commit names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadWithheld:
    """What a delegate signs who asked a gateway for a payload and was not served.

    An honest delegate signs when the round is closed, so that the gateway had the whole round, and
    only while the gateway votes, so that it is not merely cut off.
    """

    KIND: ClassVar[str] = "payload-withheld/1"

    shard: ChainId
    committee: Digest
    """Who may say so: the digest of the committee that judged the round."""
    height: Height
    """The shard's block at which the round closed."""
    round: RoundNumber
    batch: Annotated[int, Range(0, MAX_UNSIGNED)]
    payload: Digest
    gateway: ValidatorId
    """The delegate that put the batch on the ledger, and with it said that it stores the blob."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WithheldPayload:
    """The word of more than two thirds of a committee."""

    KIND: ClassVar[str] = "withheld-payload/1"

    statement: PayloadWithheld
    signatures: Annotated[tuple[VoteSignature, ...], Count(1, MAX_DELEGATES)]
    """Over the statement, in order of the validators' keys."""


Evidence = (
    Equivocation
    | CometEquivocation
    | DoubleAttestation
    | WrongAttestation
    | RefutedScore
    | WithheldPayload
)


def withheld_message(network: Network, statement: PayloadWithheld) -> bytes:
    """The bytes that a delegate signs for `statement`."""
    return signing_bytes(Domain.PAYLOAD_WITHHELD, network, encode_record(statement))


def equivocation_step(statement: Statement) -> tuple[ValidatorId, str, ChainId, Height, int]:
    """What a validator may speak about once: who, the step, the chain, the height, the view."""
    if isinstance(statement, SignedVote):
        vote = statement.vote
        return (statement.validator, vote.kind.value, vote.chain, vote.height, vote.view)
    claim = statement.claim
    return (statement.validator, "proposal", claim.chain, claim.height, claim.view)


def verify_equivocation(evidence: Equivocation, *, network: Network, verifier: Verifier) -> None:
    """Check that `evidence` convicts its validator on `network`.

    Raises:
        DifferentSteps: If they are about different steps, or of different validators.
        SameStatement: If they say the same.
        BadSignature: If one of them is not signed by the validator.
    """
    if equivocation_step(evidence.first) != equivocation_step(evidence.second):
        raise DifferentSteps(
            "the two statements are about different steps or of different validators"
        )
    if _content(evidence.first) == _content(evidence.second):
        raise SameStatement("the two statements say the same")
    for statement in (evidence.first, evidence.second):
        verify_statement(statement, network=network, verifier=verifier)


def verify_comet_equivocation(
    evidence: CometEquivocation, *, network: Network, verifier: Verifier
) -> None:
    """Check that `evidence` convicts its validator on `network`.

    Raises:
        DifferentSteps: If they are about different steps.
        SameStatement: If they are for the same block; a validator may repeat itself at another
            time.
        BadSignature: If one of them is not signed by the validator.
    """
    first, second = evidence.first, evidence.second
    if (first.kind, first.chain, first.height, first.view) != (
        second.kind,
        second.chain,
        second.height,
        second.view,
    ):
        raise DifferentSteps("the two votes are about different steps")
    if first.block == second.block:
        raise SameStatement("the two votes say the same")
    for vote, signature in (
        (first, evidence.first_signature),
        (second, evidence.second_signature),
    ):
        if not verifier.verify(evidence.validator, comet_vote_message(network, vote), signature):
            raise BadSignature(f"not signed by {evidence.validator.hex()[:16]}")


def _content(statement: Statement) -> object:
    return statement.vote if isinstance(statement, SignedVote) else statement.claim
