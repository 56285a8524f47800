"""What devices are told: provable announcements, whole blobs, nothing stale left behind."""

from pathlib import Path

import numpy as np
import pytest

from headwater_gateway.machine.effects import ClearBlob, PublishBlob
from headwater_gateway.machine.publisher import KEPT_BASES
from headwater_protocol.chain.genesis import Parameters
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.crypto.signing import DirectVerifier
from headwater_protocol.identifiers import Digest
from headwater_protocol.messages.announcement import (
    Announcement,
    decode_announcement,
    verify_announcement,
)
from headwater_protocol.messages.chunk import CHUNK_BYTES, count_chunks
from headwater_protocol.messages.receipt import Stage
from headwater_protocol.model.fixed_point import encode_model, from_float32
from tests.support.gateway_support import BASE, PROGRAM, SHARD_0, Bench, gateway_task

NO_CHECKPOINTS = Parameters(
    checkpoint_interval=1_000,
    checkpoints_per_epoch=1,
    merge_wait_ms=1,
    epoch_timeout_ms=1,
    retention_rounds=10,
    clock_drift_ms=1_000,
)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, task=gateway_task(rounds=50), parameters=NO_CHECKPOINTS)


def announcements(bench: Bench) -> list[Announcement]:
    return [
        decode_announcement(publish.payload)
        for publish in bench.published
        if publish.topic == bench.topics.round
    ]


def blobs(bench: Bench, kind: type) -> list[Digest]:
    return [effect.blob for effect in bench.blob_effects if isinstance(effect, kind)]


def run_round(bench: Bench) -> Digest:
    """A round with an update of everybody; the base of the next one."""
    number = bench.shard.round.number
    bench.publish_all()
    for _ in range(10):
        bench.settle(1)
        if bench.shard.round.number > number:
            return bench.shard.round.base
    raise AssertionError("the round stands still")


def test_announcement_can_be_verified_from_the_genesis(bench: Bench) -> None:
    run_round(bench)
    assert [entry.round.number for entry in announcements(bench)] == [1, 2]
    for announcement in announcements(bench):
        verify_announcement(
            announcement,
            network=bench.cast.network,
            shard=SHARD_0,
            committee=bench.cast.genesis.committee(SHARD_0),
            verifier=DirectVerifier(),
        )
        assert announcement.task == bench.cast.genesis.task


def test_announcement_is_retained_and_comes_after_its_blobs(bench: Bench) -> None:
    (publish,) = [entry for entry in bench.published if entry.topic == bench.topics.round]
    assert publish.retain
    assert blobs(bench, PublishBlob) == [blob_digest(PROGRAM), blob_digest(BASE)]


def test_round_is_announced_once(bench: Bench) -> None:
    bench.publish_all(bench.devices[:1])
    bench.settle(3)
    assert len(announcements(bench)) == 1


def test_program_is_published_once_and_each_new_base(bench: Bench) -> None:
    bases = [run_round(bench) for _ in range(3)]
    assert blobs(bench, PublishBlob) == [blob_digest(PROGRAM), blob_digest(BASE), *bases]


def test_old_bases_are_cleared_and_the_last_ones_kept(bench: Bench) -> None:
    bases = [blob_digest(BASE), *(run_round(bench) for _ in range(3))]
    assert blobs(bench, ClearBlob) == bases[: 4 - KEPT_BASES]


def test_every_piece_of_an_old_base_is_cleared() -> None:
    """A model is a little larger than its parameters; its last piece may be that little."""
    num_parameters = CHUNK_BYTES // 4
    model = encode_model(from_float32(np.zeros(num_parameters, np.float32)))
    assert count_chunks(len(model)) == 2
    assert count_chunks(4 * num_parameters) == 1


def test_clearing_counts_a_models_overhead(bench: Bench) -> None:
    for _ in range(3):
        run_round(bench)
    clears = [effect for effect in bench.blob_effects if isinstance(effect, ClearBlob)]
    assert clears
    assert all(effect.blob_bytes >= len(BASE) for effect in clears)


def test_new_connection_gets_everything_again(bench: Bench) -> None:
    run_round(bench)
    base = run_round(bench)
    bench.published.clear()
    bench.blob_effects.clear()
    bench.machine.on_connected(bench.now_ms)
    bench.perform()
    assert [entry.round.number for entry in announcements(bench)] == [3]
    assert blobs(bench, PublishBlob) == [blob_digest(PROGRAM), base]


def test_restarted_gateway_clears_what_it_left_at_the_broker(bench: Bench) -> None:
    bases = [blob_digest(BASE), *(run_round(bench) for _ in range(3))]
    bench.blob_effects.clear()
    bench.boot()
    assert blobs(bench, ClearBlob) == [bases[2], bases[1]]
    assert blobs(bench, PublishBlob) == [blob_digest(PROGRAM), bases[3]]


def test_round_that_is_being_scored_is_not_announced_to_a_new_broker(bench: Bench) -> None:
    bench.score_of = lambda work, commit: 1
    bench.loses = lambda body: "Scores" in type(body).__name__
    bench.publish_all()
    bench.settle(2)
    bench.published.clear()
    bench.machine.on_connected(bench.now_ms)
    bench.perform()
    assert announcements(bench) == []


def test_restarted_gateway_repeats_the_verdicts_of_the_last_round(bench: Bench) -> None:
    run_round(bench)
    device = bench.devices[0]
    (before,) = bench.receipts(device, stage=Stage.VERDICT)
    bench.published.clear()
    bench.boot()
    (after,) = bench.receipts(device, stage=Stage.VERDICT)
    assert (after.round, after.reason, after.reward) == (1, before.reason, before.reward)


def test_rounds_that_close_between_two_calls_all_get_their_verdicts(bench: Bench) -> None:
    machine, bench.machine = bench.machine, bench.boot()
    run_round(bench)
    run_round(bench)
    bench.published.clear()
    bench.machine = machine
    tip = bench.tip(SHARD_0)
    assert tip is not None
    machine.on_finalized(SHARD_0, tip, bench.now_ms)
    bench.perform()
    verdicts = bench.receipts(bench.devices[0], stage=Stage.VERDICT)
    assert [receipt.round for receipt in verdicts] == [1, 2]
