"""A chain on CometBFT in the gateway's shell: the runner is woken, restarts go on, keys count."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headwater_gateway.comet.config import CometConfig, CometNodeConfig
from headwater_gateway.comet.host import CometHost
from headwater_gateway.machine.effects import Submit
from headwater_gateway.shell.chain import ChainRunner, StepResult
from headwater_protocol.crypto.signing import DirectVerifier
from headwater_protocol.errors import ConfigError, StorageError
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId
from headwater_protocol.reasons import ReasonCode
from headwater_shard.mainchain.records import ACCOUNTS
from tests.support.comet import free_ports, now_ms, transfer
from tests.support.network import Cast, key, make_cast

SHARD_0 = ChainId("shard-0")


@pytest.fixture
def cast() -> Cast:
    return make_cast(validators_per_shard=1, balances=[("alice", 1_000)])


def config(*, binary: Path | None = None, chain: ChainId = MAIN_CHAIN) -> CometConfig:
    (port,) = free_ports(1)
    node = CometNodeConfig(chain=chain, listen=f"tcp://127.0.0.1:{port}", peers=())
    return CometConfig(binary=binary, nodes=(node,))


@contextmanager
def opened(cast: Cast, folder: Path) -> Iterator[CometHost]:
    host = CometHost(
        genesis=cast.genesis,
        chain=MAIN_CHAIN,
        keys=cast.all_validators,
        path=folder / "ledger.sqlite",
        verifier=DirectVerifier(),
        config=config(),
    )
    try:
        yield host
    finally:
        host.close()


def submit(cast: Cast, nonce: int) -> Submit:
    return Submit(chain=MAIN_CHAIN, transaction=transfer(cast, nonce), ticket=str(nonce))


async def run_until(
    host: CometHost, submits: list[Submit], is_done: Callable[[list[StepResult]], bool]
) -> list[StepResult]:
    """Drive a host as the service does; what is `busy` is submitted again, as duties are."""
    results: list[StepResult] = []
    done = asyncio.Event()

    def on_step(result: StepResult) -> None:
        results.append(result)
        for entry, reason in result.reasons:
            assert reason in {ReasonCode.OK, ReasonCode.BUSY, ReasonCode.DUPLICATE}
            if reason is ReasonCode.BUSY:
                asyncio.get_running_loop().call_later(0.1, runner.submit, entry)
        if is_done(results):
            done.set()

    runner = ChainRunner(host, on_step=on_step, now_ms=now_ms)
    for entry in submits:
        assert runner.submit(entry)
    task = asyncio.create_task(runner.run())
    async with asyncio.timeout(60):
        await done.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return results


def has(submits: list[Submit]) -> Callable[[list[StepResult]], bool]:
    wanted = {entry.transaction for entry in submits}
    return lambda results: wanted <= {entry for r in results for entry in r.transactions}


@pytest.mark.cometbft
def test_the_runner_is_woken_for_blocks_and_goes_on_after_a_restart(
    cast: Cast, tmp_path: Path
) -> None:
    first = [submit(cast, nonce) for nonce in (1, 2, 3)]
    with opened(cast, tmp_path) as host:
        assert host.tip is None
        results = asyncio.run(run_until(host, first, has(first)))
        tip = host.tip
    assert tip is not None
    assert sum(result.num_finalized for result in results) == host.height
    account = tip.state.get(ACCOUNTS, key("bob").account)
    assert account is not None
    assert account.balance == 3
    more = [submit(cast, 4)]
    with opened(cast, tmp_path) as host:
        assert host.height >= tip.block.header.height
        results = asyncio.run(run_until(host, more, has(more)))
        after = host.state.get(ACCOUNTS, key("bob").account)
    assert after is not None
    assert after.balance == 4
    assert all(r.equivocations == () for r in results)


@pytest.mark.cometbft
def test_the_store_is_locked_while_a_node_runs(cast: Cast, tmp_path: Path) -> None:
    with (
        opened(cast, tmp_path),
        pytest.raises(StorageError, match="another process"),
        opened(cast, tmp_path),
    ):
        pass


def test_one_key_votes(tmp_path: Path) -> None:
    cast = make_cast(validators_per_shard=2)
    with pytest.raises(ConfigError, match="one key"), opened(cast, tmp_path):
        pass


def test_a_chain_without_a_node_is_named(cast: Cast, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none for main"):
        CometHost(
            genesis=cast.genesis,
            chain=MAIN_CHAIN,
            keys=cast.all_validators,
            path=tmp_path / "ledger.sqlite",
            verifier=DirectVerifier(),
            config=config(chain=SHARD_0),
        )


def test_a_missing_program_says_how_to_install_it(cast: Cast, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="go install"):
        CometHost(
            genesis=cast.genesis,
            chain=MAIN_CHAIN,
            keys=cast.all_validators,
            path=tmp_path / "ledger.sqlite",
            verifier=DirectVerifier(),
            config=config(binary=tmp_path / "no-such-program"),
        )
