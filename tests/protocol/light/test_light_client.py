"""The light client: over elections from the genesis, and everything that it refuses."""

import subprocess
import sys
import tracemalloc
from dataclasses import replace

import pytest

from headwater_protocol.chain.account import Account, RewardBalance
from headwater_protocol.chain.epoch import epoch_digest
from headwater_protocol.chain.proof import MAIN_NAMESPACES
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.crypto.signing import DirectVerifier
from headwater_protocol.encoding.record import decode_record, encode_record
from headwater_protocol.errors import (
    BadProof,
    BadSignature,
    InsufficientPower,
    InvalidMessage,
    OutOfBounds,
)
from headwater_protocol.identifiers import ChainId, EpochNumber, Network, TimeMs, Units
from headwater_protocol.light.client import (
    Pin,
    TrustedState,
    advance,
    make_trusted,
    verify_header,
)
from headwater_protocol.light.errors import (
    TrustExpired,
    WrongChain,
    WrongEpoch,
    WrongNetwork,
    WrongShard,
)
from headwater_protocol.light.facts import (
    get_merged_model,
    verify_account,
    verify_entry,
    verify_reward,
)
from headwater_protocol.light.shard import (
    MAX_TERMS,
    ShardTrust,
    Term,
    advance_shard,
    note_in_office,
)
from headwater_protocol.light.update import EpochUpdate, decode_epoch_update
from tests.support.light import EPOCH_MS, SHARDS, LightNetwork, prove, state_of
from tests.support.network import certify, key, make_cast

VERIFIER = DirectVerifier()
MAX_MEMORY_BYTES = 5 * 1024 * 1024


@pytest.fixture(scope="module")
def net() -> LightNetwork:
    """Three epochs of 7 delegates; not to be changed."""
    network = LightNetwork(size=9)
    network.pass_epochs(3)
    return network


def follow(network: LightNetwork, count: int | None = None) -> TrustedState:
    trusted = network.trusted
    for update in network.updates[:count]:
        trusted = advance(trusted, update, update.header.time_ms, VERIFIER)
    return trusted


def test_the_client_follows_fifty_epochs_of_21_delegates_to_a_reward() -> None:
    network = LightNetwork()
    network.pass_epochs(50)
    trusted = follow(network)
    assert trusted.epoch == network.epochs[50]
    device = key("device")
    header, proof, entry, committee = network.rewarded(device, 1_234)
    certificate = certify(header, network.signers(committee))
    verify_header(
        trusted, header, certificate, chain=SHARDS[0], now_ms=header.time_ms, verifier=VERIFIER
    )
    verify_reward(header, proof, account=device.account, entry=entry)
    assert get_merged_model(trusted.epoch) == blob_digest(b"merged 50")
    with pytest.raises(BadProof):
        verify_reward(
            header, proof, account=device.account, entry=RewardBalance(total=Units(1_235))
        )
    with pytest.raises(BadProof):
        verify_reward(header, proof, account=key("other").account, entry=entry)
    with pytest.raises(BadProof):
        verify_reward(header, proof, account=device.account, entry=None)


def test_the_client_needs_less_than_5_mb() -> None:
    network = LightNetwork()
    network.pass_epochs(50)
    encoded = [encode_record(update) for update in network.updates]
    trusted = network.trusted
    tracemalloc.start()
    try:
        for data in encoded:
            update = decode_epoch_update(data)
            trusted = advance(trusted, update, update.header.time_ms, VERIFIER)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert trusted.epoch.epoch == 50
    assert peak_bytes < MAX_MEMORY_BYTES
    assert len(encode_record(trusted)) < 16 * 1024


