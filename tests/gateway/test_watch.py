"""The watch finds what convicts, submits it until it is punished, and lets the honest alone."""

import pytest

from headwater_gateway.machine.effects import CheckScores, Refutation
from headwater_gateway.machine.publisher import FinalizedTip
from headwater_gateway.machine.watch import MAX_PENDING, MAX_WATCHED_PLACES, Watch
from headwater_protocol.chain.evidence import (
    DoubleAttestation,
    Equivocation,
    RefutedScore,
    WrongAttestation,
)
from headwater_protocol.chain.transaction import AttestModel, PostScores
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.crypto.signing import DirectVerifier
from headwater_protocol.identifiers import RoundNumber
from headwater_protocol.reasons import ReasonCode
from tests.support.justice import (
    MODEL,
    SHARD,
    Trial,
    attestation,
    double_vote,
    make_delta,
    make_trial,
    sign_body,
)
from tests.support.ledgers import delegates
from tests.support.network import Chain


def tip_of(chain: Chain, index: int = -1) -> FinalizedTip:
    block, certificate = chain.blocks[index]
    return FinalizedTip(block=block, certificate=certificate, state=chain.states[index])


def make_watch(trial: Trial) -> Watch:
    watch = Watch(genesis=trial.cast.genesis, main=trial.main.app.state, verifier=DirectVerifier())
    watch.on_main(tip_of(trial.main))
    return watch


def found(watch: Watch) -> list[object]:
    return [body.evidence for _, body in watch.due()]


@pytest.fixture
def trial() -> Trial:
    return make_trial()


def test_what_it_finds_is_due_until_the_main_chain_has_punished_it(trial: Trial) -> None:
    watch = make_watch(trial)
    evidence = double_vote(trial.cast, trial.guilty)
    watch.on_equivocation(evidence)
    watch.on_equivocation(evidence)
    assert found(watch) == [evidence]
    assert watch.num_found == 1
    trial.main.block()
    watch.on_main(tip_of(trial.main))
    assert found(watch) == [evidence]
    trial.submit(evidence)
    watch.on_main(tip_of(trial.main))
    assert found(watch) == []
    watch.on_equivocation(evidence)
    assert found(watch) == []


def test_what_does_not_convict_is_not_submitted(trial: Trial) -> None:
    watch = make_watch(trial)
    honest = double_vote(trial.cast, trial.guilty)
    watch.on_equivocation(Equivocation(first=honest.first, second=honest.first))
    assert found(watch) == []


def test_a_wrong_attestation_in_a_block_is_found_when_its_round_closes(trial: Trial) -> None:
    watch = make_watch(trial)
    wrong = attestation(trial.cast, trial.guilty, b"wrong")
    right = attestation(trial.cast, delegates(trial.shard)[2], b"the round's model")
    opened, closed = tip_of(trial.shard, -2), tip_of(trial.shard)
    assert list(watch.on_transactions(opened, [right, wrong])) == []
    watch.on_shard(SHARD, opened)
    assert found(watch) == []
    watch.on_shard(SHARD, closed)
    (evidence,) = found(watch)
    assert isinstance(evidence, WrongAttestation)
    assert evidence.attestation == wrong
    trial.submit(evidence)


def test_a_second_attestation_that_the_shard_refused_convicts(trial: Trial) -> None:
    watch = make_watch(trial)
    pair = trial.double_attestation()
    watch.on_transaction(pair.first)
    watch.on_transaction(pair.first)
    assert found(watch) == []
    watch.on_transaction(pair.second)
    (evidence,) = found(watch)
    assert isinstance(evidence, DoubleAttestation)
    trial.submit(evidence)


def test_the_same_attestation_made_again_after_a_restart_convicts_nobody(trial: Trial) -> None:
    watch = make_watch(trial)
    body = AttestModel(round=RoundNumber(1), model=MODEL)
    watch.on_transaction(trial.shard.sign(trial.guilty, body))
    watch.on_transaction(trial.shard.sign(trial.guilty, body))
    assert found(watch) == []


def test_scores_are_recomputed_and_a_refutation_is_submitted(trial: Trial) -> None:
    watch = make_watch(trial)
    reference = make_delta(1, trial.cast)
    body = PostScores(
        task=trial.cast.genesis.task.task,
        round=RoundNumber(1),
        batch=0,
        scores=(9_999, 0, 0),
        reference=blob_digest(reference),
    )
    scores = sign_body(trial.cast, trial.guilty, body)
    (work,) = watch.on_transactions(tip_of(trial.shard), [scores])
    assert isinstance(work, CheckScores)
    watch.on_checked(tip_of(trial.shard), work, None)
    assert found(watch) == []
    refuted = Refutation(position=0, reference=reference, payload=trial.payloads[0])
    watch.on_checked(tip_of(trial.shard), work, refuted)
    (evidence,) = found(watch)
    assert isinstance(evidence, RefutedScore)
    trial.submit(evidence)


def test_a_refusal_ends_it_unless_the_chain_was_busy(trial: Trial) -> None:
    watch = make_watch(trial)
    watch.on_equivocation(double_vote(trial.cast, trial.guilty))
    ((ticket, _),) = watch.due()
    watch.on_refused("shard-0/attest/1", ReasonCode.DUPLICATE)
    watch.on_refused(ticket, ReasonCode.BUSY)
    assert len(found(watch)) == 1
    watch.on_refused(ticket, ReasonCode.STALE_EVIDENCE)
    assert found(watch) == []


def test_garbage_is_passed_over(trial: Trial) -> None:
    watch = make_watch(trial)
    assert list(watch.on_transactions(tip_of(trial.shard), [b"garbage"])) == []
    watch.on_transaction(b"garbage")
    assert found(watch) == []


def test_memory_is_bounded(trial: Trial) -> None:
    watch = make_watch(trial)
    for number in range(1, MAX_WATCHED_PLACES + 2):
        watch.on_transaction(attestation(trial.cast, trial.guilty, b"one", round_=number))
    watch.on_transaction(attestation(trial.cast, trial.guilty, b"two", round_=1))
    assert found(watch) == [], "the oldest round was forgotten"
    watch.on_transaction(attestation(trial.cast, trial.guilty, b"two", round_=9))
    assert len(found(watch)) == 1
    for view in range(MAX_PENDING + 1):
        watch.on_equivocation(double_vote(trial.cast, trial.guilty, view=view))
    assert len(found(watch)) == MAX_PENDING
