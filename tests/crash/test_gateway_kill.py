"""A gateway that is killed at random moments loses nothing that it promised."""

import random
from pathlib import Path

import pytest

from headwater_gateway.shell.broker import embedded_broker
from headwater_shard.audit.folder import open_audit
from headwater_shard.layout import DataFolder
from tests.support.gateway_process import Fleet, GatewayProcess, commits_on, found, pause

LONGEST_S = 1.2
"""From a start to the kill; a round takes about a quarter of a second."""


def run_killed(tmp_path: Path, *, num_kills: int, rounds: int, seed: int, timeout_s: float) -> None:
    rng = random.Random(seed)
    with embedded_broker("127.0.0.1", 0) as url:
        genesis = found(tmp_path, rounds=rounds, num_shards=2, num_devices=10, url=url)
        gateway = GatewayProcess(tmp_path / "net")
        with Fleet(genesis, url, num_devices=10) as fleet:
            try:
                for _ in range(num_kills):
                    gateway.start()
                    pause(rng, longest_s=LONGEST_S)
                    gateway.kill()
                gateway.start()
                assert gateway.wait(timeout_s) == 0, gateway.log.read_text()
            finally:
                gateway.stop()
    assert "Traceback" not in gateway.log.read_text()
    data = tmp_path / "net" / "data"
    assert not list(data.rglob("*-wal"))
    with open_audit(DataFolder(data)) as audit:
        for _ in audit.run():
            pass
        report = audit.report
    shards = [entry for entry in report.chains if entry.chain in genesis.shards]
    assert [entry.rounds for entry in shards] == [rounds] * 2
    promises = fleet.promises()
    ledgers = {shard: commits_on(data, shard) for shard in genesis.shards}
    for receipt in promises:
        payload, height = ledgers[receipt.shard][(receipt.round, receipt.device)]
        assert payload == receipt.payload, receipt
        assert height <= receipt.height, receipt
    # The run is only worth something if most rounds took most devices.
    assert len(promises) > 2 * rounds
    assert sum(entry.updates for entry in shards) <= 10 * rounds
    assert sum(entry.rewards for entry in shards) > 0


def test_gateway_killed_three_times_keeps_every_promise(tmp_path: Path) -> None:
    run_killed(tmp_path, num_kills=3, rounds=30, seed=1, timeout_s=150)


@pytest.mark.crash
def test_gateway_killed_twenty_times_keeps_every_promise(tmp_path: Path) -> None:
    run_killed(tmp_path, num_kills=20, rounds=150, seed=2, timeout_s=400)
