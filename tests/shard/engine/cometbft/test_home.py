"""The node's folder and the child: what is written, what is refused, what a crash leaves."""

import asyncio
import json
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from headwater_protocol.chain.genesis import GenesisAccount
from headwater_protocol.errors import ConfigError
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId, Units
from headwater_shard.engine.cometbft.shell import node as node_module
from headwater_shard.engine.cometbft.shell.home import (
    MAX_SOCKET_PATH_BYTES,
    MAX_TOTAL_POWER,
    NodeConfig,
    StateSync,
    make_genesis_json,
    write_home,
)
from headwater_shard.engine.cometbft.shell.node import NodeProcess, find_binary
from tests.support.network import make_cast


def test_the_folder_is_written_once_and_keeps_its_key(tmp_path: Path) -> None:
    cast = make_cast()
    config = NodeConfig(
        home=tmp_path / "node",
        p2p_address="tcp://127.0.0.1:1",
        persistent_peers=('a"b@10.0.0.1:2', "c@10.0.0.2:3"),
    )
    node_id = write_home(config, cast.genesis, ChainId("shard-0"))
    assert len(bytes.fromhex(node_id)) == 20
    files = {path: path.read_bytes() for path in sorted(config.home.rglob("*")) if path.is_file()}
    assert write_home(config, cast.genesis, ChainId("shard-0")) == node_id
    assert files == {path: path.read_bytes() for path in files}
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)
    found = tomllib.loads((config.home / "config" / "config.toml").read_text())
    assert found["proxy_app"] == f"unix://{config.abci_socket}"
    assert found["p2p"]["persistent_peers"] == 'a"b@10.0.0.1:2,c@10.0.0.2:3'
    assert found["consensus"]["create_empty_blocks"] is False
    assert found["statesync"] == {"enable": False}
    genesis = json.loads((config.home / "config" / "genesis.json").read_text())
    assert len(genesis["validators"]) == 4
    assert genesis["chain_id"].startswith("shard-0-")
    assert not any(cast.all_validators[0].seed.hex() in str(data) for data in files.values())


def test_state_sync_is_written(tmp_path: Path) -> None:
    sync = StateSync(rpc_servers=("a:1", "b:2"), trust_height=7, trust_hash="AB")
    config = NodeConfig(home=tmp_path, state_sync=sync, rpc_address="tcp://127.0.0.1:9")
    write_home(config, make_cast().genesis, MAIN_CHAIN)
    found = tomllib.loads((tmp_path / "config" / "config.toml").read_text())
    assert found["statesync"]["rpc_servers"] == "a:1,b:2"
    assert config.rpc_endpoint == ("127.0.0.1", 9)


def test_a_path_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    config = NodeConfig(home=tmp_path / ("x" * MAX_SOCKET_PATH_BYTES))
    with pytest.raises(ConfigError, match="shorter folder"):
        write_home(config, make_cast().genesis, MAIN_CHAIN)


def test_a_spoilt_node_key_is_named(tmp_path: Path) -> None:
    config = NodeConfig(home=tmp_path)
    write_home(config, make_cast().genesis, MAIN_CHAIN)
    (tmp_path / "config" / "node_key.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds no key"):
        write_home(config, make_cast().genesis, MAIN_CHAIN)


def test_more_stake_than_cometbft_counts_is_refused() -> None:
    genesis = make_cast().genesis
    rest = sum(entry.balance for entry in genesis.accounts[1:])
    rest += sum(entry.stake for entry in genesis.validators)

    def with_balance(balance: int) -> object:
        first = GenesisAccount(account=genesis.accounts[0].account, balance=Units(balance))
        changed = replace(genesis, accounts=(first, *genesis.accounts[1:]))
        return make_genesis_json(changed, MAIN_CHAIN)

    assert with_balance(MAX_TOTAL_POWER - rest)
    with pytest.raises(ConfigError, match="CometBFT counts"):
        with_balance(MAX_TOTAL_POWER - rest + 1)


def test_a_missing_program_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="go install"):
        find_binary()
    program = tmp_path / "go" / "bin" / "cometbft"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert find_binary() == program
    with pytest.raises(ConfigError, match="cannot be run"):
        find_binary(tmp_path / "elsewhere")


def script(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "program"
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)
    return path


def test_a_child_that_ends_is_started_again_over_its_old_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_module, "FIRST_BACKOFF_S", 0.01)
    stale = tmp_path / "old.sock"
    stale.touch()
    program = script(
        tmp_path,
        f"import pathlib, sys\nprint('here', pathlib.Path({str(stale)!r}).exists())\nsys.exit(3)\n",
    )
    codes: list[int] = []

    async def run() -> None:
        enough = asyncio.Event()

        def on_exit(code: int) -> None:
            codes.append(code)
            if len(codes) == 3:
                enough.set()

        node = NodeProcess(
            binary=program,
            home=tmp_path,
            log_file=tmp_path / "log",
            sockets=[stale],
            on_exit=on_exit,
        )
        task = asyncio.create_task(node.run())
        async with asyncio.timeout(30):
            await enough.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert node.pid is None

    asyncio.run(run())
    assert codes == [3, 3, 3]
    assert (tmp_path / "log").read_text().splitlines()[:3] == ["here False"] * 3


def run_until_ended(node: NodeProcess, codes: list[int], count: int) -> None:
    async def run() -> None:
        task = asyncio.create_task(node.run())
        async with asyncio.timeout(30):
            while len(codes) < count:
                assert not task.done(), task.exception()
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def test_a_child_whose_consensus_has_failed_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CometBFT goes on as a process then, and decides nothing any more."""
    monkeypatch.setattr(node_module, "FIRST_BACKOFF_S", 0.01)
    program = script(
        tmp_path,
        "import time\n"
        "print('E[x] CONSENSUS FAI', end='', flush=True)\n"
        "time.sleep(0.1)\n"
        "print('LURE!!! err=\"no space left on device\"', flush=True)\n"
        "time.sleep(60)\n",
    )
    codes: list[int] = []
    node = NodeProcess(
        binary=program, home=tmp_path, log_file=tmp_path / "log", on_exit=codes.append
    )
    run_until_ended(node, codes, 2)
    assert codes[:2] == [-9, -9]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_log_on_a_full_disk_holds_no_child_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_module, "FIRST_BACKOFF_S", 0.01)
    program = script(tmp_path, "import sys\nprint('x' * 1_000_000)\nsys.exit(5)\n")
    codes: list[int] = []
    node = NodeProcess(
        binary=program, home=tmp_path, log_file=Path("/dev/full"), on_exit=codes.append
    )
    run_until_ended(node, codes, 2)
    assert codes[:2] == [5, 5]


def test_a_child_that_will_not_stop_is_killed_and_its_log_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_module, "STOP_S", 0.3)
    monkeypatch.setattr(node_module, "MAX_LOG_BYTES", 10_000)
    program = script(
        tmp_path,
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "for _ in range(400):\n"
        "    print('x' * 99, flush=True)\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n",
    )
    log = tmp_path / "log"

    async def run() -> None:
        node = NodeProcess(binary=program, home=tmp_path, log_file=log)
        task = asyncio.create_task(node.run())
        async with asyncio.timeout(30):
            while not (log.exists() and b"ready" in log.read_bytes()):
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert node.pid is None

    asyncio.run(run())
    # One piece of what is read may be longer than the limit, which is made small here.
    assert log.stat().st_size <= 10_000 + node_module.MAX_LINE_BYTES
    assert len(list(tmp_path.glob("log*"))) <= 2
