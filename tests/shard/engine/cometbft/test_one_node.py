"""One real node: finality with our certificates, timers, rest, crashes."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from headwater_protocol.chain.block import header_digest
from headwater_protocol.chain.transaction import Transfer
from headwater_protocol.errors import TransportError
from headwater_protocol.identifiers import MAIN_CHAIN, AccountId, ChainId, Units
from headwater_protocol.reasons import ReasonCode
from headwater_shard.engine.cometbft.mapping import compute_app_hash
from headwater_shard.mainchain.justice.records import LIVENESS
from headwater_shard.mainchain.records import ACCOUNTS
from headwater_shard.shardchain.records import ROUNDS, SHARD, SHARD_KEY
from headwater_shard.state.state import State
from tests.shard.audit.builders import make_model_task
from tests.support.comet import CometChain, is_audit_ok, now_ms, restored, sign, transfer
from tests.support.network import Chain, key, make_cast, make_task

pytestmark = pytest.mark.cometbft

SHARD_0 = ChainId("shard-0")
BOB = AccountId(key("bob").public_key)


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[CometChain]:
    cast = make_cast(validators_per_shard=1, task=make_model_task(), balances=[("alice", 1_000)])
    chain = CometChain(cast=cast, folder=tmp_path, key=cast.all_validators[0])
    chain.start()
    yield chain
    chain.close()


def balance(state: State) -> int:
    account = state.get(ACCOUNTS, BOB)
    return 0 if account is None else account.balance


def test_blocks_stand_with_our_certificates_and_the_audit_holds(chain: CometChain) -> None:
    chain.finalize(transfer(chain.cast, 1))
    chain.finalize(*(transfer(chain.cast, nonce) for nonce in range(2, 30)))
    chain.rest()
    for earlier, later in zip(chain.settled, chain.settled[1:], strict=False):
        block = later.final.block
        assert block.header.height == earlier.final.block.header.height + 1
        assert block.last_certificate == earlier.final.certificate
        assert block.header.previous == header_digest(earlier.final.block.header)
    assert balance(chain.app.state) == 29
    assert chain.settled[-1].state.root == chain.settled[-1].final.block.header.state_root
    chain.close()
    assert is_audit_ok(chain.folder)


def test_refusals_come_back_with_their_reason(chain: CometChain) -> None:
    chain.submit(transfer(chain.cast, 1))
    chain.finalize(transfer(chain.cast, 5))
    refused = {
        transfer(chain.cast, 4): ReasonCode.WRONG_NONCE,
        transfer(chain.cast, 9, amount=10_000): chain.app.check_tx(
            transfer(chain.cast, 9, amount=10_000)
        ),
        b"no transaction": ReasonCode.BAD_ENCODING,
        sign(
            chain.cast,
            key("alice"),
            Transfer(recipient=BOB, amount=Units(1)),
            9,
            chain=SHARD_0,
        ): ReasonCode.WRONG_CHAIN,
    }
    for transaction, reason in refused.items():
        assert reason is not ReasonCode.OK
        assert chain.engine.submit(transaction) is reason
    assert chain.engine.submit(transfer(chain.cast, 5)) in {
        ReasonCode.DUPLICATE,
        ReasonCode.WRONG_NONCE,
    }


def test_an_idle_chain_rests(chain: CometChain) -> None:
    chain.finalize(transfer(chain.cast, 1))
    height = chain.rest()
    assert chain.rest(for_s=3.0) == height
    # All that changed something is on disk, with its certificate.
    assert chain.store.height >= height - 1
    tip = chain.store.load_tip()
    assert tip is not None
    assert compute_app_hash(chain.app.state) == compute_app_hash(chain.settled[-1].state)


def test_an_idle_chain_rests_though_a_delegate_is_down(tmp_path: Path) -> None:
    cast = make_cast(validators_per_shard=2, stakes=[1_000, 1], balances=[("alice", 1_000)])
    chain = CometChain(cast=cast, folder=tmp_path, key=cast.all_validators[0])
    chain.start()
    try:
        chain.finalize(transfer(cast, 1))
        height = chain.rest()
        assert chain.rest(for_s=3.0) == height
        # Every block counts the one that is missing; that alone asks for no further block.
        assert chain.app.state.count(LIVENESS) == 1
    finally:
        chain.close()


def test_timers_make_blocks_and_an_hour_of_rest_shortens_no_round(tmp_path: Path) -> None:
    cast = make_cast(
        validators_per_shard=1,
        task=make_task(rounds=2, collect_ms=1_500, score_ms=300, attest_ms=300),
    )
    offset_ms = 0

    def clock() -> int:
        return now_ms() + offset_ms

    chain = CometChain(
        cast=cast, folder=tmp_path, key=cast.all_validators[0], chain=SHARD_0, clock=clock
    )
    chain.start()
    try:
        first = chain.wait_for(lambda: chain.settled and chain.settled[0])
        chain.rest()
        offset_ms = 3_600_000
        enrol = Chain(cast, SHARD_0, now_ms=clock())
        chain.finalize(sign(cast, cast.registrar, enrol.enrolment(key("device")), 1, chain=SHARD_0))
        opened = chain.wait_for(lambda: list(chain.app.state.items(ROUNDS)))[0][1]
        assert opened.opened_ms - first.final.block.header.time_ms >= 3_600_000
        assert opened.collect_until_ms - opened.opened_ms == 1_500
        # Nobody sends anything: both rounds run out by their deadlines, and then it is quiet.
        chain.wait_for(lambda: is_finished(chain.app.state))
        assert len(chain.transactions) == 1
        height = chain.rest()
        assert chain.rest(for_s=2.0) == height
        rounds = [round_ for _, round_ in chain.app.state.sorted_items(ROUNDS)]
        for round_ in rounds:
            closed = next(
                entry.final.block.header.time_ms
                for entry in chain.settled
                if entry.final.block.header.height == round_.closed_height
            )
            assert closed - round_.opened_ms >= 1_500
    finally:
        chain.close()
    assert len(rounds) == 2


def is_finished(state: State) -> bool:
    shard = state.get(SHARD, SHARD_KEY)
    return shard is not None and shard.is_finished


def test_a_node_that_is_killed_is_started_again(chain: CometChain) -> None:
    chain.finalize(transfer(chain.cast, 1))
    for round_ in range(2):
        pid = chain.engine.status.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        chain.wait_for(lambda round_=round_: chain.engine.status.num_restarts > round_)
        chain.finalize(transfer(chain.cast, 2 + round_))
    assert balance(chain.app.state) == 3


def test_a_restart_goes_on_where_it_was(chain: CometChain) -> None:
    for start in (1, 4, 7):
        chain.finalize(*(transfer(chain.cast, nonce) for nonce in range(start, start + 3)))
        chain.close()
        chain.start()
    chain.finalize(transfer(chain.cast, 10))
    assert balance(chain.app.state) == 10
    chain.rest()
    root = chain.app.state.root
    chain.close()
    assert is_audit_ok(chain.folder)
    chain.start()
    chain.wait_for(lambda: chain.app.height == chain.rest(for_s=0.5))
    assert chain.app.state.root == root


def test_a_ledger_that_lost_its_last_blocks_is_replayed(chain: CometChain) -> None:
    """As after a crash between CometBFT's decision and our write, only worse."""
    chain.finalize(*(transfer(chain.cast, nonce) for nonce in range(1, 6)))
    chain.rest()
    root, height = chain.app.state.root, chain.app.height
    chain.close()
    for name in ("ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"):
        (chain.folder / MAIN_CHAIN / name).unlink(missing_ok=True)
    chain.settled.clear()
    chain.start()
    chain.wait_for(lambda: chain.app.height >= height)
    assert chain.app.state.root == root
    assert [entry.final.block.header.height for entry in chain.settled] == list(
        range(1, len(chain.settled) + 1)
    )
    chain.finalize(transfer(chain.cast, 6))
    assert restored(chain.cast, MAIN_CHAIN, chain.store).height >= height


