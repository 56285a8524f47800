"""What delegates owe: each thing once, again after it was lost, and nothing without a seat."""

from collections import Counter
from pathlib import Path

import pytest

from headwater_gateway.machine import gateway as gateway_module
from headwater_gateway.machine.effects import ComputeMerge, ComputeRoundModel, ScoreBatch, Submit
from headwater_gateway.machine.gateway import MAX_ENROLMENTS_UNDER_WAY, PATIENCE_MS, RETRY_MS
from headwater_protocol.chain.transaction import (
    AttestMerge,
    AttestModel,
    Body,
    EnrolDevice,
    PostScores,
    SignCheckpoint,
)
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId
from headwater_protocol.reasons import ReasonCode
from headwater_shard.mainchain.records import MAIN, MAIN_KEY
from headwater_shard.shardchain.records import DEVICES
from tests.support.gateway_support import LINGER, SHARD_0, Bench, gateway_task, make_scored
from tests.support.network import key

DUTIES: tuple[type, ...] = (PostScores, AttestModel, SignCheckpoint, AttestMerge)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, task=gateway_task(rounds=2))


def finish(bench: Bench) -> None:
    """All rounds of all shards, with an honest update of every device in each."""
    for _ in range(60):
        for shard in sorted(bench.cast.validators):
            record = bench.record(shard)
            if not record.is_finished and bench.chains[shard].round.phase == "collect":
                for number, device in enumerate(bench.devices):
                    update = bench.update(device, chain=shard)
                    topic = bench.topics.update(device.device).replace(SHARD_0, shard)
                    bench.publish(update, topic=topic)
                    assert number < len(bench.devices)
        bench.settle(1)


def test_each_delegate_does_each_duty_once(bench: Bench) -> None:
    finish(bench)
    assert bench.record().is_finished
    for kind, duties in ((PostScores, 2), (AttestModel, 2), (SignCheckpoint, 1), (AttestMerge, 1)):
        senders = Counter(signed.transaction.sender for signed in bench.bodies(kind))
        expected = {key.account: duties for key in bench.cast.validators[SHARD_0]}
        assert senders == expected, kind
    assert bench.metrics.refused_transactions == {}


@pytest.mark.parametrize("kind", DUTIES)
def test_duty_whose_transaction_got_lost_is_done_again(bench: Bench, kind: type) -> None:
    lost: list[Body] = []

    def loses(body: Body) -> bool:
        if isinstance(body, kind) and len(lost) < 4:
            lost.append(body)
            return True
        return False

    bench.loses = loses
    for _ in range(3):
        finish(bench)
        # A chain may make no block by itself, so only the gateway's own timer can find out.
        bench.pass_ms(PATIENCE_MS)
    assert len(lost) == 4
    main = bench.chains[MAIN_CHAIN].app.state.get(MAIN, MAIN_KEY)
    assert main is not None
    assert main.epoch == 1


@pytest.mark.parametrize("kind", [ScoreBatch, ComputeRoundModel])
def test_duty_that_failed_is_tried_again_after_a_pause(bench: Bench, kind: type) -> None:
    bench.kept = (kind,)
    bench.publish_all()
    bench.settle(2)
    works = [entry for entry in bench.worked if isinstance(entry, kind)]
    assert len(works) == 4
    for work in works:
        if isinstance(work, ScoreBatch):
            bench.machine.on_scored(work, None, bench.now_ms)
        elif isinstance(work, ComputeRoundModel):
            bench.machine.on_round_model(work, None, bench.now_ms)
    bench.perform()
    assert bench.machine.next_timer() == bench.now_ms + RETRY_MS
    bench.kept = ()
    bench.worked.clear()
    bench.pass_ms(RETRY_MS)
    assert len([entry for entry in bench.worked if isinstance(entry, kind)]) == 4
    bench.settle(4)
    assert bench.shard.round.number == 2


def test_slow_work_is_not_started_twice(bench: Bench) -> None:
    bench.kept = (ScoreBatch,)
    bench.publish_all()
    for _ in range(4):
        bench.settle(1)
        bench.pass_ms(PATIENCE_MS)
        bench.mine(SHARD_0)
    assert len(bench.worked) - 1 == len(bench.cast.validators[SHARD_0])


def test_result_of_work_that_is_owed_no_more_is_dropped(bench: Bench) -> None:
    bench.kept = (ScoreBatch,)
    bench.publish_all()
    bench.settle(1)
    works = [entry for entry in bench.worked if isinstance(entry, ScoreBatch)]
    bench.kept = ()
    bench.now_ms = bench.shard.round.collect_until_ms
    bench.mine(SHARD_0)
    bench.now_ms = bench.shard.round.score_until_ms
    bench.mine(SHARD_0)
    for work in works:
        bench.machine.on_scored(work, make_scored((1,) * len(work.commits)), bench.now_ms)
    bench.perform()
    assert bench.bodies(PostScores) == []


