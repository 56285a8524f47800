"""Each kind of evidence convicts once, and no broken form of it convicts at all."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from headwater_protocol.chain.block import VoteKind
from headwater_protocol.chain.comet_vote import CometVote, comet_vote_message
from headwater_protocol.chain.evidence import (
    CometEquivocation,
    DoubleAttestation,
    Equivocation,
    Evidence,
)
from headwater_protocol.chain.justice import PENALTIES, Offence, SubmitEvidence
from headwater_protocol.chain.statement import SignedVote
from headwater_protocol.chain.transaction import UNAVAILABLE, decode_transaction
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.encoding.record import decode_record, encode_record
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId, Height, Network, Signature, View
from headwater_protocol.reasons import ReasonCode
from headwater_shard.mainchain.supply import compute_supply
from tests.support.justice import (
    MODEL,
    SHARD,
    Trial,
    attestation,
    comet_double_vote,
    comet_vote,
    double_vote,
    make_delta,
    make_trial,
    merge_attestation,
    prove_entry,
    sign_body,
    sign_claim,
    sign_vote,
)
from tests.support.ledgers import delegates, refusal
from tests.support.network import certify, key

STAKE = 100_000
OTHER = Network(blob_digest(b"another network"))


@pytest.fixture(scope="module")
def shared() -> Trial:
    """A trial that no test commits anything to."""
    return make_trial()


def lie(trial: Trial) -> tuple[int, ...]:
    """Scores of which the first is absurd."""
    return (9_999, *trial.true_scores(make_delta(1, trial.cast))[1:])


CASES: dict[str, tuple[Offence, Callable[[Trial], Evidence]]] = {
    "double vote on the main chain": (
        Offence.DOUBLE_VOTE,
        lambda trial: double_vote(trial.cast, trial.guilty),
    ),
    "double vote on a shard": (
        Offence.DOUBLE_VOTE,
        lambda trial: double_vote(trial.cast, trial.guilty, chain=SHARD, kind=VoteKind.PRECOMMIT),
    ),
    "double vote on the main chain, on CometBFT": (
        Offence.DOUBLE_VOTE,
        lambda trial: comet_double_vote(trial.cast, trial.guilty, chain=MAIN_CHAIN),
    ),
    "double vote on a shard, on CometBFT": (
        Offence.DOUBLE_VOTE,
        lambda trial: comet_double_vote(trial.cast, trial.guilty, kind=VoteKind.PREVOTE),
    ),
    "double proposal": (
        Offence.DOUBLE_PROPOSAL,
        lambda trial: Equivocation(
            first=sign_claim(trial.cast, trial.guilty, blob_digest(b"one")),
            second=sign_claim(trial.cast, trial.guilty, blob_digest(b"two")),
        ),
    ),
    "double attestation of a round": (
        Offence.DOUBLE_ATTESTATION,
        lambda trial: trial.double_attestation(),
    ),
    "double attestation of a merge": (
        Offence.DOUBLE_ATTESTATION,
        lambda trial: DoubleAttestation(
            first=merge_attestation(trial.cast, trial.guilty, b"one"),
            second=merge_attestation(trial.cast, trial.guilty, b"two"),
        ),
    ),
    "wrong attestation": (Offence.WRONG_ATTESTATION, lambda trial: trial.wrong_attestation()),
    "absurd score": (Offence.REFUTED_SCORE, lambda trial: trial.refuted_score(lie(trial))),
    "score one off": (
        Offence.REFUTED_SCORE,
        lambda trial: trial.refuted_score(
            [score + 1 for score in trial.true_scores(make_delta(1, trial.cast))]
        ),
    ),
    "score with a reference that is none": (
        Offence.REFUTED_SCORE,
        lambda trial: trial.refuted_score((100, 100, 100), reference=b"no delta"),
    ),
    "withheld payload": (Offence.WITHHELD_PAYLOAD, lambda trial: trial.withheld()),
    "withheld payload, three of four say so": (
        Offence.WITHHELD_PAYLOAD,
        lambda trial: trial.withheld(by=delegates(trial.shard)[1:]),
    ),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_evidence_convicts_once(name: str) -> None:
    trial = make_trial()
    offence, make = CASES[name]
    evidence = make(trial)
    assert decode_record(type(evidence), encode_record(evidence)) == evidence
    supply = compute_supply(trial.main.app.state)
    trial.submit(evidence)
    assert compute_supply(trial.main.app.state) == supply
    penalty = PENALTIES[offence]
    candidate = trial.candidate()
    assert candidate.bonded == STAKE - STAKE * penalty.slash_thousandths // 1_000
    assert candidate.is_tombstoned == penalty.is_final
    assert candidate.jailed_until == trial.main.app.height + 5
    (infraction,) = trial.infractions()
    assert infraction.charge.offence is offence
    assert infraction.charge.validator == trial.guilty.validator
    assert infraction.slashed == STAKE - candidate.bonded
    assert infraction.rewarded == infraction.slashed // 10
    assert infraction.reporter == trial.reporter.account
    assert refusal(trial.main, trial.sign(evidence)) is ReasonCode.ALREADY_PUNISHED


def garble(data: bytes) -> bytes:
    """A signed transaction whose signature is another's."""
    signed = decode_transaction(data)
    return encode_record(replace(signed, signature=Signature(bytes(64))))


