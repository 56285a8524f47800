"""Builders of evidence: what each kind needs, signed by whoever a test accuses."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from headwater_protocol.chain.block import Vote, VoteKind, VoteSignature, vote_message
from headwater_protocol.chain.comet_vote import CometBlockId, CometVote, comet_vote_message
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
from headwater_protocol.chain.genesis import Parameters
from headwater_protocol.chain.justice import SubmitEvidence
from headwater_protocol.chain.statement import (
    NO_VIEW,
    LockView,
    ProposalClaim,
    SignedClaim,
    SignedVote,
    proposal_message,
)
from headwater_protocol.chain.transaction import (
    AttestMerge,
    AttestModel,
    Body,
    CommitUpdates,
    PostScores,
    Transaction,
    sign_transaction,
)
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.identifiers import (
    MAIN_CHAIN,
    ChainId,
    Digest,
    EpochNumber,
    Height,
    Network,
    Nonce,
    RoundNumber,
    View,
)
from headwater_protocol.messages.announcement import round_key
from headwater_protocol.model.fixed_point import FixedPointModel, encode_model
from headwater_protocol.model.payload import encode_payload
from headwater_protocol.model.quantize import quantize
from headwater_shard.engine.border import Execution
from headwater_shard.mainchain.justice.conviction import compute_score
from headwater_shard.mainchain.justice.records import EVIDENCE, Infraction
from headwater_shard.mainchain.records import CANDIDATES, Candidate
from headwater_shard.shardchain.records import batch_key
from tests.support.ledgers import attest, delegates, execute, open_round
from tests.support.network import Cast, Chain, key, make_cast

SHARD = ChainId("shard-0")
PARAMETERS = Parameters(
    checkpoint_interval=1,
    checkpoints_per_epoch=1,
    merge_wait_ms=500,
    epoch_timeout_ms=60_000,
    retention_rounds=3,
    clock_drift_ms=1_000,
    unbonding_blocks=20,
    jail_blocks=5,
    downtime_window_blocks=20,
    max_missed_blocks=8,
)
MODEL = blob_digest(b"the round's model")


def sign_vote(
    cast: Cast,
    signer: SecretKey,
    *,
    chain: ChainId = MAIN_CHAIN,
    height: int = 1,
    view: int = 0,
    kind: VoteKind = VoteKind.PREVOTE,
    block: Digest | None = None,
    network: Network | None = None,
) -> SignedVote:
    vote = Vote(kind=kind, chain=chain, height=Height(height), view=View(view), block=block)
    signature = signer.sign(vote_message(network or cast.network, vote))
    return SignedVote(validator=signer.validator, vote=vote, signature=signature)


def sign_claim(
    cast: Cast, signer: SecretKey, block: Digest, *, chain: ChainId = MAIN_CHAIN, height: int = 1
) -> SignedClaim:
    claim = ProposalClaim(
        chain=chain,
        height=Height(height),
        view=View(0),
        block=block,
        valid_view=LockView(NO_VIEW),
    )
    signature = signer.sign(proposal_message(cast.network, claim))
    return SignedClaim(validator=signer.validator, claim=claim, signature=signature)


def comet_vote(block: bytes | None, **place: object) -> CometVote:
    """A vote of CometBFT; `block` names the block."""
    vote = CometVote(
        kind=VoteKind.PRECOMMIT,
        chain=SHARD,
        height=Height(7),
        view=View(0),
        block=(
            None
            if block is None
            else CometBlockId(digest=blob_digest(block), num_parts=1, parts=blob_digest(b"parts"))
        ),
        seconds=1_700_000_000,
        nanoseconds=5,
    )
    return replace(vote, **place)  # type: ignore[arg-type]


def comet_double_vote(cast: Cast, signer: SecretKey, **place: object) -> CometEquivocation:
    """Two votes of CometBFT for one step."""
    first, second = comet_vote(b"one", **place), comet_vote(b"two", **place)
    return CometEquivocation(
        validator=signer.validator,
        first=first,
        first_signature=signer.sign(comet_vote_message(cast.network, first)),
        second=second,
        second_signature=signer.sign(comet_vote_message(cast.network, second)),
    )


def double_vote(cast: Cast, signer: SecretKey, **place: object) -> Equivocation:
    """A vote for a block and one for none."""
    return Equivocation(
        first=sign_vote(cast, signer, **place),  # type: ignore[arg-type]
        second=sign_vote(cast, signer, block=blob_digest(b"block"), **place),  # type: ignore[arg-type]
    )


def sign_body(
    cast: Cast,
    signer: SecretKey,
    body: Body,
    *,
    chain: ChainId = SHARD,
    network: Network | None = None,
) -> bytes:
    """A signed transaction that no ledger has to have executed."""
    transaction = Transaction(
        network=network or cast.network,
        chain=chain,
        sender=signer.account,
        nonce=Nonce(1),
        body=body,
    )
    return sign_transaction(signer, transaction)


def attestation(cast: Cast, signer: SecretKey, model: bytes, *, round_: int = 1) -> bytes:
    return sign_body(cast, signer, AttestModel(round=RoundNumber(round_), model=blob_digest(model)))


def merge_attestation(
    cast: Cast, signer: SecretKey, model: bytes, *, epoch: int = 1, attempt: int = 0
) -> bytes:
    body = AttestMerge(epoch=EpochNumber(epoch), model=blob_digest(model), attempt=attempt)
    return sign_body(cast, signer, body, chain=MAIN_CHAIN)


def prove_entry(chain: Chain, namespace: str, entry_key: bytes) -> ProvenEntry:
    """An entry of a chain's state as its last block proves it."""
    block, certificate = chain.blocks[-1]
    result = chain.app.query(namespace, entry_key)
    assert result.value is not None
    return ProvenEntry(
        header=block.header, certificate=certificate, proof=result.proof, value=result.value
    )


