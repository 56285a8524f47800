from collections.abc import Sequence

import pytest

from headwater_protocol.crypto.signing import DirectVerifier
from headwater_protocol.errors import ConfigError
from headwater_protocol.reasons import ReasonCode
from headwater_shard.engine.bft.effects import DurableEffect, Finalized
from headwater_shard.engine.embedded import EmbeddedEngine, ReplicaHalted, ReplicaSetup
from headwater_shard.engine.execution_cache import MAX_CACHED_EXECUTIONS, ExecutionCache
from headwater_shard.engine.mempool import Mempool
from tests.support.engine_support import (
    DRIFT_MS,
    FAST,
    Disk,
    KeyValueLedger,
    committee_of,
    key_of,
)

NOW = 1_000_000


def make_engine(
    size: int = 4,
    *,
    disk: Disk | None = None,
    cache: ExecutionCache | None = None,  # type: ignore[type-arg]
    interval_ms: int | None = None,
) -> tuple[EmbeddedEngine, Disk, list[KeyValueLedger]]:
    disk = Disk() if disk is None else disk
    committee = committee_of([10] * size)
    ledgers = [
        disk.replay(KeyValueLedger(committee, cache=cache, interval_ms=interval_ms))
        for _ in range(size)
    ]
    engine = EmbeddedEngine(
        replicas=[
            ReplicaSetup(
                key=key_of(index),
                application=ledger,
                saved=disk.saved(key_of(index).validator),
            )
            for index, ledger in enumerate(ledgers)
        ],
        verifier=DirectVerifier(),
        write=disk.write,
        clock_drift_ms=DRIFT_MS,
        timeouts=FAST,
        history=disk,
        tip=disk.tip,
    )
    return engine, disk, ledgers


def run_until(engine: EmbeddedEngine, now_ms: int, height: int) -> int:
    for _ in range(200):
        if engine.height >= height:
            return now_ms
        at = engine.next_timer()
        assert at is not None
        now_ms = max(now_ms, at)
        engine.on_timer(now_ms)
    raise AssertionError(f"height {engine.height}, wanted {height}")


def submit_some(engine: EmbeddedEngine) -> None:
    for number in range(3):
        engine.submit(b"k%d=1" % number, NOW + number)


def test_a_submitted_transaction_is_finalized_within_the_call() -> None:
    engine, disk, ledgers = make_engine()
    assert engine.submit(b"a=1", NOW) is ReasonCode.OK
    (final,) = engine.effects()
    assert isinstance(final, Finalized)
    assert [len(disk.finals), engine.height] == [1, 1]
    assert [ledger.value(b"a") for ledger in ledgers] == [b"1"] * 4
    assert engine.next_timer() is None


def test_a_refused_transaction_says_why_and_makes_no_block() -> None:
    engine, disk, _ = make_engine()
    assert engine.submit(b"!a=1", NOW) is ReasonCode.NOT_PERMITTED
    assert (engine.height, disk.writes) == (0, 0)


def test_a_block_costs_the_shell_four_writes_however_many_validators() -> None:
    for size in (1, 4, 7):
        engine, disk, _ = make_engine(size)
        engine.submit(b"a=1", NOW)
        assert disk.writes <= 4


def test_equal_inputs_give_equal_blocks() -> None:
    runs = []
    for _ in range(2):
        engine, disk, _ = make_engine()
        for number in range(5):
            engine.submit(b"k%d=1" % number, NOW + number)
        runs.append(disk.finals)
    assert runs[0] == runs[1]


def test_nothing_is_delivered_before_the_write_that_precedes_it() -> None:
    engine, _, _ = make_engine()
    heard: list[bytes] = []

    def failing(effects: Sequence[DurableEffect]) -> None:
        heard.extend(effect.state.validator for effect in effects if not hasattr(effect, "block"))
        raise OSError("no disk")

    engine._write = failing
    with pytest.raises(OSError, match="no disk"):
        engine.submit(b"a=1", NOW)
    assert len(set(heard)) == 1
    assert all(not inbox for inbox in engine._inboxes.values())


def test_the_chain_goes_on_with_one_of_four_down_and_it_catches_up() -> None:
    engine, _, ledgers = make_engine()
    away = key_of(2).validator
    engine.set_down(away)
    assert not engine.is_up(away)
    now = NOW
    for number in range(12):
        engine.submit(b"k%d=1" % number, now)
        now = run_until(engine, now, number + 1)
    assert ledgers[2].height == 0
    engine.set_up(away, now)
    assert ledgers[2].height == 12
    assert ledgers[2].state_root == ledgers[0].state_root
    engine.submit(b"more=1", now)
    run_until(engine, now, 13)
    assert [ledger.height for ledger in ledgers] == [13] * 4


