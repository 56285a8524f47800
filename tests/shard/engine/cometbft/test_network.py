"""Four validators as processes of their own: kills, a committee change, a wiped node."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from headwater_protocol.chain.checkpoint import SignedCheckpoint
from headwater_protocol.chain.stake import Bond
from headwater_protocol.chain.transaction import AttestMerge, PostCheckpoint
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.crypto.signing import DirectVerifier
from headwater_protocol.errors import StorageError, TransportError
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId, EpochNumber, Height, TimeMs, Units
from headwater_protocol.light.client import advance, make_trusted, verify_header
from headwater_protocol.reasons import ReasonCode
from headwater_shard.audit.replay import ChainReplay
from headwater_shard.engine.bft.history import FinalizedBlock
from headwater_shard.engine.cometbft.shell.chunks import ChunkFolder
from headwater_shard.engine.cometbft.shell.home import StateSync
from headwater_shard.mainchain.staking.handover import is_handover, make_epoch_update
from headwater_shard.store import LedgerStore
from tests.shard.audit.builders import make_model_task
from tests.support.comet import (
    CometPeer,
    is_audit_ok,
    make_peers,
    now_ms,
    restored,
    sign,
    transfer,
    wait_until,
)
from tests.support.ledgers import (
    attest,
    collect,
    model_of,
    open_round,
    score,
    sign_checkpoint,
)
from tests.support.network import Cast, Chain, key, make_cast

pytestmark = [pytest.mark.cometbft, pytest.mark.crash]

SHARD_0 = ChainId("shard-0")


@contextlib.contextmanager
def running(peers: list[CometPeer]) -> Iterator[list[CometPeer]]:
    for peer in peers:
        peer.start()
    try:
        yield peers
    finally:
        for peer in peers:
            peer.stop()


@pytest.fixture
def cast() -> Cast:
    return make_cast(validators_per_shard=4, task=make_model_task(), balances=[("alice", 10_000)])


def put(peer: CometPeer, transaction: bytes) -> None:
    """Queue a transaction at a peer, as soon as it takes one."""

    def is_taken() -> bool:
        reason = peer.submit(transaction)
        assert reason in {ReasonCode.OK, ReasonCode.BUSY}, reason
        return reason is ReasonCode.OK

    wait_until(is_taken)


def stands_in(peer: CometPeer, transaction: bytes) -> bool:
    try:
        return any(transaction in final.block.transactions for final in blocks_of(peer))
    except StorageError:
        return False  # It is being made just now.


def blocks_of(peer: CometPeer) -> list[FinalizedBlock]:
    with LedgerStore.open_read_only(peer.ledger) as store:
        return list(store.iter_blocks(Height(1)))


def wait_for_all(peers: list[CometPeer], transaction: bytes) -> None:
    wait_until(lambda: all(stands_in(peer, transaction) for peer in peers))


def require_equal_chains(peers: list[CometPeer]) -> None:
    chains = [[final.block for final in blocks_of(peer)] for peer in peers]
    shortest = min(len(chain) for chain in chains)
    assert shortest > 0
    for chain in chains:
        assert chain[:shortest] == chains[0][:shortest]


def test_four_validators_agree_though_each_is_killed_in_turn(cast: Cast, tmp_path: Path) -> None:
    nonce = 0
    with running(make_peers(cast, tmp_path, cast.all_validators)) as peers:
        for index, victim in enumerate(peers):
            others = [peer for peer in peers if peer is not victim]
            nonce += 1
            put(victim, transfer(cast, nonce))
            wait_for_all(peers, transfer(cast, nonce))
            # Killed while a transaction is on its way through it.
            nonce += 1
            victim.submit(transfer(cast, nonce))
            victim.kill()
            nonce += 1
            put(others[index % 3], transfer(cast, nonce))
            wait_for_all(others, transfer(cast, nonce))
            victim.start()
            wait_for_all([victim], transfer(cast, nonce))
    require_equal_chains(peers)
    for peer in peers:
        assert is_audit_ok(peer.folder)
        proposers = {final.block.header.proposer for final in blocks_of(peer)}
        assert len(proposers) == 4


def test_three_of_four_certify_and_two_do_not(cast: Cast, tmp_path: Path) -> None:
    peers = make_peers(cast, tmp_path, cast.all_validators)
    with running(peers[:3]):
        put(peers[0], transfer(cast, 1))
        wait_for_all(peers[:3], transfer(cast, 1))
        final = blocks_of(peers[0])[-1]
        assert len(final.certificate.signatures) == 3
        peers[2].kill()
        with contextlib.suppress(TransportError):
            put(peers[0], transfer(cast, 2))
        with pytest.raises(AssertionError):
            wait_until(lambda: stands_in(peers[0], transfer(cast, 2)), timeout_s=3)
        peers[3].start()
        wait_for_all([peers[0], peers[1], peers[3]], transfer(cast, 2))
        peers[3].stop()


def settled_checkpoint(cast: Cast) -> SignedCheckpoint:
    """A checkpoint of the shard, signed by its committee; the shard's ledger is in memory."""
    shard = Chain(cast, SHARD_0)
    device = key("device")
    open_round(shard, [device])
    collect(shard, [device])
    score(shard, [100])
    attest(shard, model_of(shard))
    return sign_checkpoint(shard)


