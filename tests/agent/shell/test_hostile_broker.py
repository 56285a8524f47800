"""A real agent shell with its store against a broker that sends whatever could hurt."""

import gc
import logging
import os
import threading
import time
from pathlib import Path

import pytest

from headwater_agent.config import AgentConfig, BrokerAddress, Tls
from headwater_agent.data.config import parse_data
from headwater_agent.device import Device
from headwater_agent.guest.config import GuestConfig
from headwater_agent.machine.effects import Train
from headwater_agent.machine.inputs import Trained
from headwater_agent.machine.limits import DeviceLimits
from headwater_agent.shell.clock import utc_ms
from headwater_agent.shell.mqtt import MqttShell
from headwater_agent.store import StateStore
from headwater_protocol.chain.epoch import epoch_digest
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.identifiers import EpochNumber, TimeMs
from headwater_protocol.light.client import Pin
from headwater_protocol.reasons import ReasonCode
from tests.support.agent_support import (
    BASE,
    DELTA,
    DEVICE_KEY,
    ENTROPY,
    PROGRAM,
    SHARD,
    Net,
    World,
)
from tests.support.hostile_broker import HostileBroker, publish_packet

NET = Net(num_delegates=2)
MAX_GROWTH_BYTES = 5 * 1024 * 1024


class Echo:
    """A trainer that needs no program."""

    def run(self, request: Train) -> Trained:
        return Trained(round=request.round, delta=DELTA, num_examples=7)


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_round(number: int) -> bytes:
    now_ms = utc_ms()
    round_ = NET.round(number, opened_ms=TimeMs(now_ms), collect_until_ms=TimeMs(now_ms + 600_000))
    return encode_record(NET.announce(round_))


def attack(folder: Path, *, messages: int, warm_up: int) -> tuple[HostileBroker, Device, int]:
    """Have the device refuse `messages`; the broker, the device, the growth of memory in bytes."""
    topics = NET.topics
    blobs = (*NET.pieces(BASE), *NET.pieces(PROGRAM))
    world = World(NET)
    world.connect()
    receipt = NET.answered(world.sign_round(1), ReasonCode.BUSY)
    broker = HostileBroker(
        topics=[
            topics.round,
            topics.receipt(DEVICE_KEY.device),
            topics.latest_epoch,
            topics.epoch(EpochNumber(1)),
            *(piece.topic for piece in blobs),
        ],
        valid=[open_round(1), *(piece.payload for piece in blobs), receipt.payload],
        seed=7,
        finale=[
            publish_packet(topic.encode(), payload)
            for topic, payload in (
                (topics.round, open_round(1)),
                *((piece.topic, piece.payload) for piece in blobs),
            )
        ],
    )
    config = AgentConfig(
        brokers=(BrokerAddress(host="127.0.0.1", port=broker.port, uses_tls=False),),
        genesis=folder / "genesis",
        network=NET.network,
        shard=SHARD,
        weight=1,
        key=folder / "key",
        state=folder / "state.db",
        data=parse_data({"path": "data"}, folder=folder, max_bytes=1 << 20),
        guest=GuestConfig(),
        login=None,
        tls=Tls(ca_file=None, cert_file=None, key_file=None),
        limits=DeviceLimits(),
    )
    store = StateStore(config.state, device=DEVICE_KEY.device, network=NET.network, creates=True)
    with store, broker:
        device = Device(
            key=DEVICE_KEY,
            genesis=NET.genesis,
            network=NET.network,
            shard=SHARD,
            entropy=ENTROPY,
            state=store.load(),
            pin=Pin(
                epoch=EpochNumber(0),
                digest=epoch_digest(NET.genesis.epoch()),
                time_ms=TimeMs(utc_ms()),
            ),
        )
        shell = MqttShell(device=device, store=store, training=Echo(), config=config)
        problems: list[BaseException] = []

        def run() -> None:
            try:
                shell.run()
            except BaseException as error:
                problems.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        end_s = time.monotonic() + 60 + messages / 100
        before = refused = 0
        while refused < messages:
            time.sleep(0.05)
            assert thread.is_alive(), problems
            assert time.monotonic() < end_s, broker.sent
            refused = sum(device.counters.values())
            if not before and refused >= warm_up:
                before = resident_bytes()
        broker.finish()
        growth = resident_bytes() - before
        while device.state.last_signed_round < 1:
            assert thread.is_alive(), problems
            assert time.monotonic() < end_s, "the device does not work any more"
            time.sleep(0.01)
        shell.stop()
        thread.join(10)
        assert not problems
        assert not thread.is_alive()
        assert store.load() == device.state
    return broker, device, growth


@pytest.fixture(autouse=True)
def _quiet_and_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    logging.getLogger("headwater.agent").setLevel(logging.CRITICAL)
    monkeypatch.setattr("headwater_agent.shell.mqtt.FIRST_RECONNECT_MS", 2)
    monkeypatch.setattr("headwater_agent.shell.mqtt.MAX_RECONNECT_MS", 4)


def require_unharmed(device: Device) -> None:
    """It believed nothing of it, and then took part in a true round."""
    assert device.state.sequence == 1
    assert device.state.receipts == ()
    assert sum(device.counters.values()) > 0


def test_a_few_thousand_hostile_messages(tmp_path: Path) -> None:
    broker, device, _ = attack(tmp_path, messages=3_000, warm_up=1_000)
    assert broker.sessions > 1
    assert set(broker.sent) >= {"mutated", "deadly", "large", "garbage topic"}
    require_unharmed(device)


@pytest.mark.crash
def test_a_hundred_thousand_hostile_messages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start_s = time.monotonic()
    broker, device, growth = attack(tmp_path, messages=100_000, warm_up=20_000)
    with capsys.disabled():
        print(
            f"\n{broker.sent.total()} packets sent in {broker.sessions} sessions, "
            f"{time.monotonic() - start_s:.0f} s: {dict(sorted(broker.sent.items()))}; "
            f"{sum(device.counters.values())} refused by the machine; resident memory grew by "
            f"{growth / 2**20:.2f} MiB after the first fifth"
        )
    assert growth < MAX_GROWTH_BYTES
    require_unharmed(device)
