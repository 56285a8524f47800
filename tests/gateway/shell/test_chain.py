"""A chain in the process: what is on disk is gone on from, and a full queue says so."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headwater_gateway.machine.effects import Submit
from headwater_gateway.shell import chain as chain_module
from headwater_gateway.shell.chain import ChainHost, ChainRunner, StepResult
from headwater_protocol.crypto.signing import DirectVerifier
from headwater_protocol.errors import StorageError
from headwater_protocol.identifiers import Nonce
from headwater_protocol.reasons import ReasonCode
from headwater_shard.shardchain.records import DEVICES
from tests.support.gateway_support import SHARD_0, gateway_task
from tests.support.network import Cast, Chain, key, make_cast


@pytest.fixture
def cast() -> Cast:
    return make_cast(task=gateway_task(rounds=2))


@contextmanager
def opened(cast: Cast, folder: Path) -> Iterator[ChainHost]:
    host = ChainHost(
        genesis=cast.genesis,
        chain=SHARD_0,
        keys=cast.validators[SHARD_0],
        path=folder / "ledger.sqlite",
        verifier=DirectVerifier(),
    )
    try:
        yield host
    finally:
        host.close()


def enrolment(cast: Cast, name: str, nonce: int) -> Submit:
    chain = Chain(cast, SHARD_0)
    data = chain.sign(cast.registrar, chain.enrolment(key(name)), nonce=Nonce(nonce))
    return Submit(chain=SHARD_0, transaction=data, ticket=name)


def test_host_goes_on_from_its_store(cast: Cast, tmp_path: Path) -> None:
    now_ms = cast.genesis.time_ms + 1_000
    with opened(cast, tmp_path) as host:
        assert host.tip is None
        result = host.step([enrolment(cast, "one", 1)], now_ms)
        assert [reason for _, reason in result.reasons] == [ReasonCode.OK]
        before = host.tip
    assert before is not None
    assert before.state.count(DEVICES) == 1
    with opened(cast, tmp_path) as host:
        after = host.tip
        assert after is not None
        assert after.block == before.block
        assert after.state.root == before.state.root
        assert host.height == before.block.header.height
        replay, fresh = host.step(
            [enrolment(cast, "one", 1), enrolment(cast, "two", 2)], now_ms + 1_000
        ).reasons
        assert replay[1] is ReasonCode.WRONG_NONCE
        assert fresh[1] is ReasonCode.OK
        assert host.state.count(DEVICES) == 2
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "ledger.sqlite",
        "ledger.sqlite.lock",
    ]


def test_store_that_is_in_use_is_refused(cast: Cast, tmp_path: Path) -> None:
    with opened(cast, tmp_path), pytest.raises(StorageError, match="use"), opened(cast, tmp_path):
        pass


def test_store_of_another_network_is_refused_and_left_unlocked(cast: Cast, tmp_path: Path) -> None:
    with opened(cast, tmp_path):
        pass
    other = make_cast(task=gateway_task(rounds=3))
    with pytest.raises(StorageError, match="another folder"), opened(other, tmp_path):
        pass
    with opened(cast, tmp_path):
        pass


def test_runner_is_busy_one_past_its_limit(
    cast: Cast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain_module, "MAX_QUEUED_SUBMISSIONS", 2)
    told: list[StepResult] = []

    async def scenario() -> None:
        with opened(cast, tmp_path) as host:
            runner = ChainRunner(host, on_step=told.append, now_ms=lambda: cast.genesis.time_ms + 5)
            row = [enrolment(cast, str(number), number + 1) for number in range(3)]
            assert [runner.submit(submit) for submit in row] == [True, True, False]
            task = asyncio.create_task(runner.run())
            async with asyncio.timeout(10):
                while not told:
                    await asyncio.sleep(0.01)
            assert runner.submit(row[2])
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())
    assert [reason for _, reason in told[0].reasons] == [ReasonCode.OK] * 2
    assert not list(tmp_path.glob("*-wal"))