def test_refused_duties_are_counted_and_tried_again(bench: Bench) -> None:
    bench.kept = (Submit,)
    bench.publish_all()
    bench.pass_ms(LINGER)
    bench.kept = ()
    for submit in [entry for entry in bench.worked if isinstance(entry, Submit)]:
        bench.pool[SHARD_0].append(submit.transaction)
    bench.away.add(SHARD_0)
    bench.mine(SHARD_0)
    assert bench.metrics.refused_transactions == {ReasonCode.BUSY: 4}
    bench.away.clear()
    bench.pass_ms(RETRY_MS)
    bench.settle(2)
    assert bench.shard.round.number == 2


def test_retry_is_not_put_off_by_the_next_failure(bench: Bench) -> None:
    bench.kept = (ScoreBatch,)
    bench.publish_all()
    bench.settle(1)
    works = [entry for entry in bench.worked if isinstance(entry, ScoreBatch)]
    first_ms = bench.now_ms
    for work in works:
        bench.machine.on_scored(work, None, bench.now_ms)
        bench.now_ms += RETRY_MS // 4
    assert bench.machine.next_timer() == first_ms + RETRY_MS


def test_stranger_owes_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, keys=[key("nobody")])
    bench.publish_all()
    bench.settle(4)
    assert [bench.bodies(kind) for kind in DUTIES] == [[], [], [], []]
    assert {reason for d in bench.devices for reason in bench.reasons(d)} == {ReasonCode.BUSY}


def test_restarted_gateway_owes_what_it_owed(bench: Bench) -> None:
    bench.kept = (ScoreBatch,)
    bench.publish_all()
    bench.settle(1)
    assert bench.bodies(PostScores) == []
    bench.kept = ()
    bench.boot()
    bench.settle(3)
    assert bench.shard.round.number == 2


def test_listed_devices_are_enrolled_once_and_again_after_a_loss(tmp_path: Path) -> None:
    bench = Bench(tmp_path, enrols=False)
    assert len(bench.bodies(EnrolDevice)) == 3
    bench.pool[SHARD_0].clear()
    bench.pass_ms(PATIENCE_MS)
    assert len(bench.bodies(EnrolDevice)) == 6
    bench.settle(3)
    assert bench.shard.app.state.count(DEVICES) == 3
    assert len(bench.bodies(EnrolDevice)) == 6


def test_enrolments_under_way_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_ENROLMENTS_UNDER_WAY == 1_000
    monkeypatch.setattr(gateway_module, "MAX_ENROLMENTS_UNDER_WAY", 2)
    bench = Bench(tmp_path, enrols=False, num_devices=3)
    assert len(bench.bodies(EnrolDevice)) == 2
    bench.settle(3)
    assert bench.shard.app.state.count(DEVICES) == 3


def test_two_shards_are_merged_by_the_delegates_of_both(tmp_path: Path) -> None:
    bench = Bench(tmp_path, shards=("shard-0", "shard-1"), task=gateway_task(rounds=2))
    finish(bench)
    (work, *others) = [entry for entry in bench.worked if isinstance(entry, ComputeMerge)]
    assert [entry.shard for entry in work.inputs] == ["shard-0", "shard-1"]
    assert len(others) == 7
    for shard in ("shard-0", "shard-1"):
        assert bench.record(ChainId(shard)).is_finished


def test_a_merge_that_found_no_majority_is_attested_again(bench: Bench) -> None:
    """Half of the delegates lie about the first attempt; with the second they are honest."""
    taken: list[AttestMerge] = []

    def loses(body: Body) -> bool:
        if isinstance(body, AttestMerge):
            taken.append(body)
        return isinstance(body, AttestMerge) and body.attempt == 0 and len(taken) <= 2

    bench.loses = loses
    # Nobody looks again for what got lost, so that the first attempt stays open.
    bench.kept = ()
    finish(bench)
    state = bench.chains[MAIN_CHAIN].app.state
    main = state.get(MAIN, MAIN_KEY)
    assert main is not None
    assert main.is_merging
    assert len(taken) == 4
    bench.away.add(MAIN_CHAIN)
    bench.pass_ms(main.merge_opened_ms + 60_000 - bench.now_ms)
    bench.away.clear()
    bench.pool[MAIN_CHAIN].clear()
    bench.mine(MAIN_CHAIN)
    bench.settle(3)
    main = bench.chains[MAIN_CHAIN].app.state.get(MAIN, MAIN_KEY)
    assert main is not None
    assert (main.epoch, main.is_merging) == (1, False)
    assert {body.attempt for body in taken} == {0, 1}
