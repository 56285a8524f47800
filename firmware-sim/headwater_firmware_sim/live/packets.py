"""MQTT 3.1.1 packets, as many as a device needs: QoS 1, a retained will, no persistent session.

Everything that comes from a broker is bounded before it is looked at. Left out: QoS 2, properties
of MQTT 5, and whatever a broker never sends to such a client.

OASIS, "MQTT Version 3.1.1", 2014; section numbers in comments are its.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from headwater_protocol.errors import TransportError

MAX_PACKET_BYTES: Final = 1024 * 1024
"""Of an incoming packet; the protocol's largest message is a chunk of 32 KiB."""
MAX_LENGTH_BYTES: Final = 4
MAX_TEXT_BYTES: Final = 65_535
MAX_PACKET_ID: Final = 65_535


class PacketKind(IntEnum):
    """Section 2.2.1."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14


class MalformedPacket(TransportError):
    """The broker sent what is no packet for this client."""


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet from a broker."""

    kind: PacketKind
    flags: int
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A PUBLISH from a broker."""

    topic: str
    payload: bytes
    packet_id: int | None
    """To be acknowledged; None with QoS 0."""


class PacketReader:
    """Cuts a stream of bytes into packets."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Packet]:
        """Take bytes; the packets that are complete now.

        Raises:
            MalformedPacket: If a length or kind is none that a broker sends.
        """
        self._buffer += data
        start = 0
        while True:
            header = self._read_header(start)
            if header is None:
                break
            begin, length = header
            if len(self._buffer) < begin + length:
                break
            first = self._buffer[start]
            body = bytes(self._buffer[begin : begin + length])
            start = begin + length
            try:
                kind = PacketKind(first >> 4)
            except ValueError:
                raise MalformedPacket(f"packet kind {first >> 4}") from None
            yield Packet(kind, first & 0x0F, body)
        del self._buffer[:start]

    def _read_header(self, start: int) -> tuple[int, int] | None:
        """Where the body begins and how long it is; section 2.2.3."""
        length = 0
        for position in range(MAX_LENGTH_BYTES):
            at = start + 1 + position
            if at >= len(self._buffer):
                return None
            byte = self._buffer[at]
            length |= (byte & 0x7F) << 7 * position
            if not byte & 0x80:
                if length > MAX_PACKET_BYTES:
                    raise MalformedPacket(f"a packet of {length} bytes")
                return at + 1, length
        raise MalformedPacket("a length of more than four bytes")


def decode_message(packet: Packet) -> Message:
    """The message in a PUBLISH; section 3.3.

    Raises:
        MalformedPacket: If its parts do not fit into it.
    """
    body, qos = packet.body, packet.flags >> 1 & 3
    if len(body) < 2 or qos > 1:
        raise MalformedPacket(f"a PUBLISH of {len(body)} bytes with QoS {qos}")
    end = 2 + int.from_bytes(body[:2], "big")
    start = end + 2 * qos
    if start > len(body):
        raise MalformedPacket("a PUBLISH shorter than its topic")
    try:
        topic = body[2:end].decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedPacket("a topic that is no UTF-8") from None
    packet_id = int.from_bytes(body[end:start], "big") if qos else None
    return Message(topic=topic, payload=body[start:], packet_id=packet_id)


def encode_connect(
    *, client_id: str, will_topic: str, will: bytes, keepalive_s: int,
    username: str | None, password: str | None,
) -> bytes:  # fmt: skip
    """Section 3.1: a clean session with a retained will of QoS 1."""
    flags = 0x02 | 0x04 | 0x08 | 0x20
    tail = b""
    if username is not None:
        flags |= 0x80
        tail += _text(username)
        if password is not None:
            flags |= 0x40
            tail += _text(password)
    body = _text("MQTT") + bytes([4, flags]) + keepalive_s.to_bytes(2, "big")
    body += _text(client_id) + _text(will_topic) + len(will).to_bytes(2, "big") + will + tail
    return _packet(PacketKind.CONNECT, 0, body)


def encode_publish(topic: str, payload: bytes, *, packet_id: int, retain: bool) -> bytes:
    """Section 3.3, with QoS 1."""
    body = _text(topic) + packet_id.to_bytes(2, "big") + payload
    return _packet(PacketKind.PUBLISH, 0x02 | retain, body)


def encode_puback(packet_id: int) -> bytes:
    """Section 3.4."""
    return _packet(PacketKind.PUBACK, 0, packet_id.to_bytes(2, "big"))


def encode_subscribe(filters: tuple[str, ...], *, packet_id: int) -> bytes:
    """Section 3.8, with QoS 1."""
    body = packet_id.to_bytes(2, "big") + b"".join(_text(one) + b"\x01" for one in filters)
    return _packet(PacketKind.SUBSCRIBE, 0x02, body)


def encode_unsubscribe(filters: tuple[str, ...], *, packet_id: int) -> bytes:
    """Section 3.10."""
    body = packet_id.to_bytes(2, "big") + b"".join(_text(one) for one in filters)
    return _packet(PacketKind.UNSUBSCRIBE, 0x02, body)


PINGREQ: Final = bytes([PacketKind.PINGREQ << 4, 0])
DISCONNECT: Final = bytes([PacketKind.DISCONNECT << 4, 0])


def _text(text: str) -> bytes:
    data = text.encode("utf-8")
    if len(data) > MAX_TEXT_BYTES:
        raise ValueError(f"a text of {len(data)} bytes")
    return len(data).to_bytes(2, "big") + data


def _packet(kind: PacketKind, flags: int, body: bytes) -> bytes:
    length, size = bytearray(), len(body)
    while True:
        size, low = size >> 7, size & 0x7F
        length.append(low | (0x80 if size else 0))
        if not size:
            break
    return bytes([kind << 4 | flags]) + bytes(length) + body
