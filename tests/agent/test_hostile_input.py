"""Whatever arrives, a device stops for nothing, believes nothing forged, and stays small."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_agent.machine.effects import Rejected, Train
from headwater_agent.machine.inputs import Arrived
from headwater_agent.machine.limits import DeviceLimits
from headwater_protocol.chain.block import header_digest
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.identifiers import Digest, Network, Signature, TimeMs
from headwater_protocol.messages.announcement import Announcement
from headwater_protocol.messages.chunk import CHUNK_BYTES, Chunk, split_blob
from headwater_protocol.reasons import ReasonCode
from tests.support.agent_support import BASE, PROGRAM, Net, World, only, requests_in, updates_in

NET = Net()
GOOD = NET.announce(NET.round())
TOPICS = NET.topics


def tell_announcement(world: World, announcement: Announcement) -> None:
    world.tell(Arrived(topic=TOPICS.round, payload=encode_record(announcement)))


def test_announcement_with_two_thirds_of_the_power_and_no_more_is_refused() -> None:
    world = World(Net(num_delegates=3))
    world.connect()
    two_of_three = world.net.announce(world.net.round(), num_signers=2)
    world.tell(Arrived(topic=world.net.topics.round, payload=encode_record(two_of_three)))
    assert world.device.counters == {ReasonCode.LOW_POWER: 1}
    assert requests_in(world.begin_round())


def forge_signature(good: Announcement) -> Announcement:
    first, *others = good.certificate.signatures
    forged = replace(first, signature=Signature(bytes(64)))
    return replace(good, certificate=replace(good.certificate, signatures=(forged, *others)))


def forge_round(good: Announcement) -> Announcement:
    return replace(good, round=replace(good.round, base=blob_digest(b"poisoned")))


def forge_task(good: Announcement) -> Announcement:
    return replace(good, task=replace(good.task, program=blob_digest(b"malware")))


def forge_state(good: Announcement) -> Announcement:
    header = replace(good.header, state_root=Digest(b"x" * 32))
    return replace(good, header=header)


def forge_network(good: Announcement) -> Announcement:
    header = replace(good.header, network=Network(b"x" * 32))
    certificate = replace(good.certificate, block=header_digest(header))
    return replace(good, header=header, certificate=certificate)


def forge_time(good: Announcement) -> Announcement:
    return replace(good, header=replace(good.header, time_ms=TimeMs(1)))


@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        (forge_signature, ReasonCode.BAD_SIGNATURE),
        (forge_round, ReasonCode.BAD_PROOF),
        (forge_task, ReasonCode.BAD_PROOF),
        (forge_state, ReasonCode.BAD_ENCODING),
        (forge_network, ReasonCode.OUT_OF_BOUNDS),
        (forge_time, ReasonCode.BAD_ENCODING),
    ],
)
def test_forged_announcement_is_refused_and_the_true_one_still_taken(
    forge: "object", reason: ReasonCode
) -> None:
    world = World(NET)
    world.connect()
    tell_announcement(world, forge(GOOD))  # type: ignore[operator]
    assert world.device.counters == {reason: 1}
    assert world.device.round_in_work is None
    assert requests_in(world.begin_round())


def test_replay_of_an_older_round_is_refused() -> None:
    world = World()
    world.connect()
    world.sign_round(2)
    world.tell(world.net.announced(1))
    assert world.device.counters == {ReasonCode.STALE_ROUND: 1}
    world.restart()
    world.connect()
    before = world.device.counters.get(ReasonCode.STALE_ROUND, 0)
    world.tell(world.net.announced(1))
    assert world.device.counters[ReasonCode.STALE_ROUND] == before + 1


def test_replay_of_an_older_block_of_the_round_is_refused() -> None:
    world = World(NET)
    world.connect()
    tell_announcement(world, NET.announce(NET.round(), height=12))
    tell_announcement(world, NET.announce(NET.round(), height=11))
    assert world.device.counters == {ReasonCode.STALE_ROUND: 1}


def test_signed_round_is_not_trained_again_from_a_later_block() -> None:
    world = World(NET)
    world.connect()
    world.sign_round(1)
    tell_announcement(world, NET.announce(NET.round(1, num_updates=3), height=15))
    assert len(only(world.trace, Train)) == 1


def test_blob_with_another_content_is_refused_and_the_true_one_still_taken() -> None:
    world = World(NET)
    world.connect()
    world.tell(NET.announced())
    digest = blob_digest(BASE)
    lie = Chunk(blob=digest, index=0, blob_bytes=len(BASE), data=bytes(len(BASE)))
    world.tell(Arrived(topic=TOPICS.chunk(digest, 0), payload=encode_record(lie)))
    assert world.device.counters == {ReasonCode.WRONG_DIGEST: 1}
    assert requests_in(world.tell(*NET.pieces(BASE), *NET.pieces(PROGRAM)))


def test_blob_at_the_limit_is_taken_and_one_past_it_is_not() -> None:
    for limit, count in ((len(PROGRAM), 1), (len(PROGRAM) - 1, 0)):
        world = World(NET, limits=DeviceLimits(max_program_bytes=limit))
        world.connect()
        assert len(requests_in(world.begin_round())) == count
        assert (ReasonCode.TOO_LARGE in world.device.counters) == (count == 0)


def test_piece_on_the_topic_of_another_is_refused() -> None:
    world = World(NET)
    world.connect()
    world.tell(NET.announced())
    first, second = (encode_record(chunk) for chunk in split_blob(PROGRAM))
    world.tell(Arrived(topic=TOPICS.chunk(blob_digest(PROGRAM), 1), payload=first))
    assert second
    assert world.device.counters == {ReasonCode.OUT_OF_BOUNDS: 1}


def test_flood_of_pieces_nobody_asked_for_holds_no_memory_and_fills_no_log() -> None:
    world = World(NET)
    world.connect()
    payload = bytes(CHUNK_BYTES)
    for index in range(2_000):
        blob = blob_digest(index.to_bytes(4, "big"))
        chunk = Chunk(blob=blob, index=0, blob_bytes=CHUNK_BYTES, data=payload)
        world.tell(Arrived(topic=TOPICS.chunk(blob, 0), payload=encode_record(chunk)))
    assert world.device.counters == {ReasonCode.OUT_OF_BOUNDS: 2_000}
    assert len(only(world.trace, Rejected)) == 11
    assert world.device._fetcher.missing == ()
    assert world.device.state == world.disk


def test_pieces_that_change_their_story_never_hold_more_than_one_blob() -> None:
    world = World(NET)
    world.connect()
    world.tell(NET.announced())
    digest = blob_digest(PROGRAM)
    for size in range(CHUNK_BYTES + 1, CHUNK_BYTES + 400):
        chunk = Chunk(blob=digest, index=0, blob_bytes=size, data=bytes(CHUNK_BYTES))
        world.tell(Arrived(topic=TOPICS.chunk(digest, 0), payload=encode_record(chunk)))
    fetch = world.device._fetcher._fetches[digest]
    assert len(fetch.assembly._pieces) == 1
    assert requests_in(world.tell(*NET.pieces(BASE), *NET.pieces(PROGRAM)))


def test_stalled_blob_is_asked_for_again_with_growing_waits_until_the_round_is_over() -> None:
    world = World(NET)
    world.connect()
    world.tell(NET.announced())
    world.trace.clear()
    world.run_timers(world.now_ms + 60_000)
    names = [type(effect).__name__ for effect in world.trace]
    assert 4 <= names.count("Subscribe") <= 16
    assert world.device.round_in_work is None
    assert world.device.next_timer() is None


def test_counters_reach_the_disk_with_the_next_write_only() -> None:
    world = World(NET)
    world.connect()
    world.tell(Arrived(topic="nonsense", payload=b""))
    assert world.disk.rejections == {}
    world.sign_round()
    assert world.disk.rejections == {ReasonCode.BAD_ENCODING: 1}


topics = st.one_of(
    st.text(max_size=300),
    st.sampled_from(
        [
            TOPICS.round,
            TOPICS.receipt(World(NET).device.id),
            TOPICS.update(World(NET).device.id),
            TOPICS.chunk(blob_digest(BASE), 0),
            TOPICS.chunk(blob_digest(PROGRAM), 1),
            TOPICS.chunk(Digest(bytes(32)), 999_999),
        ]
    ),
)


def mutated(valid: list[bytes]) -> st.SearchStrategy[bytes]:
    """Valid messages with a few bytes changed, cut or added."""

    def mutate(data: bytes, place: int, change: bytes, cut: int) -> bytes:
        place %= len(data)
        return data[:place] + change + data[place + cut :]

    return st.builds(
        mutate,
        st.sampled_from(valid),
        st.integers(0, 100_000),
        st.binary(max_size=4),
        st.integers(0, 4),
    )


VALID = [
    encode_record(GOOD),
    *(piece.payload for piece in NET.pieces(BASE)),
    encode_record(next(split_blob(PROGRAM))),
]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(topics, st.one_of(st.binary(max_size=200), mutated(VALID))), max_size=12))
def test_no_bytes_on_any_topic_raise_sign_or_train(messages: list[tuple[str, bytes]]) -> None:
    world = World(NET)
    world.connect()
    for topic, payload in messages:
        if payload not in VALID:
            world.tell(Arrived(topic=topic, payload=payload))
    assert not requests_in(world.trace)
    assert not updates_in(world.trace)
    assert requests_in(world.begin_round())