def test_two_of_four_down_halt_the_chain_until_one_is_back() -> None:
    engine, _, _ = make_engine()
    engine.set_down(key_of(0).validator)
    engine.set_down(key_of(1).validator)
    engine.submit(b"a=1", NOW)
    now = NOW
    for _ in range(50):
        now = max(now, engine.next_timer() or now)
        engine.on_timer(now)
    assert engine.height == 0
    engine.set_up(key_of(0).validator, now)
    run_until(engine, now, 1)


def test_an_engine_restarts_from_what_was_written_at_any_wave() -> None:
    for stop_after in range(1, 10):
        disk = Disk()
        engine, _, _ = make_engine(disk=disk)

        class PowerCut(Exception):
            pass

        def cut(
            effects: Sequence[DurableEffect],
            disk: Disk = disk,
            stop_after: int = stop_after,
            error: type[Exception] = PowerCut,
        ) -> None:
            disk.write(effects)
            if disk.writes == stop_after:
                raise error

        engine._write = cut
        with pytest.raises(PowerCut):
            submit_some(engine)
        again, _, ledgers = make_engine(disk=disk)
        now = run_until(again, NOW + 10, len(disk.finals))
        height = again.height
        again.on_timer(now)
        assert again.submit(b"last=1", now) is ReasonCode.OK
        for _ in range(20):
            if ledgers[0].value(b"last"):
                break
            now = max(now, again.next_timer() or now)
            again.on_timer(now)
        assert [ledger.value(b"last") for ledger in ledgers] == [b"1"] * 4
        assert again.height > height


def test_a_ledger_timer_drives_empty_blocks() -> None:
    engine, disk, _ = make_engine(interval_ms=1_000)
    engine.on_timer(NOW)
    assert engine.height >= 1
    at = engine.next_timer()
    assert at == disk.finals[-1].block.header.time_ms + 1_000
    engine.on_timer(at - 1)
    height = engine.height
    engine.on_timer(at)
    assert engine.height == height + 1


def test_a_replica_that_computes_something_else_stops_the_engine() -> None:
    engine, _, ledgers = make_engine()
    ledgers[1].corrupt_from = 1
    with pytest.raises(ReplicaHalted, match="state_root"):
        submit_some(engine)


def test_an_execution_cache_computes_each_block_once_and_is_off_by_default() -> None:
    engine, _, ledgers = make_engine()
    engine.submit(b"a=1", NOW)
    assert [ledger.executions for ledger in ledgers] == [1] * 4
    cache: ExecutionCache = ExecutionCache()  # type: ignore[type-arg]
    shared, disk, sharing = make_engine(cache=cache)
    for number in range(MAX_CACHED_EXECUTIONS + 2):
        shared.submit(b"k%d=1" % number, NOW + number)
    assert sum(ledger.executions for ledger in sharing) == shared.height == len(disk.finals)
    assert len(cache) == MAX_CACHED_EXECUTIONS


def test_an_engine_needs_distinct_replicas() -> None:
    ledger = KeyValueLedger(committee_of([1]))
    setup = ReplicaSetup(key=key_of(0), application=ledger)
    for replicas, problem in (([], "is empty"), ([setup, setup], "comes twice")):
        with pytest.raises(ConfigError, match=problem):
            EmbeddedEngine(
                replicas=replicas,
                verifier=DirectVerifier(),
                write=lambda _: None,
                clock_drift_ms=DRIFT_MS,
            )


def test_a_full_mempool_is_answered_with_busy() -> None:
    committee = committee_of([10] * 4)
    engine = EmbeddedEngine(
        replicas=[
            ReplicaSetup(key=key_of(index), application=KeyValueLedger(committee))
            for index in range(2)
        ],
        verifier=DirectVerifier(),
        write=lambda _: None,
        clock_drift_ms=DRIFT_MS,
        mempool=Mempool(max_count=2),
    )
    reasons = [engine.submit(b"k%d=1" % number, NOW) for number in range(3)]
    assert reasons == [ReasonCode.OK, ReasonCode.OK, ReasonCode.BUSY]
