"""The lean MQTT client takes what a broker sends, in any cut, and nothing else."""

import random

import pytest

from headwater_firmware_sim.live.packets import (
    MAX_PACKET_BYTES,
    MalformedPacket,
    Message,
    Packet,
    PacketKind,
    PacketReader,
    decode_message,
    encode_connect,
    encode_puback,
    encode_publish,
    encode_subscribe,
)


def read_all(data: bytes) -> list[Packet]:
    return list(PacketReader().feed(data))


def test_a_publish_comes_back_as_it_was_sent() -> None:
    for size in (0, 1, 127, 128, 16_384, 40_000):
        data = encode_publish("a/b", b"x" * size, packet_id=7, retain=True)
        (packet,) = read_all(data)
        assert packet.kind is PacketKind.PUBLISH
        assert decode_message(packet) == Message(topic="a/b", payload=b"x" * size, packet_id=7)


def test_packets_come_out_whole_however_the_stream_is_cut() -> None:
    rng = random.Random(1)
    sent = [encode_publish("t", rng.randbytes(size), packet_id=1, retain=False)
            for size in (3, 300, 5, 20_000)]  # fmt: skip
    stream, reader, found = b"".join(sent), PacketReader(), []
    while stream:
        cut = rng.randint(1, 700)
        found += list(reader.feed(stream[:cut]))
        stream = stream[cut:]
    assert len(found) == len(sent)


@pytest.mark.parametrize(
    "data",
    [
        b"\x30\xff\xff\xff\xff\x01",
        b"\x30\xff\xff\xff\x7f",
        b"\x00\x00",
        b"\xf0\x00",
    ],
)
def test_a_length_or_kind_that_no_broker_sends_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedPacket):
        read_all(data)


def test_the_limit_of_a_packet_holds_at_the_byte() -> None:
    at_limit = encode_publish("t", bytes(MAX_PACKET_BYTES - 5), packet_id=1, retain=False)
    assert len(read_all(at_limit)) == 1
    past = encode_publish("t", bytes(MAX_PACKET_BYTES - 4), packet_id=1, retain=False)
    with pytest.raises(MalformedPacket):
        read_all(past)


@pytest.mark.parametrize(
    ("flags", "body"),
    [(2, b""), (2, b"\x00\x09ab"), (4, b"\x00\x01t\x00\x01"), (0, b"\x00\x01\xff")],
)
def test_a_publish_whose_parts_do_not_fit_is_refused(flags: int, body: bytes) -> None:
    with pytest.raises(MalformedPacket):
        decode_message(Packet(PacketKind.PUBLISH, flags, body))


def test_random_bytes_never_raise_anything_else() -> None:
    rng = random.Random(2)
    for _ in range(2_000):
        try:
            for packet in read_all(rng.randbytes(rng.randint(0, 40))):
                if packet.kind is PacketKind.PUBLISH:
                    decode_message(packet)
        except MalformedPacket:
            continue


def test_what_is_sent_is_what_the_standard_shows() -> None:
    assert encode_puback(258) == b"\x40\x02\x01\x02"
    assert encode_subscribe(("a",), packet_id=1) == b"\x82\x06\x00\x01\x00\x01a\x01"
    connect = encode_connect(
        client_id="c", will_topic="w", will=b"x", keepalive_s=60, username=None, password=None
    )
    assert connect == b"\x10\x13\x00\x04MQTT\x04\x2e\x00\x3c\x00\x01c\x00\x01w\x00\x01x"
