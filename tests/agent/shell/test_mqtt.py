"""The paho shell against a real, embedded broker: a whole round, and a hostile peer."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from headwater_agent.config import AgentConfig, BrokerAddress, Tls
from headwater_agent.data.config import parse_data
from headwater_agent.device import Device
from headwater_agent.guest.config import DEFAULT_GUEST
from headwater_agent.machine.effects import OpenConnection, Publish
from headwater_agent.machine.limits import DeviceLimits
from headwater_agent.shell.clock import utc_ms
from headwater_agent.shell.connection import MAX_PACKET_BYTES, Connection
from headwater_agent.shell.mqtt import MqttShell
from headwater_agent.store import StateStore
from headwater_agent.training import LocalTraining
from headwater_models.dataset import Dataset
from headwater_models.program import Program
from headwater_protocol.chain.epoch import epoch_digest
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.errors import TransportError
from headwater_protocol.identifiers import EpochNumber, TimeMs
from headwater_protocol.light.client import Pin
from headwater_protocol.messages.chunk import split_blob
from headwater_protocol.messages.status import decode_status
from headwater_protocol.messages.update import decode_update
from headwater_protocol.model.fixed_point import encode_model, from_float32
from tests.support.agent_support import DEVICE_KEY, ENTROPY, SHARD, Net, make_task
from tests.support.sensor_broker import free_port, running_broker

MLP = Program.load("mlp-64-32-10")
MODEL = encode_model(from_float32(np.zeros(MLP.num_parameters, np.float32)))
NET = Net(
    num_delegates=1,
    task=make_task(
        program=blob_digest(MLP.data),
        tensor_sizes=MLP.tensor_sizes,
        initial_model=blob_digest(MODEL),
    ),
)


def make_config(port: int, folder: Path) -> AgentConfig:
    return AgentConfig(
        brokers=(BrokerAddress(host="127.0.0.1", port=port, uses_tls=False),),
        genesis=folder / "genesis",
        network=NET.network,
        shard=SHARD,
        weight=1,
        key=folder / "key",
        state=folder / "state.db",
        data=parse_data({"path": "data"}, folder=folder, max_bytes=1 << 20),
        guest=DEFAULT_GUEST,
        login=None,
        tls=Tls(ca_file=None, cert_file=None, key_file=None),
        limits=DeviceLimits(),
    )


class Gateway:
    """As much of one as a device sees: retained announcement and blobs, a signed answer."""

    def __init__(self, port: int) -> None:
        self.updates: list[bytes] = []
        self.statuses: list[bool] = []
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self.client.on_message = self.on_message
        self.client.connect("127.0.0.1", port)
        self.client.subscribe([(NET.topics.updates, 1), (NET.topics.statuses, 1)])
        self.client.loop_start()

    def on_message(self, client: mqtt.Client, userdata: object, message: mqtt.MQTTMessage) -> None:
        payload = bytes(message.payload)
        if message.topic.endswith("/status"):
            self.statuses.append(decode_status(payload).status.is_online)
            return
        self.updates.append(payload)
        answer = NET.answered(decode_update(payload))
        client.publish(answer.topic, answer.payload, qos=1)

    def open_round(self) -> None:
        now_ms = utc_ms()
        round_ = NET.round(
            base=blob_digest(MODEL),
            opened_ms=TimeMs(now_ms),
            collect_until_ms=TimeMs(now_ms + 60_000),
        )
        topics = NET.topics
        announcement = encode_record(NET.announce(round_))
        self.client.publish(topics.round, announcement, qos=1, retain=True)
        for blob in (MODEL, MLP.data):
            for chunk in split_blob(blob):
                self.client.publish(
                    topics.chunk(chunk.blob, chunk.index), encode_record(chunk), 1, retain=True
                )


def wait_for(condition: "object", timeout_s: float = 5.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.01)


def test_a_round_over_a_real_broker(tmp_path: Path) -> None:
    port = free_port()
    config = make_config(port, tmp_path)
    rng = np.random.default_rng(0)
    dataset = Dataset(
        features=rng.random((30, 64), dtype=np.float32),
        labels=rng.integers(0, 10, 30).astype(np.int32),
    )
    with StateStore(
        config.state, device=DEVICE_KEY.device, network=NET.network, creates=True
    ) as store:
        device = Device(
            key=DEVICE_KEY,
            genesis=NET.genesis,
            network=NET.network,
            shard=SHARD,
            entropy=ENTROPY,
            state=store.load(),
            # The tests' network is years old.
            pin=Pin(
                epoch=EpochNumber(0),
                digest=epoch_digest(NET.genesis.epoch()),
                time_ms=TimeMs(utc_ms()),
            ),
        )
        shell = MqttShell(
            device=device, store=store, training=LocalTraining(dataset), config=config
        )
        thread = threading.Thread(target=shell.run)
        thread.start()
        wait_for(lambda: device.state.session == 1)  # and finds no broker
        with running_broker(port):
            gateway = Gateway(port)
            wait_for(lambda: gateway.statuses == [True])
            gateway.open_round()
            wait_for(lambda: (entry := device.state.outbox) is not None and entry.is_held)
            shell.stop()
            thread.join(5)
            assert not thread.is_alive()
            # Once more after the training, with what the device measured.
            wait_for(lambda: gateway.statuses == [True, True, False])
            gateway.client.loop_stop()
            gateway.client.disconnect()
        assert len(gateway.updates) == 1
        assert store.load() == device.state
        assert store.load().last_signed_round == 1


@contextlib.contextmanager
def serving(data: bytes) -> Iterator[int]:
    """A peer that answers every connection with `data`."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            peer, _ = listener.accept()
            with peer:
                peer.recv(4_096)
                peer.sendall(data)
                peer.recv(1)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()
        thread.join(2)


