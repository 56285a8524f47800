"""What a piece of evidence proves, and against whom; nothing is changed here."""

from dataclasses import dataclass
from typing import TypeVar

from headwater_protocol.chain.block import VoteKind, verify_certificate
from headwater_protocol.chain.committee import Committee
from headwater_protocol.chain.evidence import (
    MAX_PROVEN_BYTES,
    CometEquivocation,
    DoubleAttestation,
    Equivocation,
    Evidence,
    ProvenEntry,
    RefutedScore,
    WithheldPayload,
    WrongAttestation,
    verify_comet_equivocation,
    verify_equivocation,
    withheld_message,
)
from headwater_protocol.chain.justice import Offence
from headwater_protocol.chain.proof import SHARD_NAMESPACES, verify_state_proof
from headwater_protocol.chain.round import Round, RoundPhase
from headwater_protocol.chain.statement import SignedVote
from headwater_protocol.chain.task import Task
from headwater_protocol.chain.transaction import (
    UNAVAILABLE,
    AttestMerge,
    AttestModel,
    PostScores,
    Transaction,
    decode_transaction,
    verify_transaction,
)
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.encoding.record import decode_record
from headwater_protocol.errors import BadEncoding, BadSignature, InvalidMessage
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId, Height, Network, ValidatorId
from headwater_protocol.messages.announcement import round_key, task_key
from headwater_protocol.model.norms import compute_cosine_ten_thousandths
from headwater_protocol.model.quantized_delta import int32_delta
from headwater_protocol.reasons import ReasonCode
from headwater_shard.mainchain.justice.records import Charge
from headwater_shard.mainchain.justice.terms import (
    Term,
    require_committee,
    term_at,
    term_of_height,
    term_of_merge,
    term_of_round,
)
from headwater_shard.mainchain.market.records import TASKS
from headwater_shard.round_model import decode_task_model, decode_update_payload
from headwater_shard.shardchain.records import BATCHES, ROUNDS, Batch, batch_key
from headwater_shard.state.draft import Draft
from headwater_shard.transition import InvalidTransaction

