"""From a configuration to a service: validation data are dealt out, folders are not mixed up."""

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headwater_gateway.launch import deal
from headwater_gateway.machine.effects import ScoreBatch
from headwater_gateway.shell.service import GatewayService, HostedShard, ServiceSetup
from headwater_models.dataset import Dataset
from headwater_protocol.chain.genesis import decode_genesis
from headwater_protocol.crypto.signing import DirectVerifier
from headwater_protocol.errors import ConfigError, StorageError
from headwater_protocol.identifiers import RoundNumber
from tests.support.gateway_support import BASE, PROGRAM, SHARD_0, gateway_task
from tests.support.network import Cast, make_cast


def make_setup(cast: Cast, folder: Path) -> ServiceSetup:
    return ServiceSetup(
        genesis=cast.genesis,
        folder=folder,
        shards=[HostedShard(shard=SHARD_0, keys=cast.validators[SHARD_0])],
        broker_url="mqtt://127.0.0.1:9",
        blobs=[BASE, PROGRAM],
    )


def open_and_close(setup: ServiceSetup) -> None:
    async def scenario() -> None:
        task = asyncio.create_task(GatewayService(setup, verifier=DirectVerifier()).run())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())


def test_examples_are_dealt_out_so_that_each_part_has_the_same_mix() -> None:
    labels = np.repeat(np.arange(3), 8).astype(np.int32)
    data = Dataset(features=np.arange(24, dtype=np.float32).reshape(24, 1), labels=labels)
    parts = deal(data, 4, key="k")
    assert [sorted(part.labels.tolist()) for part in parts] == [[0, 0, 1, 1, 2, 2]] * 4
    dealt = sorted(int(value) for part in parts for value in part.features[:, 0])
    assert dealt == list(range(24))


def test_fewer_examples_than_delegates_are_refused() -> None:
    data = Dataset(features=np.ones((3, 1), np.float32), labels=np.zeros(3, np.int32))
    assert len(deal(data, 3, key="k")) == 3
    with pytest.raises(ConfigError, match="k: 3 examples for 4 delegates"):
        deal(data, 4, key="k")


def test_service_that_is_cancelled_before_it_began_closes_its_stores(tmp_path: Path) -> None:
    setup = make_setup(make_cast(task=gateway_task()), tmp_path)
    open_and_close(setup)
    assert not list(tmp_path.rglob("*-wal"))
    open_and_close(setup)


def test_folder_of_another_network_keeps_its_genesis(tmp_path: Path) -> None:
    cast = make_cast(task=gateway_task())
    open_and_close(make_setup(cast, tmp_path))
    other = make_cast(task=gateway_task(rounds=3))
    with pytest.raises(StorageError, match="another folder"):
        GatewayService(make_setup(other, tmp_path), verifier=DirectVerifier())
    assert decode_genesis((tmp_path / "genesis.cbor").read_bytes()) == cast.genesis
    # The refused service let go of what it had opened.
    open_and_close(make_setup(cast, tmp_path))


def test_genesis_cut_short_is_said_and_not_written_over(tmp_path: Path) -> None:
    setup = make_setup(make_cast(task=gateway_task()), tmp_path)
    (tmp_path / "genesis.cbor").write_bytes(b"half")
    with pytest.raises(StorageError, match=r"genesis\.cbor"):
        GatewayService(setup, verifier=DirectVerifier())
    assert (tmp_path / "genesis.cbor").read_bytes() == b"half"


def test_duty_that_cannot_be_done_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cast = make_cast(task=gateway_task())
    service = GatewayService(make_setup(cast, tmp_path), verifier=DirectVerifier())
    work = ScoreBatch(
        ticket="shard-0/score/1/0",
        shard=SHARD_0,
        round=RoundNumber(1),
        batch=0,
        validator=cast.validators[SHARD_0][0].validator,
        task=cast.genesis.task,
        base=cast.genesis.task.initial_model,
        commits=(),
    )
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert service._score(work) is None
        assert service._score(replace(work, ticket="another")) is None
    assert caplog.text.count("has no validation data") == 2
    for host in service.hosts.values():
        host.close()