def open_connection(port: int) -> Connection:
    will = Publish(topic="t", payload=b"", qos=1, is_retained=True)
    return Connection(
        address=BrokerAddress(host="127.0.0.1", port=port, uses_tls=False),
        opening=OpenConnection(session=1, will=will),
        client_id="test",
        login=None,
        tls=Tls(ca_file=None, cert_file=None, key_file=None),
    )


def remaining_length(number: int) -> bytes:
    digits = bytearray()
    while True:
        number, digit = divmod(number, 128)
        digits.append(digit | (0x80 if number else 0))
        if not number:
            return bytes(digits)


CONNACK = b"\x20\x02\x00\x00"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (CONNACK + b"\x30" + remaining_length(MAX_PACKET_BYTES + 1) + b"\0", "the limit is"),
        (b"\x20\x02\x00\x05", "refused"),
        (CONNACK + b"\x30\x01\x00", ""),
        (CONNACK + b"\x30\xff\xff\xff\xff\xff", ""),
        (b"\xff\x00" * 20, ""),
        (b"\x90\x00\x20\x00" * 20, ""),
    ],
)
def test_hostile_broker_ends_the_session_and_nothing_else(data: bytes, problem: str) -> None:
    with serving(data) as port:
        connection = open_connection(port)
        end_s = time.monotonic() + 2
        while not connection.is_closed and time.monotonic() < end_s:
            connection.handle(can_read=True, can_write=connection.wants_write)
            time.sleep(0.002)
        assert connection.is_closed
        assert problem in connection.problem
        connection.abort()


def test_message_at_the_limit_is_delivered() -> None:
    topic = b"\x00\x01t"
    payload = bytes(MAX_PACKET_BYTES - len(topic))
    with serving(CONNACK + b"\x30" + remaining_length(MAX_PACKET_BYTES) + topic + payload) as port:
        connection = open_connection(port)
        inputs: list[object] = []
        end_s = time.monotonic() + 2
        while len(inputs) < 2 and time.monotonic() < end_s:
            inputs += connection.handle(can_read=True, can_write=connection.wants_write)
        connection.abort()
    assert len(inputs) == 2


def test_absent_broker_is_a_transport_error() -> None:
    with pytest.raises(TransportError, match="mqtt://"):
        open_connection(free_port())