def spoil_vote(trial: Trial, **second: object) -> Equivocation:
    """Two votes that are equal but for what `second` says."""
    return Equivocation(
        first=sign_vote(trial.cast, trial.guilty),
        second=sign_vote(trial.cast, trial.guilty, **second),  # type: ignore[arg-type]
    )


def forge_round(trial: Trial, signers: int) -> Evidence:
    """The round under a header that only some of the committee signed."""
    evidence = trial.wrong_attestation()
    certificate = certify(evidence.round.header, delegates(trial.shard)[:signers])
    return replace(evidence, round=replace(evidence.round, certificate=certificate))


def reattest(trial: Trial, data: bytes) -> Evidence:
    return replace(trial.wrong_attestation(), attestation=data)


BLOCK = blob_digest(b"block")


def edit_vote(trial: Trial) -> Evidence:
    """A vote that says something else than was signed."""
    evidence = double_vote(trial.cast, trial.guilty)
    assert isinstance(evidence.second, SignedVote)
    vote = replace(evidence.second.vote, block=MODEL)
    return replace(evidence, second=replace(evidence.second, vote=vote))


def edit_claim(trial: Trial) -> Evidence:
    """A claim that says something else than was signed."""
    one = sign_claim(trial.cast, trial.guilty, BLOCK)
    return Equivocation(first=one, second=replace(one, claim=replace(one.claim, block=MODEL)))


def unsign_scores(trial: Trial) -> Evidence:
    evidence = trial.refuted_score(lie(trial))
    return replace(evidence, scores=garble(evidence.scores))


