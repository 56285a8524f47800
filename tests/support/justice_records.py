"""Examples of the records of evidence, for tests of encodings."""

from collections.abc import Iterator

from headwater_protocol.chain.block import BlockHeader, Certificate, VoteKind, VoteSignature
from headwater_protocol.chain.committee import committee_digest
from headwater_protocol.chain.evidence import (
    CometEquivocation,
    DoubleAttestation,
    Equivocation,
    Evidence,
    PayloadWithheld,
    ProvenEntry,
    RefutedScore,
    WithheldPayload,
    WrongAttestation,
    withheld_message,
)
from headwater_protocol.chain.justice import JusticeBody, SubmitEvidence, Unjail
from headwater_protocol.chain.proof import StateProof
from headwater_protocol.chain.statement import SignedClaim
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.identifiers import Height, RoundNumber
from tests.support.justice import SHARD, attestation, comet_double_vote, double_vote, sign_claim
from tests.support.network import Cast


def make_evidence(
    cast: Cast, header: BlockHeader, certificate: Certificate, proof: StateProof
) -> list[Evidence]:
    """One of each kind; what they enclose need not hold."""
    guilty, *others = cast.validators[SHARD]
    entry = ProvenEntry(header=header, certificate=certificate, proof=proof, value=b"record")
    statement = PayloadWithheld(
        shard=SHARD,
        committee=committee_digest(cast.genesis.committee(SHARD)),
        height=Height(9),
        round=RoundNumber(3),
        batch=0,
        payload=blob_digest(b"payload"),
        gateway=guilty.validator,
    )
    message = withheld_message(cast.network, statement)
    return [
        double_vote(cast, guilty, kind=VoteKind.PRECOMMIT),
        Equivocation(
            first=sign_claim(cast, guilty, blob_digest(b"one")),
            second=sign_claim(cast, guilty, blob_digest(b"two")),
        ),
        comet_double_vote(cast, guilty),
        DoubleAttestation(
            first=attestation(cast, guilty, b"one"), second=attestation(cast, guilty, b"two")
        ),
        WrongAttestation(attestation=attestation(cast, guilty, b"one"), round=entry),
        RefutedScore(
            scores=attestation(cast, guilty, b"scores"),
            batch=entry,
            position=1,
            reference=b"reference",
            payload=b"payload",
        ),
        WithheldPayload(
            statement=statement,
            signatures=tuple(
                VoteSignature(validator=signer.validator, signature=signer.sign(message))
                for signer in sorted(others, key=lambda signer: signer.validator)
            ),
        ),
    ]


def make_justice_bodies(evidence: list[Evidence]) -> list[JusticeBody]:
    """A transaction of each kind."""
    return [*(SubmitEvidence(evidence=entry) for entry in evidence), Unjail()]


def example_justice_records(evidence: list[Evidence]) -> Iterator[object]:
    """What stands inside evidence and has a KIND of its own."""
    for entry in evidence:
        yield entry
        if isinstance(entry, Equivocation):
            yield entry.first
            if isinstance(entry.first, SignedClaim):
                yield entry.first.claim
        elif isinstance(entry, CometEquivocation):
            yield entry.first
        elif isinstance(entry, WithheldPayload):
            yield entry.statement