B = TypeVar("B")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conviction:
    """A charge that evidence proves."""

    charge: Charge
    term: Term
    """When it happened."""
    vouched: Term | None = None
    """The epoch of the committee whose word the evidence takes; None where it takes nobody's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Court:
    """What evidence is judged by."""

    draft: Draft
    """Of the main chain; only read."""
    network: Network
    height: Height
    """The block's."""
    verifier: Verifier

    def judge(self, evidence: Evidence) -> Conviction:
        """What `evidence` proves.

        Raises:
            InvalidMessage: If it proves nothing; the reason says what is missing.
        """
        if isinstance(evidence, Equivocation):
            return self._judge_equivocation(evidence)
        if isinstance(evidence, CometEquivocation):
            return self._judge_comet_equivocation(evidence)
        if isinstance(evidence, DoubleAttestation):
            return self._judge_double_attestation(evidence)
        if isinstance(evidence, WrongAttestation):
            return self._judge_wrong_attestation(evidence)
        if isinstance(evidence, RefutedScore):
            return self._judge_score(evidence)
        return self._judge_withheld(evidence)

    def _judge_equivocation(self, evidence: Equivocation) -> Conviction:
        verify_equivocation(evidence, network=self.network, verifier=self.verifier)
        first, height = evidence.first, evidence.height
        if isinstance(first, SignedVote):
            offence, view = Offence.DOUBLE_VOTE, first.vote.view
            step = 1 + (first.vote.kind is VoteKind.PRECOMMIT)
        else:
            offence, view, step = Offence.DOUBLE_PROPOSAL, first.claim.view, 0
        charge = Charge(
            validator=evidence.validator,
            offence=offence,
            chain=evidence.chain,
            place=height,
            part=3 * view + step,
        )
        return Conviction(charge=charge, term=self._term_of(evidence.chain, height))

    def _judge_comet_equivocation(self, evidence: CometEquivocation) -> Conviction:
        verify_comet_equivocation(evidence, network=self.network, verifier=self.verifier)
        first = evidence.first
        return Conviction(
            charge=Charge(
                validator=evidence.validator,
                offence=Offence.DOUBLE_VOTE,
                chain=first.chain,
                place=first.height,
                part=3 * first.view + 1 + (first.kind is VoteKind.PRECOMMIT),
            ),
            term=self._term_of(first.chain, first.height),
        )

    def _term_of(self, chain: ChainId, height: Height) -> Term:
        if chain == MAIN_CHAIN:
            return term_at(self.draft, height, now=self.height)
        return term_of_height(self.draft, chain, height)

    def _judge_double_attestation(self, evidence: DoubleAttestation) -> Conviction:
        first, second = (self._decode(data) for data in (evidence.first, evidence.second))
        one, other = first.body, second.body
        if isinstance(one, AttestModel) and isinstance(other, AttestModel):
            place, part, is_same_place = int(one.round), 0, one.round == other.round
        elif isinstance(one, AttestMerge) and isinstance(other, AttestMerge):
            place, part = int(one.epoch), one.attempt
            is_same_place = (one.epoch, one.attempt) == (other.epoch, other.attempt)
        else:
            raise InvalidTransaction(
                ReasonCode.DIFFERENT_STEPS, "the two are not attestations of one kind"
            )
        if not is_same_place or (first.sender, first.chain) != (second.sender, second.chain):
            raise InvalidTransaction(
                ReasonCode.DIFFERENT_STEPS, "the two attest different models, or are of two senders"
            )
        if one.model == other.model:
            raise InvalidTransaction(ReasonCode.SAME_STATEMENT, "the two attest the same digest")
        if isinstance(one, AttestModel):
            term = term_of_round(self.draft, first.chain, one.round)
        elif first.chain == MAIN_CHAIN:
            term = term_of_merge(self.draft, one.epoch)
        else:
            raise InvalidTransaction(ReasonCode.WRONG_CHAIN, f"no merges on {first.chain}")
        charge = Charge(
            validator=ValidatorId(first.sender),
            offence=Offence.DOUBLE_ATTESTATION,
            chain=first.chain,
            place=place,
            part=part,
        )
        return Conviction(charge=charge, term=term)

    def _judge_wrong_attestation(self, evidence: WrongAttestation) -> Conviction:
        attestation = self._decode(evidence.attestation)
        body, shard = _require_body(attestation, AttestModel), attestation.chain
        term = term_of_round(self.draft, shard, body.round)
        entry_key = round_key(body.round)
        vouched = self._verify_entry(evidence.round, shard, ROUNDS.namespace, entry_key, term)
        round_ = decode_record(Round, evidence.round.value, max_bytes=MAX_PROVEN_BYTES)
        if round_.phase is not RoundPhase.CLOSED:
            raise InvalidTransaction(ReasonCode.WRONG_PHASE, f"round {body.round} is open")
        if round_.model in {round_.base, body.model}:
            raise InvalidTransaction(
                ReasonCode.NOT_REFUTED, "the round closed on its base, or on what was attested"
            )
        charge = Charge(
            validator=ValidatorId(attestation.sender),
            offence=Offence.WRONG_ATTESTATION,
            chain=shard,
            place=body.round,
            part=0,
        )
        return Conviction(charge=charge, term=term, vouched=vouched)

    def _judge_score(self, evidence: RefutedScore) -> Conviction:
        scores = self._decode(evidence.scores)
        body, shard = _require_body(scores, PostScores), scores.chain
        term = term_of_round(self.draft, shard, body.round)
        entry_key = batch_key(body.round, body.batch)
        vouched = self._verify_entry(evidence.batch, shard, BATCHES.namespace, entry_key, term)
        batch = decode_record(Batch, evidence.batch.value, max_bytes=MAX_PROVEN_BYTES)
        if evidence.position >= min(len(batch.commits), len(body.scores)):
            raise InvalidTransaction(
                ReasonCode.OUT_OF_BOUNDS, f"the batch has no score {evidence.position}"
            )
        for blob, digest in (
            (evidence.reference, body.reference),
            (evidence.payload, batch.commits[evidence.position].payload),
        ):
            if blob_digest(blob) != digest:
                raise InvalidTransaction(
                    ReasonCode.WRONG_DIGEST, f"a blob is not the one named {digest.hex()[:16]}"
                )
        score = body.scores[evidence.position]
        task = self.draft.get(TASKS, task_key(body.task))
        if task is None:
            raise InvalidTransaction(ReasonCode.UNKNOWN_TASK, f"there is no task {body.task}")
        computed = compute_score(task.task, reference=evidence.reference, payload=evidence.payload)
        # Whether a payload could be had is nobody's to recompute.
        if score in {UNAVAILABLE, computed}:
            raise InvalidTransaction(ReasonCode.NOT_REFUTED, f"the score is {score} as posted")
        charge = Charge(
            validator=ValidatorId(scores.sender),
            offence=Offence.REFUTED_SCORE,
            chain=shard,
            place=body.round,
            part=0,
        )
        return Conviction(charge=charge, term=term, vouched=vouched)

    def _judge_withheld(self, evidence: WithheldPayload) -> Conviction:
        statement = evidence.statement
        term = term_of_height(self.draft, statement.shard, statement.height)
        committee, vouched = require_committee(
            self.draft, statement.shard, term, statement.committee
        )
        if committee.power_of(statement.gateway) == 0:
            raise InvalidTransaction(
                ReasonCode.NOT_PERMITTED, f"{statement.gateway.hex()[:16]} is no delegate"
            )
        self._verify_statement(evidence, committee)
        charge = Charge(
            validator=statement.gateway,
            offence=Offence.WITHHELD_PAYLOAD,
            chain=statement.shard,
            place=statement.round,
            part=statement.batch,
        )
        return Conviction(charge=charge, term=term, vouched=vouched)

    def _verify_statement(self, evidence: WithheldPayload, committee: Committee) -> None:
        signers = [entry.validator for entry in evidence.signatures]
        if signers != sorted(set(signers)):
            raise BadEncoding("a statement lists each signer once, in order of the keys")
        committee.require_quorum(committee.power_of_all(signers))
        message = withheld_message(self.network, evidence.statement)
        for entry in evidence.signatures:
            if not self.verifier.verify(entry.validator, message, entry.signature):
                raise BadSignature(f"not signed by {entry.validator.hex()[:16]}")

    def _decode(self, data: bytes) -> Transaction:
        """A transaction that its sender signed for this network, whether or not it was executed."""
        signed = decode_transaction(data)
        if signed.transaction.network != self.network:
            raise InvalidTransaction(ReasonCode.WRONG_NETWORK, "signed for another network")
        verify_transaction(signed, self.verifier)
        return signed.transaction

    def _verify_entry(
        self, entry: ProvenEntry, shard: ChainId, namespace: str, key: bytes, term: Term
    ) -> Term:
        """Check an entry of a shard about what happened in `term`; the term of who vouches for it.

        Without a bound on the header's own age, a committee of long ago could say in a block of its
        time what happened in a round of today.
        """
        header = entry.header
        if header.network != self.network:
            raise InvalidTransaction(ReasonCode.WRONG_NETWORK, "a header of another network")
        if header.chain != shard:
            raise InvalidTransaction(ReasonCode.WRONG_CHAIN, f"a header of {header.chain}")
        served = term_of_height(self.draft, shard, header.height)
        if served.last < term.first:
            raise InvalidTransaction(
                ReasonCode.WRONG_EPOCH, f"a block of epoch {served.last} about one of {term.first}"
            )
        committee, vouched = require_committee(self.draft, shard, served, header.committee)
        verify_certificate(
            entry.certificate, header=header, committee=committee, verifier=self.verifier
        )
        verify_state_proof(
            entry.proof,
            state_root=header.state_root,
            namespaces=SHARD_NAMESPACES,
            namespace=namespace,
            key=key,
            value=entry.value,
        )
        return vouched


def compute_score(task: Task, *, reference: bytes, payload: bytes) -> int | None:
    """The score that an honest delegate posts for a payload, given its reference.

    None where the reference is no delta of the task: then no score is right. A payload that does
    not decode is as good as missing.
    """
    try:
        vector = decode_task_model(task, reference).parameters
    except InvalidMessage:
        return None
    try:
        delta = int32_delta(decode_update_payload(task, payload))
    except InvalidMessage:
        return UNAVAILABLE
    return compute_cosine_ten_thousandths(delta, vector)


def _require_body(transaction: Transaction, kind: type[B]) -> B:
    if not isinstance(transaction.body, kind):
        raise InvalidTransaction(
            ReasonCode.DIFFERENT_STEPS, f"a transaction of another kind than {kind.__name__}"
        )
    return transaction.body