EQUIVOCATIONS: dict[str, tuple[ReasonCode, Callable[[Trial], Evidence]]] = {
    "the same vote twice": (ReasonCode.SAME_STATEMENT, spoil_vote),
    "another view": (
        ReasonCode.DIFFERENT_STEPS,
        lambda trial: spoil_vote(trial, view=1, block=BLOCK),
    ),
    "another height": (
        ReasonCode.DIFFERENT_STEPS,
        lambda trial: spoil_vote(trial, height=2, block=BLOCK),
    ),
    "another step": (
        ReasonCode.DIFFERENT_STEPS,
        lambda trial: spoil_vote(trial, kind=VoteKind.PRECOMMIT, block=BLOCK),
    ),
    "another chain": (
        ReasonCode.DIFFERENT_STEPS,
        lambda trial: spoil_vote(trial, chain=SHARD, block=BLOCK),
    ),
    "two validators": (
        ReasonCode.DIFFERENT_STEPS,
        lambda trial: replace(
            spoil_vote(trial),
            second=sign_vote(trial.cast, delegates(trial.shard)[2], block=BLOCK),
        ),
    ),
    "a vote and a proposal": (
        ReasonCode.DIFFERENT_STEPS,
        lambda trial: replace(
            spoil_vote(trial), second=sign_claim(trial.cast, trial.guilty, BLOCK)
        ),
    ),
    "another's signature": (
        ReasonCode.BAD_SIGNATURE,
        lambda trial: replace(
            double_vote(trial.cast, trial.guilty),
            second=replace(
                double_vote(trial.cast, trial.reporter).second, validator=trial.guilty.validator
            ),
        ),
    ),
    "votes of another network": (
        ReasonCode.BAD_SIGNATURE,
        lambda trial: double_vote(trial.cast, trial.guilty, network=OTHER),
    ),
    "a vote edited after signing": (
        ReasonCode.BAD_SIGNATURE,
        edit_vote,
    ),
    "a claim edited after signing": (
        ReasonCode.BAD_SIGNATURE,
        edit_claim,
    ),
    "nobody's key": (
        ReasonCode.UNKNOWN_CANDIDATE,
        lambda trial: double_vote(trial.cast, key("stranger")),
    ),
    "no such shard": (
        ReasonCode.WRONG_SHARD,
        lambda trial: double_vote(trial.cast, trial.guilty, chain=ChainId("shard-9")),
    ),
}
ATTESTATIONS: dict[str, tuple[ReasonCode, Callable[[Trial], Evidence]]] = {
    "the same digest twice": (
        ReasonCode.SAME_STATEMENT,
        lambda trial: replace(trial.double_attestation(), second=trial.double_attestation().first),
    ),
    "another round": (
        ReasonCode.DIFFERENT_STEPS,
        lambda trial: replace(
            trial.double_attestation(),
            second=attestation(trial.cast, trial.guilty, b"two", round_=2),
        ),
    ),
    "another sender": (
        ReasonCode.DIFFERENT_STEPS,
        lambda trial: replace(
            trial.double_attestation(),
            second=attestation(trial.cast, delegates(trial.shard)[2], b"two"),
        ),
    ),
    "a round and a merge": (
        ReasonCode.DIFFERENT_STEPS,
        lambda trial: replace(
            trial.double_attestation(),
            second=merge_attestation(trial.cast, trial.guilty, b"two"),
        ),
    ),
    "another attempt at a merge": (
        ReasonCode.DIFFERENT_STEPS,
        lambda trial: DoubleAttestation(
            first=merge_attestation(trial.cast, trial.guilty, b"one"),
            second=merge_attestation(trial.cast, trial.guilty, b"two", attempt=1),
        ),
    ),
    "another shard": (
        ReasonCode.DIFFERENT_STEPS,
        lambda trial: replace(
            trial.double_attestation(),
            second=sign_body(
                trial.cast,
                trial.guilty,
                decode_transaction(trial.double_attestation().second).transaction.body,
                chain=ChainId("shard-1"),
            ),
        ),
    ),
    "not signed": (
        ReasonCode.BAD_SIGNATURE,
        lambda trial: replace(
            trial.double_attestation(), second=garble(trial.double_attestation().second)
        ),
    ),
    "of another network": (
        ReasonCode.WRONG_NETWORK,
        lambda trial: replace(
            trial.double_attestation(),
            second=sign_body(
                trial.cast,
                trial.guilty,
                decode_transaction(trial.double_attestation().second).transaction.body,
                network=OTHER,
            ),
        ),
    ),
    "garbage": (
        ReasonCode.BAD_ENCODING,
        lambda trial: replace(trial.double_attestation(), second=b"garbage"),
    ),
    "a merge on a shard": (
        ReasonCode.WRONG_CHAIN,
        lambda trial: DoubleAttestation(
            first=sign_body(trial.cast, trial.guilty, merge_body(trial, b"one")),
            second=sign_body(trial.cast, trial.guilty, merge_body(trial, b"two")),
        ),
    ),
    "a round of no shard": (
        ReasonCode.WRONG_SHARD,
        lambda trial: DoubleAttestation(
            first=round_on(trial, b"one", "shard-9"), second=round_on(trial, b"two", "shard-9")
        ),
    ),
    "the right digest": (
        ReasonCode.NOT_REFUTED,
        lambda trial: trial.wrong_attestation(b"the round's model"),
    ),
    "of another round": (
        ReasonCode.BAD_PROOF,
        lambda trial: reattest(trial, attestation(trial.cast, trial.guilty, b"wrong", round_=2)),
    ),
    "no attestation": (
        ReasonCode.DIFFERENT_STEPS,
        lambda trial: reattest(trial, merge_attestation(trial.cast, trial.guilty, b"wrong")),
    ),
    "an attestation that nobody signed": (
        ReasonCode.BAD_SIGNATURE,
        lambda trial: reattest(trial, garble(trial.wrong_attestation().attestation)),
    ),
    "an attestation of another shard": (
        ReasonCode.WRONG_CHAIN,
        lambda trial: reattest(trial, round_on(trial, b"wrong", "shard-1")),
    ),
    "a header that two of four signed": (
        ReasonCode.LOW_POWER,
        lambda trial: forge_round(trial, 2),
    ),
    "another round's value": (
        ReasonCode.BAD_PROOF,
        lambda trial: replace(
            trial.wrong_attestation(),
            round=replace(trial.wrong_attestation().round, value=b"another"),
        ),
    ),
    "another entry's proof": (
        ReasonCode.BAD_PROOF,
        lambda trial: replace(trial.wrong_attestation(), round=trial.batch_entry()),
    ),
    "a committee that never served": (
        ReasonCode.WRONG_EPOCH,
        lambda trial: replace(
            trial.wrong_attestation(),
            round=replace(
                trial.wrong_attestation().round,
                header=replace(trial.wrong_attestation().round.header, committee=MODEL),
            ),
        ),
    ),
    "a header of another network": (
        ReasonCode.WRONG_NETWORK,
        lambda trial: replace(
            trial.wrong_attestation(),
            round=replace(
                trial.wrong_attestation().round,
                header=replace(trial.wrong_attestation().round.header, network=OTHER),
            ),
        ),
    ),
}
SCORES: dict[str, tuple[ReasonCode, Callable[[Trial], Evidence]]] = {
    "the true score": (
        ReasonCode.NOT_REFUTED,
        lambda trial: trial.refuted_score(trial.true_scores(make_delta(1, trial.cast))),
    ),
    "a score left out": (
        ReasonCode.NOT_REFUTED,
        lambda trial: trial.refuted_score((UNAVAILABLE, 0, 0)),
    ),
    "another reference": (
        ReasonCode.WRONG_DIGEST,
        lambda trial: replace(trial.refuted_score(lie(trial)), reference=make_delta(2, trial.cast)),
    ),
    "another payload": (
        ReasonCode.WRONG_DIGEST,
        lambda trial: replace(trial.refuted_score(lie(trial)), payload=trial.payloads[1]),
    ),
    "a position past the batch": (
        ReasonCode.OUT_OF_BOUNDS,
        lambda trial: replace(trial.refuted_score(lie(trial)), position=3),
    ),
    "a position past the scores": (
        ReasonCode.OUT_OF_BOUNDS,
        lambda trial: replace(trial.refuted_score((100,)), position=1),
    ),
    "scores that nobody signed": (
        ReasonCode.BAD_SIGNATURE,
        unsign_scores,
    ),
    "no scores": (
        ReasonCode.DIFFERENT_STEPS,
        lambda trial: replace(
            trial.refuted_score(lie(trial)),
            scores=attestation(trial.cast, trial.guilty, b"wrong"),
        ),
    ),
    "another entry than the batch": (
        ReasonCode.BAD_PROOF,
        lambda trial: replace(trial.refuted_score(lie(trial)), batch=trial.round_entry()),
    ),
}
WITHHELD: dict[str, tuple[ReasonCode, Callable[[Trial], Evidence]]] = {
    "two of four": (
        ReasonCode.LOW_POWER,
        lambda trial: trial.withheld(by=delegates(trial.shard)[:2]),
    ),
    "one of them twice": (
        ReasonCode.BAD_ENCODING,
        lambda trial: trial.withheld(by=(*delegates(trial.shard)[:2], delegates(trial.shard)[0])),
    ),
    "delegates of the other shard": (
        ReasonCode.LOW_POWER,
        lambda trial: trial.withheld(by=trial.cast.validators[ChainId("shard-1")]),
    ),
    "a stranger among the signers": (
        ReasonCode.LOW_POWER,
        lambda trial: trial.withheld(by=(*delegates(trial.shard)[:2], key("stranger"))),
    ),
    "a signature over something else": (
        ReasonCode.BAD_SIGNATURE,
        lambda trial: replace(
            trial.withheld(), statement=replace(trial.withheld().statement, batch=1)
        ),
    ),
    "a committee that never served": (
        ReasonCode.WRONG_EPOCH,
        lambda trial: trial.withheld(committee=MODEL),
    ),
    "a gateway of another shard": (
        ReasonCode.NOT_PERMITTED,
        lambda trial: trial.withheld(
            gateway=trial.cast.validators[ChainId("shard-1")][0].validator
        ),
    ),
    "no such shard": (
        ReasonCode.WRONG_SHARD,
        lambda trial: trial.withheld(shard=ChainId("shard-9")),
    ),
}
COMET: dict[str, tuple[ReasonCode, Callable[[Trial], Evidence]]] = {
    "two steps": (
        ReasonCode.DIFFERENT_STEPS,
        lambda trial: spoil_comet(trial, comet_vote(b"two", kind=VoteKind.PREVOTE)),
    ),
    "two views": (
        ReasonCode.DIFFERENT_STEPS,
        lambda trial: spoil_comet(trial, comet_vote(b"two", view=View(1))),
    ),
    "two heights": (
        ReasonCode.DIFFERENT_STEPS,
        lambda trial: spoil_comet(trial, comet_vote(b"two", height=Height(8))),
    ),
    "two chains": (
        ReasonCode.DIFFERENT_STEPS,
        lambda trial: spoil_comet(trial, comet_vote(b"two", chain=MAIN_CHAIN)),
    ),
    "the same block at another time": (
        ReasonCode.SAME_STATEMENT,
        lambda trial: spoil_comet(trial, comet_vote(b"one", seconds=1_700_000_001)),
    ),
    "signed by somebody else": (
        ReasonCode.BAD_SIGNATURE,
        lambda trial: replace(
            comet_double_vote(trial.cast, trial.reporter), validator=trial.guilty.validator
        ),
    ),
    "signed on another network": (
        ReasonCode.BAD_SIGNATURE,
        lambda trial: spoil_comet(trial, comet_vote(b"two"), network=OTHER),
    ),
    "a stranger": (
        ReasonCode.UNKNOWN_CANDIDATE,
        lambda trial: comet_double_vote(trial.cast, key("stranger")),
    ),
    "no such shard": (
        ReasonCode.WRONG_SHARD,
        lambda trial: comet_double_vote(trial.cast, trial.guilty, chain=ChainId("shard-9")),
    ),
}


