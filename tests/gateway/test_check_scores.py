"""Recomputing another delegate's scores from the blobs that a gateway has."""

import pytest

from headwater_gateway.machine.effects import CheckScores
from headwater_gateway.worker import check_scores
from headwater_protocol.chain.transaction import UNAVAILABLE, PostScores
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.identifiers import Digest, RoundNumber
from headwater_shard.blobs import BlobStore
from headwater_shard.shardchain.records import BATCHES, batch_key
from tests.support.justice import SHARD, Trial, attestation, make_delta, make_trial, sign_body


@pytest.fixture(scope="module")
def trial() -> Trial:
    return make_trial()


@pytest.fixture
def blobs(tmp_path, trial):
    store = BlobStore(tmp_path / "blobs")
    store.put_all([make_delta(1, trial.cast), *trial.payloads])
    yield store
    store.close()


def work_of(trial: Trial, scores: bytes, reference: Digest) -> CheckScores:
    batch = trial.shard.app.state.get(BATCHES, batch_key(RoundNumber(1), 0))
    assert batch is not None
    return CheckScores(
        shard=SHARD,
        round=RoundNumber(1),
        batch=0,
        task=trial.cast.genesis.task,
        scores=scores,
        validator=trial.guilty.validator,
        reference=reference,
        commits=batch.commits,
    )


def posted(trial: Trial, scores: tuple[int, ...], *, reference: bytes | None = None) -> CheckScores:
    body = PostScores(
        task=trial.cast.genesis.task.task,
        round=RoundNumber(1),
        batch=0,
        scores=scores,
        reference=blob_digest(make_delta(1, trial.cast) if reference is None else reference),
    )
    return work_of(trial, sign_body(trial.cast, trial.guilty, body), body.reference)


def test_true_scores_hold(trial: Trial, blobs: BlobStore) -> None:
    truth = trial.true_scores(make_delta(1, trial.cast))
    assert check_scores(posted(trial, truth), blobs=blobs) is None


def test_a_score_left_out_holds(trial: Trial, blobs: BlobStore) -> None:
    truth = trial.true_scores(make_delta(1, trial.cast))
    assert check_scores(posted(trial, (UNAVAILABLE, *truth[1:])), blobs=blobs) is None


def test_the_first_wrong_score_is_found_with_its_blobs(trial: Trial, blobs: BlobStore) -> None:
    truth = trial.true_scores(make_delta(1, trial.cast))
    refuted = check_scores(posted(trial, (truth[0], truth[1] + 1, truth[2] - 1)), blobs=blobs)
    assert refuted is not None
    assert refuted.position == 1
    assert refuted.payload == trial.payloads[1]
    assert refuted.reference == make_delta(1, trial.cast)


def test_what_is_not_here_is_not_refuted(trial: Trial, blobs: BlobStore) -> None:
    assert check_scores(posted(trial, (1, 2, 3), reference=b"elsewhere"), blobs=blobs) is None


def test_other_transactions_have_no_scores(trial: Trial, blobs: BlobStore) -> None:
    work = work_of(trial, attestation(trial.cast, trial.guilty, b"model"), blob_digest(b"none"))
    assert check_scores(work, blobs=blobs) is None
