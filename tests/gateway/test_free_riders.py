"""Free riders under the real scorer: nothing for zeros, and nothing for noise."""

from pathlib import Path

import numpy as np
import pytest

from headwater_agent.machine.effects import Train
from headwater_agent.machine.inputs import Trained
from headwater_firmware_sim.attack import Attack
from headwater_firmware_sim.demo.options import DemoOptions
from headwater_firmware_sim.demo.scene import make_scene
from headwater_firmware_sim.live.fleet import SharedTrainer
from headwater_gateway.machine.effects import ScoreBatch
from headwater_gateway.worker import Scorer
from headwater_protocol.chain.claim import Commit
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.identifiers import NumExamples, RoundNumber, Signature
from headwater_protocol.model.fixed_point import to_float32
from headwater_protocol.model.norms import compute_noise_cosine
from headwater_protocol.model.payload import encode_payload
from headwater_protocol.model.quantize import quantize
from headwater_shard.apportion import apportion
from headwater_shard.blobs import BlobStore
from headwater_shard.round_model import decode_task_model
from headwater_shard.shardchain.score import compute_weighted_median

NUM_HONEST = 8
NUM_NOISY = 8
NUM_PARAMETERS = 2_410
"""Of `mlp-64-32-10`."""


@pytest.fixture(scope="module")
def medians(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[int]]:
    """The committee's median scores of honest, noise and zero updates of one round."""
    options = DemoOptions(out=Path("unused"), devices=16, shards=1, delegates=4, attackers=0)
    scene = make_scene(options)
    task = scene.plan.genesis.task
    base = to_float32(decode_task_model(task, scene.initial_model))
    trainer = SharedTrainer()
    rng = np.random.default_rng(3)
    deltas = []
    for index in range(NUM_HONEST):
        request = Train(
            round=RoundNumber(1),
            program=scene.program.data,
            program_digest=task.program,
            parameters=base,
            tensor_sizes=task.tensor_sizes,
            training=task.training,
            seed=index,
        )
        trained = trainer.train_now(request, scene.devices[index], Attack.NONE)
        assert isinstance(trained, Trained)
        deltas.append(trained.delta)
    trainer.close()
    size = np.linalg.norm(deltas[0]) / np.sqrt(task.num_parameters)
    noise = rng.normal(0, size, (NUM_NOISY, task.num_parameters))
    deltas.extend(noise.astype(np.float32))
    deltas.append(np.zeros(task.num_parameters, np.float32))
    payloads = [
        encode_payload(
            quantize(
                delta,
                tensor_sizes=task.tensor_sizes,
                bits=task.codec.bits,
                fraction_bits=task.fraction_bits,
                rng=rng,
            )
        )
        for delta in deltas
    ]
    store = BlobStore(tmp_path_factory.mktemp("blobs") / "blobs")
    store.put_all([scene.program.data, scene.initial_model, *payloads])
    scorer = Scorer(blobs=store, data=scene.validation)
    commits = tuple(
        Commit(
            device=scene.plan.devices[index % 16].device,
            payload=blob_digest(payload),
            num_examples=NumExamples(20),
            signature=Signature(bytes(64)),
        )
        for index, payload in enumerate(payloads)
    )
    rows = [
        scorer.score(
            ScoreBatch(
                ticket="",
                shard=scene.plan.genesis.shards[0],
                round=RoundNumber(1),
                batch=0,
                validator=validator,
                task=task,
                base=task.initial_model,
                commits=commits,
            )
        ).scores
        for validator in sorted(scene.validation)
    ]
    store.close()
    scores = [compute_weighted_median([(row[i], 1) for row in rows]) for i in range(len(commits))]
    return {
        "honest": scores[:NUM_HONEST],
        "noise": scores[NUM_HONEST:-1],
        "zero": scores[-1:],
    }


def test_a_zero_update_scores_and_earns_nothing(medians: dict[str, list[int]]) -> None:
    assert medians["zero"] == [0]


def test_noise_earns_nothing(medians: dict[str, list[int]]) -> None:
    noise = compute_noise_cosine(NUM_PARAMETERS)
    weights = {
        b"%s/%d" % (kind.encode(), index): max(0, score - noise)
        for kind, scores in medians.items()
        for index, score in enumerate(scores)
    }
    shares = apportion(10_000, weights)
    earned = sum(amount for name, amount in shares.items() if name.startswith(b"noise"))
    print(f"{NUM_NOISY} noise updates earn {earned / 100:.1f} % beside {NUM_HONEST} honest ones")
    assert earned == 0
    assert all(score > noise for score in medians["honest"])
