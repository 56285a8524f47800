"""A device follows elections: what its gate lets through, and what it keeps on disk."""

from dataclasses import replace
from pathlib import Path

import pytest

from headwater_agent.machine.gate import Gate
from headwater_agent.machine.reading import DirectReader
from headwater_agent.state import Changes, DeviceState, apply_changes
from headwater_agent.store import StateStore
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.crypto.signing import DirectVerifier
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.errors import InsufficientPower, InvalidMessage
from headwater_protocol.identifiers import EpochNumber
from headwater_protocol.light.errors import TrustExpired, WrongEpoch
from headwater_protocol.light.shard import ShardTrust, Term
from tests.support.light import SHARDS, LightNetwork
from tests.support.network import certify, key

DEVICE = key("device")


def make_trust(net: LightNetwork) -> ShardTrust:
    term = Term(epoch=EpochNumber(0), committee=net.trusted.committee_of(SHARDS[0]))
    return ShardTrust(shard=SHARDS[0], trusted=net.trusted, terms=(term,))


def make_gate(net: LightNetwork, trust: ShardTrust | None = None) -> Gate:
    return Gate(
        network=net.network,
        device=DEVICE.device,
        trust=trust or make_trust(net),
        verifier=DirectVerifier(),
        reader=DirectReader(),
    )


@pytest.fixture(scope="module")
def net() -> LightNetwork:
    """Not to be changed."""
    network = LightNetwork(size=9)
    network.pass_epochs(3)
    return network


def test_a_gate_follows_elections_in_order(net: LightNetwork) -> None:
    gate = make_gate(net)
    for number, update in enumerate(net.updates, 1):
        assert gate.open_epoch(encode_record(update), update.header.time_ms)
        assert gate.trust.trusted.epoch.epoch == number
        assert not gate.open_epoch(encode_record(update), update.header.time_ms)
    assert [term.epoch for term in gate.trust.terms] == [0, 1, 2, 3]


def test_a_refused_election_changes_nothing(net: LightNetwork) -> None:
    gate = make_gate(net)
    first, second = net.updates[:2]
    weak = replace(
        first, certificate=certify(first.header, net.signers(net.epochs[0].committee)[:6])
    )
    for data, now_ms, error in (
        (b"garbage", net.start_ms, InvalidMessage),
        (encode_record(second), net.start_ms, WrongEpoch),
        (encode_record(weak), net.start_ms, InsufficientPower),
        (encode_record(first), net.trusted.expires_ms, TrustExpired),
    ):
        with pytest.raises(error):
            gate.open_epoch(data, now_ms)
        assert gate.trust == make_trust(net)


def test_what_was_followed_survives_a_restart(net: LightNetwork, tmp_path: Path) -> None:
    gate = make_gate(net)
    for update in net.updates:
        gate.open_epoch(encode_record(update), update.header.time_ms)
    changes = Changes(trust=gate.trust)
    path = tmp_path / "state.db"
    with StateStore(path, device=DEVICE.device, network=net.network, creates=True) as store:
        assert store.load().trust is None
        store.apply(changes)
    with StateStore(path, device=DEVICE.device, network=net.network, creates=False) as store:
        state = store.load()
    assert state == apply_changes(DeviceState(), changes)
    assert state.trust == gate.trust
    again = make_gate(net, state.trust)
    assert again.committee == net.epochs[3].committee_of(SHARDS[0])
    fork = replace(net.epochs[1], seed=blob_digest(b"fork"))
    forged = net.make_update(fork, by=net.epochs[0].committee)
    for old in (forged, net.updates[0]):
        assert not again.open_epoch(encode_record(old), net.time_of(3))
        assert again.trust == state.trust