def spoil_comet(
    trial: Trial, second: CometVote, *, network: Network | None = None
) -> CometEquivocation:
    """A vote of the guilty for a block, and another one."""
    evidence = comet_double_vote(trial.cast, trial.guilty)
    message = comet_vote_message(network or trial.cast.network, second)
    return replace(evidence, second=second, second_signature=trial.guilty.sign(message))


BROKEN = {
    f"{kind}: {name}": case
    for kind, table in (
        ("equivocation", EQUIVOCATIONS),
        ("comet", COMET),
        ("attestation", ATTESTATIONS),
        ("score", SCORES),
        ("withheld", WITHHELD),
    )
    for name, case in table.items()
}


def merge_body(trial: Trial, model: bytes) -> object:
    data = merge_attestation(trial.cast, trial.guilty, model)
    return decode_transaction(data).transaction.body


def round_on(trial: Trial, model: bytes, shard: str) -> bytes:
    body = decode_transaction(attestation(trial.cast, trial.guilty, model)).transaction.body
    return sign_body(trial.cast, trial.guilty, body, chain=ChainId(shard))


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_broken_evidence_is_refused_with_its_reason(shared: Trial, name: str) -> None:
    expected, make = BROKEN[name]
    assert refusal(shared.main, shared.sign(make(shared))) is expected


