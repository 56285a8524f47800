"""The replica: what it proposes, refuses and writes, with the calls of CometBFT and no process."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_protocol.chain.block import Certificate, header_digest, verify_certificate
from headwater_protocol.crypto.signing import DirectVerifier
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.errors import InvalidBlock, InvalidMessage
from headwater_protocol.identifiers import TimeMs, View
from headwater_shard.engine.cometbft.extensions import DECIDED_VIEW, decode_extension
from headwater_shard.engine.cometbft.mapping import (
    address_of,
    compute_app_hash,
    find_validator,
    validator_updates,
)
from headwater_shard.engine.cometbft.preamble import (
    TICK_PREFIX,
    decode_tick,
    encode_tick,
    unpack_block,
)
from headwater_shard.engine.cometbft.wire import abci_pb2, types_pb2
from headwater_shard.mainchain.justice.records import LIVENESS
from tests.support.comet import transfer
from tests.support.comet_driver import ACCEPT, REJECT, Driver
from tests.support.engine_support import committee_of
from tests.support.network import Cast, make_cast

DRIFT_MS = 1_000


@pytest.fixture
def cast() -> Cast:
    return make_cast(validators_per_shard=4, balances=[("alice", 10_000)])


@pytest.fixture
def driver(cast: Cast) -> Driver:
    return Driver(cast)


def test_blocks_are_on_disk_when_they_are_committed(driver: Driver) -> None:
    for height in range(1, 6):
        driver.block(transfer(driver.cast, height), leader=height % 4)
        for member in driver.members:
            assert len(member.disk) == len(member.settled) == height
    for member in driver.members:
        for earlier, later in zip(member.disk, member.disk[1:], strict=False):
            carried = later.block.last_certificate
            assert carried is not None
            assert carried.block == header_digest(earlier.block.header)
            assert len(carried.signatures) == 4


def test_who_hears_no_votes_writes_each_block_with_the_next(driver: Driver) -> None:
    """A node that only fetches blocks, or replays them."""
    for height in range(1, 5):
        driver.block(transfer(driver.cast, height), hears=False)
        for member in driver.members:
            assert len(member.disk) == height - 1
            assert member.replica.info().last_block_height == height
    first = driver.members[0]
    state = first.settled[-1].state
    assert state.root == first.settled[-1].final.block.header.state_root
    certifiers = first.disk[-1].rotation.certifiers
    assert certifiers is not None
    verify_certificate(
        first.disk[-1].certificate,
        header=first.disk[-1].block.header,
        committee=certifiers,
        verifier=DirectVerifier(),
    )


def test_a_block_without_its_parents_certificate_is_refused(driver: Driver) -> None:
    driver.block()
    leader, other = driver.members[:2]
    driver.now_ms += 10
    good = driver.propose(leader, transfer(driver.cast, 1))
    preamble, transactions = unpack_block(good)
    certificate = preamble.last_certificate
    assert certificate is not None
    two = replace(certificate, signatures=certificate.signatures[:2])
    elsewhere = replace(certificate, view=View(1))
    forged: list[Certificate | None] = [None, two, elsewhere]
    for bad in forged:
        entries = [encode_record(replace(preamble, last_certificate=bad)), *transactions]
        assert driver.judge(other, driver.proposal(entries, leader.key, 2)) == REJECT
    assert driver.judge(other, driver.proposal(good, leader.key, 2)) == ACCEPT


def test_malformed_proposals_are_refused_and_nothing_is_lost(driver: Driver) -> None:
    driver.block()
    leader, other = driver.members[:2]
    driver.now_ms += 10
    good = driver.propose(leader, transfer(driver.cast, 1))
    preamble, _ = unpack_block(good)
    bad = {
        "empty": [],
        "no preamble": [transfer(driver.cast, 1)],
        "two preambles": [good[0], *good],
        "garbage": [good[0], b"garbage"],
        "a refused transaction": [*good, transfer(driver.cast, 1)],
        "a tick": [*good, encode_tick(height=2, timer_ms=0)],
        "too early": [
            encode_record(
                replace(preamble, time_ms=other.replica.place.earliest_ms - 1),
            ),
            *good[1:],
        ],
        "too far ahead": [
            encode_record(replace(preamble, time_ms=TimeMs(driver.now_ms + DRIFT_MS + 1))),
            *good[1:],
        ],
    }
    for name, entries in bad.items():
        assert driver.judge(other, driver.proposal(entries, leader.key, 2)) == REJECT, name
    for height in (1, 3):
        assert driver.judge(other, driver.proposal(good, leader.key, height)) == REJECT
    stranger = driver.proposal(good, leader.key, 2)
    stranger.proposer_address = bytes(20)
    assert driver.judge(other, stranger) == REJECT
    edge = [
        encode_record(replace(preamble, time_ms=TimeMs(driver.now_ms + DRIFT_MS))),
        *good[1:],
    ]
    assert driver.judge(other, driver.proposal(edge, leader.key, 2)) == ACCEPT
    assert sum(other.replica.refused.values()) >= len(bad)


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_no_entries_of_a_peer_raise(entries: list[bytes]) -> None:
    driver = Driver(make_cast(validators_per_shard=1))
    leader = driver.members[0]
    assert driver.judge(leader, driver.proposal(entries, leader.key, 1)) == REJECT


def test_extensions_of_others_blocks_views_and_keys_are_refused(driver: Driver) -> None:
    leader, other, third = driver.members[:3]
    entries = driver.propose(leader)
    proposal = driver.proposal(entries, leader.key, 1)
    for member in driver.members:
        assert driver.judge(member, proposal) == ACCEPT
    extension = driver.extend(other, proposal)
    assert driver.hear(leader, other.key, extension, proposal) == ACCEPT
    assert driver.hear(leader, third.key, extension, proposal) == REJECT
    for bad in (b"", b"garbage", extension[:-1], extension + b"\0", bytes(5_000)):
        assert driver.hear(leader, other.key, bad, proposal) == REJECT
    rival = driver.proposal(entries, other.key, 1)
    assert driver.judge(leader, rival) == ACCEPT
    # What was signed for one block does not pass for another.
    assert driver.hear(leader, other.key, extension, rival) == REJECT
    unknown = driver.proposal([*entries, b"?"], leader.key, 1)
    # A vote that overtakes its proposal is not lost.
    assert driver.hear(leader, other.key, extension, unknown) == ACCEPT
    late = driver.proposal(entries, leader.key, 2)
    assert driver.hear(leader, other.key, extension, late) == REJECT


def test_signatures_of_different_views_make_no_certificate(driver: Driver) -> None:
    leader = driver.members[0]
    proposal = driver.proposal(driver.propose(leader), leader.key, 1)
    for member in driver.members:
        assert driver.judge(member, proposal) == ACCEPT
    for view, member in enumerate(driver.members):
        driver.view = view // 2
        extension = driver.extend(member, proposal)
        assert decode_extension(extension).vote.view == view // 2
        if member is not leader:
            assert driver.hear(leader, member.key, extension, proposal) == ACCEPT
    driver.decide(leader, proposal)
    assert leader.disk == []


def test_late_votes_make_the_certificate_that_a_liar_withheld(driver: Driver) -> None:
    """CometBFT counted a liar's precommit, and an honest one came too late: two of three are left.

    Everybody signs again what was decided, and the chain goes on.
    """
    leader, second, third, liar = driver.members
    driver.now_ms += 10
    proposal = driver.proposal(driver.propose(leader), leader.key, 1)
    for member in driver.members:
        assert driver.judge(member, proposal) == ACCEPT
    extensions = {member.key: driver.extend(member, proposal) for member in (leader, second)}
    driver.view = 7
    extensions[liar.key] = driver.extend(liar, proposal)
    driver.view = 0
    for member in driver.members:
        driver.decide(member, proposal)
    driver.note_commit(extensions)
    driver.now_ms += 10
    assert all(member.replica.late_vote() is None for member in driver.members)
    stuck = driver.proposal(driver.propose(leader, transfer(driver.cast, 1)), leader.key, 2)
    assert unpack_block(stuck.txs)[0].last_certificate is None
    for member in driver.members:
        assert driver.judge(member, stuck) == REJECT
    notes = []
    for member in (leader, second, third):
        note = member.replica.late_vote()
        assert note is not None
        notes.append(note)
    for note in notes:
        for spoilt in (note[:-1], note + b"0", note.replace(b"precommit", b"prevote")):
            assert leader.replica.check_tx(abci_pb2.RequestCheckTx(tx=spoilt)).code != 0
        for member in driver.members:
            assert member.replica.check_tx(abci_pb2.RequestCheckTx(tx=note)).code == 0
    entries = driver.propose(second, *notes, transfer(driver.cast, 1))
    assert len(entries) == 2
    certificate = unpack_block(entries)[0].last_certificate
    assert certificate is not None
    assert certificate.view == DECIDED_VIEW
    assert len(certificate.signatures) == 3
    good = driver.proposal(entries, second.key, 2)
    for member in driver.members:
        assert driver.judge(member, good) == ACCEPT
        driver.decide(member, good)
        assert member.disk[0].certificate == certificate
        assert member.replica.late_vote() is None
        # The notes have had their time.
        assert member.replica.check_tx(abci_pb2.RequestCheckTx(tx=notes[0])).code != 0


def test_one_view_is_extended_for_one_block(driver: Driver) -> None:
    leader, other = driver.members[:2]
    one = driver.proposal(driver.propose(leader), leader.key, 1)
    two = driver.proposal(driver.propose(leader, transfer(driver.cast, 1)), leader.key, 1)
    for proposal in (one, two):
        assert driver.judge(other, proposal) == ACCEPT
    assert driver.extend(other, one)
    assert driver.extend(other, one)
    assert driver.extend(other, two) == b""
    driver.view = 1
    assert driver.extend(other, two)


def test_ticks_wait_only_while_the_timer_is_due(driver: Driver) -> None:
    replica = driver.members[0].replica

    def check(entry: bytes) -> int:
        return replica.check_tx(abci_pb2.RequestCheckTx(tx=entry)).code

    assert check(encode_tick(height=1, timer_ms=driver.now_ms)) != 0  # No timer runs.
    assert check(TICK_PREFIX + b"short") != 0
    assert check(b"") != 0
    assert check(transfer(driver.cast, 1)) == 0


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_ticks_decode(height: int, timer_ms: int) -> None:
    assert decode_tick(encode_tick(height=height, timer_ms=timer_ms)) == (height, timer_ms)


def test_the_app_hash_rests_while_a_delegate_is_down(driver: Driver) -> None:
    driver.block()
    driver.block(transfer(driver.cast, 1), absent=[3])
    hashes = {bytes(driver.block(absent=[3])[0].app_hash) for _ in range(3)}
    assert len(hashes) == 1
    state = driver.members[0].replica.application.state
    assert state.count(LIVENESS) == 1
    assert compute_app_hash(state) in hashes
    roots = {entry.state.root for entry in driver.members[0].settled[-3:]}
    assert len(roots) == 3


def test_init_chain_takes_the_first_committee_and_no_other(driver: Driver) -> None:
    replica = driver.members[0].replica
    request = abci_pb2.RequestInitChain(initial_height=1)
    for delegate in replica.application.committee.delegates:
        request.validators.add(
            pub_key=types_pb2.PublicKey(ed25519=delegate.validator), power=delegate.voting_power
        )
    assert replica.init_chain(request).app_hash
    request.validators[0].power += 1
    with pytest.raises(InvalidBlock):
        replica.init_chain(request)


def test_a_commit_needs_a_decision(driver: Driver) -> None:
    with pytest.raises(InvalidBlock):
        driver.members[0].replica.commit()


def test_misbehaviour_is_reported_with_its_height(driver: Driver) -> None:
    member = driver.members[0]
    proposal = driver.proposal(driver.propose(member), member.key, 1)
    request = abci_pb2.RequestFinalizeBlock(
        txs=proposal.txs,
        hash=proposal.hash,
        height=1,
        proposer_address=proposal.proposer_address,
        misbehavior=[abci_pb2.Misbehavior(type=abci_pb2.DUPLICATE_VOTE)],
    )
    member.replica.finalize_block(request)
    assert member.reports == [1]


@given(
    before=st.dictionaries(st.integers(0, 6), st.integers(1, 9), min_size=1),
    after=st.dictionaries(st.integers(0, 6), st.integers(1, 9), min_size=1),
)
def test_updates_lead_from_one_committee_to_the_next(
    before: dict[int, int], after: dict[int, int]
) -> None:
    old, new = committee_of(before), committee_of(after)
    powers = {bytes(entry.validator): int(entry.voting_power) for entry in old.delegates}
    updates = validator_updates(old, new)
    keys = [entry.pub_key.ed25519 for entry in updates]
    assert len(keys) == len(set(keys))
    for entry in updates:
        if entry.power:
            powers[entry.pub_key.ed25519] = entry.power
        else:
            del powers[entry.pub_key.ed25519]
    assert powers == {bytes(entry.validator): int(entry.voting_power) for entry in new.delegates}


def test_addresses_find_their_delegates() -> None:
    committee = committee_of([1, 1, 1])
    for delegate in committee.delegates:
        assert find_validator(committee, address_of(delegate.validator)) == delegate.validator
    with pytest.raises(InvalidMessage):
        find_validator(committee, bytes(20))