def test_the_node_is_gone_when_the_engine_is_closed(chain: CometChain) -> None:
    chain.finalize(transfer(chain.cast, 1))
    pid = chain.engine.status.pid
    assert pid is not None
    chain.engine.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(TransportError):
        chain.engine.node_status()
    assert chain.engine.submit(transfer(chain.cast, 2)) is ReasonCode.BUSY


def test_queries_bring_proofs(chain: CometChain) -> None:
    chain.finalize(transfer(chain.cast, 1))
    rpc = chain.engine._rpc
    answer = rpc.call("abci_query", path="accounts", data=BOB.hex(), prove=True)["response"]
    assert answer["value"]
    assert answer["proofOps"]["ops"][0]["type"] == "headwater:state"
    assert rpc.call("abci_query", path="no-such", data="00")["response"]["code"] == 1


def test_a_clock_that_runs_ahead_is_refused_by_nobody_but_its_blocks(tmp_path: Path) -> None:
    """A block's time is the proposer's, so a single node follows its own clock only."""
    cast = make_cast(validators_per_shard=1, balances=[("alice", 10)])
    chain = CometChain(
        cast=cast,
        folder=tmp_path,
        key=cast.all_validators[0],
        clock=lambda: now_ms() + 86_400_000,
    )
    chain.start()
    try:
        chain.finalize(transfer(cast, 1))
        ahead_ms = chain.settled[-1].final.block.header.time_ms - now_ms()
        assert 86_000_000 < ahead_ms <= 86_400_000
    finally:
        chain.close()


def test_parameters_of_the_genesis_reach_the_node(chain: CometChain) -> None:
    chain.finalize(transfer(chain.cast, 1))
    found = chain.engine._rpc.call("consensus_params", height="1")["consensus_params"]
    assert found["abci"]["vote_extensions_enable_height"] == "1"
    assert found["evidence"]["max_age_num_blocks"] == str(
        chain.cast.genesis.parameters.unbonding_blocks
    )
