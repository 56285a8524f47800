"""A peer that takes every connection and then sends whatever could hurt: a fuzzer in MQTT."""

import contextlib
import random
import socket
import threading
from collections import Counter
from collections.abc import Sequence

BATCH = 50
CONNACK = b"\x20\x02\x00\x00"


def remaining_length(number: int) -> bytes:
    digits = bytearray()
    while True:
        number, digit = divmod(number, 128)
        digits.append(digit | (0x80 if number else 0))
        if not number:
            return bytes(digits)


def publish_packet(topic: bytes, payload: bytes, *, qos: int = 0, message_id: int = 1) -> bytes:
    body = len(topic).to_bytes(2, "big") + topic
    body += message_id.to_bytes(2, "big") if qos else b""
    body += payload
    return bytes([0x30 | qos << 1]) + remaining_length(len(body)) + body


class HostileBroker:
    """Serves one client after the other, hostile until `finish`, then honest.

    Args:
        topics: That the client may listen to.
        valid: Messages that it would take, to be spoilt.
        seed: Of everything random.
        finale: Packets of an honest broker, sent in each session once `finish` was called.
        deadly_every: About one packet in so many ends the session by what it is.
    """

    def __init__(
        self,
        *,
        topics: Sequence[str],
        valid: Sequence[bytes],
        seed: int,
        finale: Sequence[bytes] = (),
        deadly_every: int = 500,
    ) -> None:
        self._topics = [topic.encode() for topic in topics]
        self._valid = valid
        self._finale = finale
        self._rng = random.Random(seed)
        self._deadly_every = deadly_every
        self.sent: Counter[str] = Counter()
        self.sessions = 0
        self._is_finishing = False
        self._is_stopping = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.2)
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "HostileBroker":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_stopping = True
        self._listener.close()
        self._thread.join(5)

    def finish(self) -> None:
        """Send no more that hurts."""
        self._is_finishing = True

    def _serve(self) -> None:
        while not self._is_stopping:
            with contextlib.suppress(OSError):
                peer, _ = self._listener.accept()
                with peer:
                    peer.settimeout(5)
                    self.sessions += 1
                    self._attack(peer)
                    peer.shutdown(socket.SHUT_RDWR)

    def _attack(self, peer: socket.socket) -> None:
        peer.recv(4_096)
        peer.sendall(CONNACK)
        drain = threading.Thread(target=self._drain, args=(peer,), daemon=True)
        drain.start()
        while not (self._is_finishing or self._is_stopping):
            batch, kind = [], ""
            for _ in range(BATCH):
                kind, packet = self._make_packet()
                self.sent[kind] += 1
                batch.append(packet)
                if kind == "deadly":
                    break
            peer.sendall(b"".join(batch))
            if kind == "deadly":
                # Nobody would read what followed. Some of these only look like a beginning, and
                # the client waits for the rest.
                drain.join(0.05)
                return
        peer.sendall(b"".join(self._finale))
        drain.join()

    def _drain(self, peer: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while peer.recv(65_536) and not self._is_stopping:
                pass

    def _make_packet(self) -> tuple[str, bytes]:
        rng = self._rng
        if rng.randrange(self._deadly_every) == 0:
            return "deadly", rng.choice(
                (
                    lambda: bytes([0x30]) + remaining_length(2**28 - 1) + bytes(64),
                    lambda: bytes([0x30]) + b"\xff\xff\xff\xff\xff",
                    lambda: b"\x30\x01\x00",
                    lambda: publish_packet(rng.choice(self._topics), b"", qos=2),
                    lambda: publish_packet(rng.choice(self._topics), b"", qos=3),
                    lambda: rng.randbytes(200),
                    lambda: b"\x20\x02\x00\x05",
                    lambda: b"HTTP/1.1 302 Found\r\nLocation: http://portal/\r\n\r\n",
                )
            )()
        kind = rng.randrange(10)
        if kind == 0:
            # Of messages that were never sent; PUBACK, UNSUBACK, PUBREL, PUBCOMP, SUBACK, PINGRESP.
            some_id = rng.randbytes(2)
            heads = (b"\x40\x02", b"\xb0\x02", b"\x62\x02", b"\x70\x02")
            stray = (rng.choice(heads) + some_id, b"\x90\x03" + some_id + b"\x01", b"\xd0\x00")
            return "stray acknowledgement", rng.choice(stray)
        if kind == 1:
            return "garbage topic", publish_packet(rng.randbytes(rng.randrange(1, 80)), b"x")
        topic = rng.choice(self._topics)
        if kind == 2:
            return "garbage", publish_packet(topic, rng.randbytes(rng.randrange(400)))
        if kind == 3:
            return "empty", publish_packet(topic, b"", qos=1, message_id=rng.randrange(1, 65_536))
        if kind == 4:
            return "large", publish_packet(topic, bytes([rng.randrange(256)]) * 60_000)
        original = rng.choice(self._valid)
        payload = bytearray(original)
        for _ in range(rng.randrange(1, 5)):
            place = rng.randrange(len(payload) or 1)
            change = rng.randbytes(rng.randrange(3))
            payload[place : place + rng.randrange(3)] = change
        if kind == 5:
            del payload[rng.randrange(len(payload) or 1) :]
        if payload == original:
            payload[0] ^= 0xFF
        qos = rng.randrange(2)
        return "mutated", publish_packet(
            topic, bytes(payload), qos=qos, message_id=rng.randrange(1, 65_536)
        )