def test_an_open_round_convicts_nobody() -> None:
    trial = make_trial()
    evidence = trial.wrong_attestation()
    state = trial.shard.states[-2]
    block, certificate = trial.shard.blocks[-2]
    entry = replace(
        evidence.round,
        header=block.header,
        certificate=certificate,
        proof=state.prove("rounds", (1).to_bytes(8, "big")),
        value=state.get_encoded("rounds", (1).to_bytes(8, "big")),
    )
    evidence = replace(evidence, round=entry)
    assert refusal(trial.main, trial.sign(evidence)) is ReasonCode.WRONG_PHASE


def test_a_round_that_closed_on_its_base_convicts_nobody_who_attested_otherwise(
    shared: Trial,
) -> None:
    trial = make_trial()
    shard = trial.shard
    while shard.round.number == 1 or shard.round.phase != "closed":
        shard.block(after_ms=10_000)
        if shard.round.number == 2 and shard.round.phase == "closed":
            break
    assert shard.round.model == shard.round.base
    evidence = replace(
        trial.wrong_attestation(),
        attestation=attestation(trial.cast, trial.guilty, b"honest", round_=2),
        round=prove_entry(shard, "rounds", (2).to_bytes(8, "big")),
    )
    assert refusal(trial.main, trial.sign(evidence)) is ReasonCode.NOT_REFUTED


def test_evidence_is_the_main_chains_business(shared: Trial) -> None:
    body = SubmitEvidence(evidence=double_vote(shared.cast, shared.guilty))
    transaction = shared.shard.sign(shared.reporter, body)
    assert refusal(shared.shard, transaction) is ReasonCode.WRONG_CHAIN


def test_evidence_for_another_network_or_chain_is_no_transaction_here(shared: Trial) -> None:
    body = SubmitEvidence(evidence=double_vote(shared.cast, shared.guilty))
    for changes, reason in (
        ({"network": OTHER}, ReasonCode.WRONG_NETWORK),
        ({"chain": SHARD}, ReasonCode.WRONG_CHAIN),
    ):
        transaction = shared.main.sign(shared.reporter, body, **changes)
        assert shared.main.app.check_tx(transaction) is reason
