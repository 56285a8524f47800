"""Settlement: checkpoints up in order, also after an outage, and merges down."""

from pathlib import Path

import pytest

from headwater_gateway.machine.gateway import RETRY_MS
from headwater_protocol.chain.genesis import Parameters
from headwater_protocol.chain.transaction import AdoptEpoch, PostCheckpoint, SignCheckpoint
from headwater_protocol.identifiers import MAIN_CHAIN
from headwater_protocol.reasons import ReasonCode
from headwater_shard.mainchain.records import MAIN, MAIN_KEY, SHARDS, shard_key
from tests.support.gateway_support import SHARD_0, Bench, gateway_task

EVERY_ROUND = Parameters(
    checkpoint_interval=1,
    checkpoints_per_epoch=1,
    merge_wait_ms=1_000,
    epoch_timeout_ms=60_000,
    retention_rounds=3,
    clock_drift_ms=1_000,
)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, parameters=EVERY_ROUND, task=gateway_task(rounds=6))


def settled(bench: Bench) -> int:
    entry = bench.chains[MAIN_CHAIN].app.state.get(SHARDS, shard_key(SHARD_0))
    assert entry is not None
    return entry.number


def run_round(bench: Bench) -> None:
    number = bench.shard.round.number
    bench.publish_all()
    for _ in range(30):
        if bench.shard.round.number > number or bench.record().is_finished:
            return
        bench.settle(1)
    raise AssertionError("the round stands still")


def test_checkpoint_is_posted_once_a_quorum_signed_it(bench: Bench) -> None:
    bench.loses = lambda body: isinstance(body, SignCheckpoint)
    run_round(bench)
    bench.settle(2)
    assert bench.bodies(PostCheckpoint) == []
    bench.loses = lambda body: False
    bench.boot()
    bench.settle(4)
    assert settled(bench) == 1
    ((chain, _, reason),) = [
        entry for entry in bench.submitted if isinstance(entry[1].transaction.body, PostCheckpoint)
    ]
    assert (chain, reason) == (MAIN_CHAIN, ReasonCode.OK)


def test_checkpoints_queue_while_the_main_chain_is_away_and_settle_in_order(bench: Bench) -> None:
    bench.away.add(MAIN_CHAIN)
    for _ in range(3):
        run_round(bench)
    assert bench.record().checkpoints == 3
    assert settled(bench) == 0
    assert bench.shard.round.number == 4
    bench.away.clear()
    bench.submitted.clear()
    bench.pass_ms(RETRY_MS)
    bench.settle(8)
    taken = [
        signed.transaction.body.signed.checkpoint.number
        for _, signed, reason in bench.submitted
        if reason is ReasonCode.OK and isinstance(signed.transaction.body, PostCheckpoint)
    ]
    assert taken == [1, 2, 3]
    assert settled(bench) == 3


def test_merge_is_adopted_and_the_next_base_is_it(bench: Bench) -> None:
    run_round(bench)
    bench.settle(6)
    main = bench.chains[MAIN_CHAIN].app.state.get(MAIN, MAIN_KEY)
    assert main is not None
    assert main.epoch == 1
    assert len(bench.bodies(AdoptEpoch)) == 1
    assert bench.shard.round.epoch == 1


def test_merge_that_could_not_be_delivered_is_sent_again(bench: Bench) -> None:
    bench.loses = lambda body: isinstance(body, AdoptEpoch)
    run_round(bench)
    bench.settle(6)
    assert bench.record().epoch == 0
    bench.loses = lambda body: False
    bench.boot()
    bench.settle(2)
    run_round(bench)
    assert bench.record().epoch >= 1