def test_the_client_needs_neither_numpy_nor_a_ledger() -> None:
    code = (
        "import sys, headwater_protocol.light.facts, headwater_protocol.light.shard;"
        "print(sorted({'numpy', 'headwater_shard', 'sqlite3', 'asyncio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_is_trusted_survives_a_restart(net: LightNetwork) -> None:
    trusted = follow(net)
    assert decode_record(TrustedState, encode_record(trusted)) == trusted
    update = net.updates[-1]
    assert decode_epoch_update(encode_record(update)) == update


def test_a_genesis_is_trusted_as_it_is() -> None:
    cast = make_cast(shards=["shard-0"])
    trusted = make_trusted(cast.genesis)
    assert trusted.network == cast.network
    assert trusted.committee_of(ChainId("main")) == cast.genesis.committee(ChainId("main"))
    assert trusted.expires_ms == cast.genesis.time_ms + cast.genesis.parameters.trust_period_ms


def refused(
    net: LightNetwork, update: EpochUpdate, error: type[InvalidMessage], *, after: int = 0
) -> None:
    trusted = follow(net, after)
    with pytest.raises(error):
        advance(trusted, update, trusted.time_ms + 1, VERIFIER)


def test_a_skipped_epoch_is_refused(net: LightNetwork) -> None:
    refused(net, net.updates[1], WrongEpoch)
    refused(net, net.updates[0], WrongEpoch, after=2)


def test_another_committee_is_refused(net: LightNetwork) -> None:
    refused(net, net.make_update(net.epochs[1], by=net.epochs[1].committee), WrongEpoch)
    refused(net, net.make_update(net.epochs[1], by=net.epochs[2].committee), WrongEpoch)


def test_two_thirds_are_too_few(net: LightNetwork) -> None:
    update = net.updates[0]
    signers = net.signers(net.epochs[0].committee)
    weak = replace(update, certificate=certify(update.header, signers[:6]))
    refused(net, weak, InsufficientPower)
    enough = replace(update, certificate=certify(update.header, signers[:7]))
    assert advance(net.trusted, enough, net.start_ms, VERIFIER).epoch == net.epochs[1]


def test_a_forged_signature_is_refused(net: LightNetwork) -> None:
    update = net.updates[0]
    row = update.certificate.signatures
    forged = replace(row[0], signature=row[1].signature)
    certificate = replace(update.certificate, signatures=(forged, *row[1:]))
    refused(net, replace(update, certificate=certificate), BadSignature)


def test_another_network_or_chain_is_refused(net: LightNetwork) -> None:
    update = net.updates[0]
    for changes, error in (
        ({"network": Network(bytes(32))}, WrongNetwork),
        ({"chain": SHARDS[0]}, WrongChain),
    ):
        header = replace(update.header, **changes)  # type: ignore[arg-type]
        signed = certify(header, net.signers(net.epochs[0].committee))
        refused(net, replace(update, header=header, certificate=signed), error)


def test_a_record_that_the_block_does_not_hold_is_refused(net: LightNetwork) -> None:
    update = net.updates[0]
    other = replace(update.epoch, seed=blob_digest(b"other"))
    refused(net, replace(update, epoch=other), BadProof)
    greedy = replace(update.epoch, committee=net.epochs[2].committee)
    refused(net, replace(update, epoch=greedy), BadProof)


def test_a_block_that_does_not_hand_over_is_refused(net: LightNetwork) -> None:
    late = net.make_update(net.epochs[1], by=net.epochs[0].committee, height=11)
    refused(net, late, BadProof)


def test_trust_expires_at_the_end_of_its_period_and_not_before(net: LightNetwork) -> None:
    trusted = net.trusted
    last_ms = trusted.expires_ms - 1
    assert advance(trusted, net.updates[0], last_ms, VERIFIER).epoch == net.epochs[1]
    with pytest.raises(TrustExpired):
        advance(trusted, net.updates[0], last_ms + 1, VERIFIER)


def test_a_fork_by_retired_keys_is_refused(net: LightNetwork) -> None:
    # Their stake is out; they sign another epoch 1 with a committee of their own choice.
    forked = replace(net.epochs[1], seed=blob_digest(b"fork"), start_ms=net.time_of(1_000))
    fork = net.make_update(forked, by=net.epochs[0].committee)
    with pytest.raises(TrustExpired):
        advance(net.trusted, fork, net.time_of(1_000), VERIFIER)
    # Who followed in time is past them whatever the clock says.
    with pytest.raises(WrongEpoch):
        advance(follow(net, 1), fork, net.time_of(1), VERIFIER)
    with pytest.raises(WrongEpoch):
        advance(follow(net, 2), fork, net.time_of(2), VERIFIER)


def test_a_later_block_of_the_epoch_makes_trust_younger(net: LightNetwork) -> None:
    trusted = follow(net, 1)
    later_ms = trusted.time_ms + 5 * EPOCH_MS
    update = net.make_update(net.epochs[1], by=net.epochs[1].committee, height=17, time_ms=later_ms)
    younger = advance(trusted, update, later_ms, VERIFIER)
    assert (younger.epoch, younger.time_ms) == (trusted.epoch, later_ms)
    older = net.make_update(net.epochs[1], by=net.epochs[1].committee, height=16)
    assert advance(younger, older, later_ms, VERIFIER).time_ms == later_ms
    with pytest.raises(TrustExpired):
        advance(trusted, update, trusted.expires_ms, VERIFIER)


def test_a_pin_leads_over_old_epochs_to_the_one_that_it_names(net: LightNetwork) -> None:
    now_ms = net.time_of(10_000)
    pin = Pin(epoch=EpochNumber(2), digest=epoch_digest(net.epochs[2]), time_ms=TimeMs(now_ms))
    trusted = net.trusted
    for update in net.updates:
        trusted = advance(trusted, update, now_ms, VERIFIER, pin=pin)
    assert trusted.epoch == net.epochs[3]
    assert trusted.time_ms == now_ms
    wrong = replace(pin, digest=blob_digest(b"wrong"))
    trusted = advance(net.trusted, net.updates[0], now_ms, VERIFIER, pin=wrong)
    with pytest.raises(WrongEpoch):
        advance(trusted, net.updates[1], now_ms, VERIFIER, pin=wrong)


def test_headers_are_held_against_the_committee_of_their_chain(net: LightNetwork) -> None:
    trusted = follow(net)
    header, _, _, committee = net.rewarded(key("device"), 5)
    signed = certify(header, net.signers(committee))

    def check(chain: ChainId, now_ms: int = header.time_ms) -> None:
        verify_header(trusted, header, signed, chain=chain, now_ms=now_ms, verifier=VERIFIER)

    check(SHARDS[0])
    with pytest.raises(WrongChain):
        check(SHARDS[1])
    with pytest.raises(TrustExpired):
        check(SHARDS[0], trusted.expires_ms)
    with pytest.raises(WrongShard):
        trusted.committee_of(ChainId("shard-9"))
    with pytest.raises(OutOfBounds):
        verify_header(
            follow(net, 1), header, signed, chain=SHARDS[0], now_ms=net.start_ms, verifier=VERIFIER
        )


def test_accounts_are_proven_there_and_not_there(net: LightNetwork) -> None:
    alice, bob = key("alice").account, key("bob").account
    entry = Account(balance=Units(9))
    root, maps = state_of(MAIN_NAMESPACES, {"accounts": {alice: entry}})
    header = net.header(net.epochs[0].committee, root, height=1, time_ms=net.start_ms)
    verify_account(header, prove(maps, "accounts", alice), account=alice, entry=entry)
    verify_account(header, prove(maps, "accounts", bob), account=bob, entry=None)
    with pytest.raises(BadProof):
        verify_account(header, prove(maps, "accounts", bob), account=bob, entry=entry)
    with pytest.raises(BadProof):
        verify_account(header, prove(maps, "accounts", alice), account=alice, entry=None)
    with pytest.raises(OutOfBounds):
        verify_entry(
            header, prove(maps, "accounts", alice), namespace="rounds", key=b"", record=None
        )


def shard_trust(net: LightNetwork) -> ShardTrust:
    trusted = net.trusted
    term = Term(epoch=EpochNumber(0), committee=trusted.committee_of(SHARDS[0]))
    return ShardTrust(shard=SHARDS[0], trusted=trusted, terms=(term,))


def test_a_device_keeps_the_terms_in_which_its_shard_may_be(net: LightNetwork) -> None:
    trust = shard_trust(net)
    for update in net.updates:
        trust = advance_shard(trust, update, update.header.time_ms, VERIFIER)
    assert [term.epoch for term in trust.terms] == [0, 1, 2, 3]
    header, _, _, committee = net.rewarded(key("device"), 5)
    term = trust.require_certifier(header)
    assert (term.epoch, term.committee) == (3, committee)
    retired = trust.terms[0].committee.delegates[0].validator
    assert trust.is_delegate(retired)
    trust = note_in_office(trust, term)
    assert [entry.epoch for entry in trust.terms] == [3]
    assert not trust.is_delegate(retired)
    with pytest.raises(WrongEpoch):
        trust.require_committee(EpochNumber(2))
    old = net.header(
        net.epochs[2].shards[0].committee,
        blob_digest(b"state"),
        chain=SHARDS[0],
        height=1,
        time_ms=net.start_ms,
    )
    with pytest.raises(WrongEpoch):
        trust.require_certifier(old)
    assert decode_record(ShardTrust, encode_record(trust)) == trust


def test_the_terms_kept_are_limited() -> None:
    net = LightNetwork(size=3)
    net.pass_epochs(MAX_TERMS + 1)
    trust = shard_trust(net)
    for count, update in enumerate(net.updates, 1):
        trust = advance_shard(trust, update, update.header.time_ms, VERIFIER)
        assert len(trust.terms) == min(count + 1, MAX_TERMS)
    assert trust.terms[0].epoch == 2