def test_an_election_changes_the_committee_of_a_live_network(tmp_path: Path) -> None:
    """A newcomer bonds, is elected, and signs; CometBFT's validators are those of the ledger."""
    parameters = replace(make_cast().genesis.parameters, checkpoint_interval=1)
    cast = make_cast(
        validators_per_shard=3,
        balances=[("newcomer", 100_000), ("alice", 10_000)],
        candidates=["newcomer"],
        parameters=parameters,
    )
    newcomer = key("newcomer")
    peers = make_peers(cast, tmp_path, [*cast.all_validators, newcomer])
    with running(peers):
        put(peers[0], sign(cast, newcomer, Bond(amount=Units(90), commission_thousandths=0), 1))
        post = sign(cast, cast.sponsor, PostCheckpoint(signed=settled_checkpoint(cast)), 1)
        put(peers[0], post)
        wait_for_all(peers, post)
        body = AttestMerge(epoch=EpochNumber(1), model=blob_digest(b"merged"))
        for entry in cast.all_validators:
            put(peers[1], sign(cast, entry, body, 1))
        # Nobody sends anything more: the block that hands over comes by itself.
        handover = wait_until(lambda: find_handover(peers[3])).block.header
        # The newcomer votes from the block after the one that hands over.
        for nonce in range(1, 8):
            put(peers[3], transfer(cast, nonce))
            wait_for_all(peers, transfer(cast, nonce))
        found = peers[0].rpc.call("validators")["validators"]
    finals = blocks_of(peers[3])
    signers = [{entry.validator for entry in final.certificate.signatures} for final in finals]
    assert all(newcomer.validator not in row for row in signers[: handover.height])
    assert any(newcomer.validator in row for row in signers[handover.height :])
    assert any(final.block.header.proposer == newcomer.validator for final in finals)
    assert len(found) == 4
    require_equal_chains(peers)
    follow_as_light_client(cast, finals)


def find_handover(peer: CometPeer) -> FinalizedBlock | None:
    for final in blocks_of(peer) if peer.ledger.is_file() else ():
        if final.block.header.committee != final.block.header.next_committee:
            return final
    return None


def follow_as_light_client(cast: Cast, finals: list[FinalizedBlock]) -> None:
    """What an auditor and a device do: from the genesis over the handover to the newcomer."""
    replay = ChainReplay(genesis=cast.genesis, chain=MAIN_CHAIN, verifier=DirectVerifier())
    trusted = replace(make_trusted(cast.genesis), time_ms=TimeMs(finals[0].block.header.time_ms))
    for final in finals:
        state = replay.follow(final).state
        update = make_epoch_update(state, final.block.header, final.certificate)
        if update is not None and is_handover(update):
            trusted = advance(trusted, update, now_ms(), DirectVerifier())
    last = finals[-1]
    assert trusted.epoch.epoch == 1
    verify_header(
        trusted,
        last.block.header,
        last.certificate,
        chain=MAIN_CHAIN,
        now_ms=now_ms(),
        verifier=DirectVerifier(),
    )


def has_snapshot(peer: CometPeer) -> bool:
    return bool(ChunkFolder(peer.home / "snapshots").list_manifests())


def test_a_wiped_node_starts_from_a_snapshot(cast: Cast, tmp_path: Path) -> None:
    peers = make_peers(cast, tmp_path, cast.all_validators)
    with running(peers):
        for nonce in range(1, 13):
            put(peers[nonce % 4], transfer(cast, nonce))
            wait_for_all(peers, transfer(cast, nonce))
        wait_until(lambda: has_snapshot(peers[0]) and has_snapshot(peers[1]))
        wiped = peers[3]
        wiped.kill()
        shutil.rmtree(wiped.folder / MAIN_CHAIN)
        for name in ("data", "snapshots"):
            shutil.rmtree(wiped.home / name, ignore_errors=True)
        header = peers[0].rpc.call("commit", height="2")["signed_header"]
        wiped.state_sync = StateSync(
            rpc_servers=tuple(f"127.0.0.1:{peer.rpc_port}" for peer in peers[:2]),
            trust_height=2,
            trust_hash=header["commit"]["block_id"]["hash"],
        )
        wiped.start()
        wait_for_all([wiped], transfer(cast, 12))
        put(wiped, transfer(cast, 13))
        wait_for_all(peers, transfer(cast, 13))
        log = (wiped.folder / "process.log").read_text()
        assert "starts from the snapshot of block" in log
    require_equal_chains(peers)
    assert is_audit_ok(wiped.folder)
    with LedgerStore.open_read_only(wiped.ledger) as store:
        app = restored(cast, MAIN_CHAIN, store)
        assert app.height == store.height
    assert json.loads((wiped.home / "data" / "priv_validator_state.json").read_text())