def make_delta(seed: int, cast: Cast) -> bytes:
    """A reference: random numbers as a model's blob."""
    task = cast.genesis.task
    numbers = np.random.default_rng(seed).integers(-9_999, 9_999, task.num_parameters)
    return encode_model(
        FixedPointModel(parameters=numbers.astype(np.int32), fraction_bits=task.fraction_bits)
    )


def make_payload(seed: int, cast: Cast) -> bytes:
    """An update as a device of the task sends it."""
    task = cast.genesis.task
    rng = np.random.default_rng(seed)
    delta = quantize(
        rng.normal(0, 0.1, task.num_parameters).astype(np.float32),
        tensor_sizes=task.tensor_sizes,
        bits=task.codec.bits,
        keep_thousandths=task.codec.keep_thousandths,
        fraction_bits=task.fraction_bits,
        rng=rng,
    )
    return encode_payload(delta)


@dataclass
class Trial:
    """A main chain, a shard with one closed round of real payloads, and someone who reports."""

    cast: Cast
    main: Chain
    shard: Chain
    payloads: tuple[bytes, ...]
    """In the batch's order."""
    reporter: SecretKey = field(default_factory=lambda: key("reporter"))

    @property
    def guilty(self) -> SecretKey:
        """Any delegate of the shard."""
        return delegates(self.shard)[1]

    def submit(self, evidence: Evidence) -> Execution:
        return execute(self.main, self.sign(evidence))

    def sign(self, evidence: Evidence) -> bytes:
        return self.main.sign(self.reporter, SubmitEvidence(evidence=evidence))

    def candidate(self, signer: SecretKey | None = None) -> Candidate:
        found = self.main.app.state.get(CANDIDATES, (signer or self.guilty).validator)
        assert found is not None
        return found

    def infractions(self) -> list[Infraction]:
        return [entry for _, entry in self.main.app.state.sorted_items(EVIDENCE)]

    def round_entry(self) -> ProvenEntry:
        return prove_entry(self.shard, "rounds", round_key(RoundNumber(1)))

    def batch_entry(self) -> ProvenEntry:
        return prove_entry(self.shard, "batches", batch_key(RoundNumber(1), 0))

    def wrong_attestation(self, model: bytes = b"wrong") -> WrongAttestation:
        return WrongAttestation(
            attestation=attestation(self.cast, self.guilty, model), round=self.round_entry()
        )

    def double_attestation(self) -> DoubleAttestation:
        return DoubleAttestation(
            first=attestation(self.cast, self.guilty, b"one"),
            second=attestation(self.cast, self.guilty, b"two"),
        )

    def true_scores(self, reference: bytes) -> tuple[int, ...]:
        scores = [
            compute_score(self.cast.genesis.task, reference=reference, payload=payload)
            for payload in self.payloads
        ]
        return tuple(score for score in scores if score is not None)

    def refuted_score(
        self, scores: Iterable[int], *, reference: bytes | None = None, **changes: object
    ) -> RefutedScore:
        """Evidence about score 0; `changes` spoil it."""
        blob = make_delta(1, self.cast) if reference is None else reference
        body = PostScores(
            task=self.cast.genesis.task.task,
            round=RoundNumber(1),
            batch=0,
            scores=tuple(scores),
            reference=blob_digest(blob),
        )
        evidence = RefutedScore(
            scores=sign_body(self.cast, self.guilty, body),
            batch=self.batch_entry(),
            position=0,
            reference=blob,
            payload=self.payloads[0],
        )
        return replace(evidence, **changes)  # type: ignore[arg-type]

    def withheld(
        self, *, by: Iterable[SecretKey] | None = None, **changes: object
    ) -> WithheldPayload:
        """What delegates say of the guilty gateway; `changes` spoil the statement."""
        statement = PayloadWithheld(
            shard=SHARD,
            committee=committee_digest(self.shard.app.committee),
            height=self.shard.app.height,
            round=RoundNumber(1),
            batch=0,
            payload=blob_digest(self.payloads[0]),
            gateway=self.guilty.validator,
        )
        statement = replace(statement, **changes)  # type: ignore[arg-type]
        signers = delegates(self.shard) if by is None else tuple(by)
        message = withheld_message(self.cast.network, statement)
        return WithheldPayload(
            statement=statement,
            signatures=tuple(
                VoteSignature(validator=signer.validator, signature=signer.sign(message))
                for signer in sorted(signers, key=lambda signer: signer.validator)
            ),
        )


