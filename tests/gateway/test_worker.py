"""What takes a processor's time: scores tell friend from foe, and what is missing is said."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from headwater_firmware_sim.data.digits import load_digits
from headwater_gateway.machine.effects import ComputeRoundModel, ScoreBatch
from headwater_gateway.worker import Scorer, Unscorable, ValidationData, compute_model
from headwater_models.initialization import initial_parameters
from headwater_models.plan import training_plan
from headwater_models.program import Program
from headwater_models.trainer import Trainer
from headwater_protocol.chain.claim import Commit
from headwater_protocol.chain.task import OptimizerKind, Task
from headwater_protocol.chain.transaction import UNAVAILABLE
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.errors import InvalidMessage
from headwater_protocol.identifiers import Digest, NumExamples, RoundNumber, Signature
from headwater_protocol.model.fixed_point import encode_model, from_float32
from headwater_protocol.model.payload import encode_payload
from headwater_protocol.model.quantize import quantize
from headwater_shard.blobs import BlobStore, MissingBlob
from tests.support.gateway_support import SHARD_0
from tests.support.network import key, make_task

MLP = Program.load("mlp-64-32-10")
BASE = initial_parameters(MLP, 1)
MODEL = encode_model(from_float32(BASE))
DELEGATE = key("delegate").validator
PLAIN = make_task()
TASK: Task = replace(
    PLAIN,
    program=Digest(MLP.digest),
    tensor_sizes=MLP.tensor_sizes,
    initial_model=blob_digest(MODEL),
    training=replace(
        PLAIN.training,
        optimizer=OptimizerKind.ADAM,
        learning_rate_millionths=20_000,
        local_epochs=5,
        max_steps=200,
        batch_size=8,
    ),
)


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    store = BlobStore(tmp_path / "blobs")
    store.put_all([MODEL, MLP.data])
    return store


def validation() -> ValidationData:
    digits = load_digits()
    return ValidationData(features=digits.features[:40], labels=digits.labels[:40])


def trained_delta() -> NDArray[np.float32]:
    """What an honest device learns from other digits."""
    digits = load_digits()
    rng = np.random.default_rng(3)
    result = Trainer(MLP).train(
        BASE, digits.features[100:160], digits.labels[100:160], training_plan(TASK.training), rng
    )
    return result.delta


def put(blobs: BlobStore, device: str, delta: NDArray[np.float32]) -> Commit:
    rng = np.random.default_rng(1)
    data = encode_payload(quantize(delta, tensor_sizes=MLP.tensor_sizes, bits=8, rng=rng))
    return commit_of(device, blobs.put(data))


def commit_of(device: str, payload: Digest) -> Commit:
    return Commit(
        device=key(device).device,
        payload=payload,
        num_examples=NumExamples(10),
        signature=Signature(bytes(64)),
    )


def work_of(*commits: Commit, base: Digest = TASK.initial_model, task: Task = TASK) -> ScoreBatch:
    return ScoreBatch(
        ticket="ticket",
        shard=SHARD_0,
        round=RoundNumber(1),
        batch=0,
        validator=DELEGATE,
        task=task,
        base=base,
        commits=commits,
    )


def test_scores_separate_an_honest_update_from_one_with_its_sign_flipped(blobs: BlobStore) -> None:
    delta = trained_delta()
    work = work_of(put(blobs, "honest", delta), put(blobs, "flipped", -delta))
    honest, flipped = Scorer(blobs=blobs, data={DELEGATE: validation()}).score(work).scores
    assert honest > 1_000
    assert flipped < -1_000


def test_noise_scores_next_to_nothing(blobs: BlobStore) -> None:
    noise = np.random.default_rng(1).normal(0, 0.05, MLP.num_parameters).astype(np.float32)
    work = work_of(put(blobs, "free rider", noise))
    (score,) = Scorer(blobs=blobs, data={DELEGATE: validation()}).score(work).scores
    assert abs(score) < 1_000


def test_payload_that_is_not_here_is_unavailable_and_the_others_are_scored(
    blobs: BlobStore,
) -> None:
    delta = trained_delta()
    work = work_of(
        put(blobs, "one", delta),
        commit_of("lost", Digest(b"x" * 32)),
        commit_of("garbage", blobs.put(b"no payload")),
        put(blobs, "two", delta),
    )
    one, lost, garbage, two = Scorer(blobs=blobs, data={DELEGATE: validation()}).score(work).scores
    assert (lost, garbage) == (UNAVAILABLE, UNAVAILABLE)
    assert one == two > 0


def test_reference_is_trained_once_a_round(blobs: BlobStore) -> None:
    scorer = Scorer(blobs=blobs, data={DELEGATE: validation()})
    work = work_of(put(blobs, "one", trained_delta()))
    first = scorer.score(work)
    # Without its data a second training would fail.
    scorer._data.clear()
    assert scorer.score(replace(work, batch=1)) == first


def test_references_are_bounded(blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scorer, "MAX_REFERENCES", 2)
    scorer = Scorer(blobs=blobs, data={DELEGATE: validation()})
    for number in range(1, 5):
        scorer.score(replace(work_of(), round=RoundNumber(number)))
    assert len(scorer._references) == 2


@pytest.mark.parametrize(
    ("work", "data", "words"),
    [
        (work_of(), {}, "has no validation data"),
        (work_of(base=Digest(b"b" * 32)), {DELEGATE: validation()}, "no blob"),
        (
            work_of(task=replace(TASK, program=Digest(b"p" * 32))),
            {DELEGATE: validation()},
            "no blob",
        ),
        (
            work_of(),
            {DELEGATE: replace(validation(), labels=np.full(40, 10, np.int32))},
            "labels",
        ),
        (
            work_of(),
            {DELEGATE: replace(validation(), features=np.ones((40, 3), np.float32))},
            "features",
        ),
    ],
)
def test_what_a_delegate_lacks_for_a_reference_is_one_clear_error(
    blobs: BlobStore, work: ScoreBatch, data: dict, words: str
) -> None:
    with pytest.raises(Unscorable, match=words) as caught:
        Scorer(blobs=blobs, data=data).score(work)
    assert "\n" not in str(caught.value)


def test_model_with_a_missing_payload_is_refused(blobs: BlobStore) -> None:
    work = ComputeRoundModel(
        ticket="ticket",
        shard=SHARD_0,
        round=RoundNumber(1),
        validator=DELEGATE,
        task=TASK,
        base=TASK.initial_model,
        accepted=(commit_of("lost", Digest(b"x" * 32)),),
        correction=None,
    )
    with pytest.raises(MissingBlob):
        compute_model(work, blobs=blobs)
    with pytest.raises(InvalidMessage):
        compute_model(replace(work, base=Digest(b"b" * 32), accepted=()), blobs=blobs)
    model = compute_model(replace(work, accepted=()), blobs=blobs)
    assert blobs.get(model) == MODEL