def make_trial(*, parameters: Parameters = PARAMETERS) -> Trial:
    """Two shards of four delegates; shard 0 has closed its first round on `MODEL`."""
    cast = make_cast(
        shards=("shard-0", "shard-1"),
        parameters=parameters,
        stakes=(100_000, 100_000, 100_000, 100_000),
        balances=[("alice", 1_000_000), ("bob", 1_000_000)],
    )
    main, shard = Chain(cast, MAIN_CHAIN), Chain(cast, SHARD)
    main.block()
    devices = sorted((key(f"device {index}") for index in range(3)), key=lambda d: d.device)
    open_round(shard, devices)
    payloads = tuple(make_payload(index, cast) for index in range(len(devices)))
    commits = tuple(
        shard.commit(device, payload) for device, payload in zip(devices, payloads, strict=True)
    )
    sender = delegates(shard)[0]
    execute(shard, shard.sign(sender, CommitUpdates(round=RoundNumber(1), commits=commits)))
    body = PostScores(
        task=cast.genesis.task.task,
        round=RoundNumber(1),
        batch=0,
        scores=(100,) * len(devices),
        reference=blob_digest(b"reference"),
    )
    execute(shard, *(shard.sign(entry, body) for entry in delegates(shard)))
    attest(shard, MODEL)
    return Trial(cast=cast, main=main, shard=shard, payloads=payloads)
