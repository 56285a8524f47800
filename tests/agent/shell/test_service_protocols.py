"""The journal's socket and the service manager's, with real sockets on the other side."""

import io
import logging
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headwater_agent.config import BrokerAddress, load_config
from headwater_agent.data.pool import Pool
from headwater_agent.data.problems import Problems
from headwater_agent.device import Device
from headwater_agent.errors import DiskFull
from headwater_agent.guest.config import GuestConfig
from headwater_agent.guest.host import Host
from headwater_agent.guest.policy import Readings
from headwater_agent.machine.effects import AskPermission, Train
from headwater_agent.machine.inputs import Trained
from headwater_agent.report.status import format_status, make_status
from headwater_agent.shell.journal import (
    MAX_VALUE_BYTES,
    JournalHandler,
    LineFormatter,
    make_handler,
    tell,
)
from headwater_agent.shell.mqtt import MqttShell
from headwater_agent.shell.notify import Notifier
from headwater_agent.store import StateStore
from headwater_models.dataset import Dataset
from headwater_protocol.identifiers import RoundNumber
from tests.support.agent_home import NET, make_home, running_agent
from tests.support.agent_support import DELTA, DEVICE_KEY, ENTROPY, SHARD


@pytest.fixture
def mailbox(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "socket"))
        receiver.settimeout(10)
        yield receiver


def parse_journal(datagram: bytes) -> dict[str, str]:
    """journald's native protocol, as systemd documents it."""
    stream, fields = io.BytesIO(datagram), {}
    while line := stream.readline():
        name, equals, value = line.rstrip(b"\n").partition(b"=")
        if not equals:
            (size,) = struct.unpack("<Q", stream.read(8))
            value = stream.read(size)
            assert stream.read(1) == b"\n"
        fields[name.decode()] = value.decode()
    return fields


def test_an_event_is_one_datagram_with_its_fields(tmp_path: Path, mailbox: socket.socket) -> None:
    log = logging.getLogger("headwater.agent")
    handler = JournalHandler(tmp_path / "socket")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        tell(logging.WARNING, "abandoned", round=12, reason="stale_round", detail="two\nlines")
        fields = parse_journal(mailbox.recv(65_536))
        tell(logging.INFO, "long", detail="x" * 100_000)
        long = parse_journal(mailbox.recv(65_536))
        tell(logging.DEBUG, "quiet")
    finally:
        log.removeHandler(handler)
        handler.close()
    assert fields["MESSAGE"] == r"event=abandoned round=12 reason=stale_round detail='two\nlines'"
    assert fields["PRIORITY"] == "4"
    assert fields["SYSLOG_IDENTIFIER"] == "headwater-agent"
    assert (fields["HEADWATER_EVENT"], fields["HEADWATER_ROUND"]) == ("abandoned", "12")
    assert fields["HEADWATER_DETAIL"] == "two\nlines"
    assert len(long["HEADWATER_DETAIL"]) == MAX_VALUE_BYTES
    mailbox.setblocking(False)
    with pytest.raises(BlockingIOError):
        mailbox.recv(1)


def test_the_handler_follows_where_stderr_goes(tmp_path: Path, mailbox: socket.socket) -> None:
    status = os.fstat(2)
    stream = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
    native = make_handler(stream, path=tmp_path / "socket")
    assert isinstance(native, JournalHandler)
    native.close()
    prefixed = make_handler(stream, path=tmp_path / "none").formatter
    plain = make_handler({}, path=tmp_path / "socket").formatter
    record = logging.LogRecord("n", logging.ERROR, "", 0, "a\nb", (), None)
    assert prefixed is not None
    assert plain is not None
    assert prefixed.format(record) == "<3>a\\nb"
    assert plain.format(record).endswith("Z ERROR a\\nb")


def test_a_journal_that_went_away_loses_no_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = JournalHandler(tmp_path / "none")
    handler._fallback = logging.StreamHandler(sys.stderr)
    handler._fallback.setFormatter(LineFormatter(with_priority=True))
    handler.emit(logging.LogRecord("n", logging.INFO, "", 0, "hello", (), None))
    handler.close()
    assert capsys.readouterr().err == "<6>hello\n"


def test_a_running_agent_speaks_to_its_service_manager(
    tmp_path: Path, mailbox: socket.socket
) -> None:
    config = make_home(tmp_path)
    environment = {
        "NOTIFY_SOCKET": str(tmp_path / "socket"),
        "WATCHDOG_USEC": "400000",
    }
    with running_agent(config, environment=environment, wait_for="event=disconnected"):
        said: list[bytes] = []
        while said.count(b"WATCHDOG=1") < 3 or not any(s.startswith(b"STATUS=") for s in said):
            said.append(mailbox.recv(1_024))
    mailbox.settimeout(1)
    while b"STOPPING=1" not in said:
        said.append(mailbox.recv(1_024))
    assert said[0] == b"READY=1"
    assert b"STATUS=offline, connecting" in said


def test_abstract_sockets_and_none_at_all(tmp_path: Path) -> None:
    name = f"headwater-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("\0" + name)
        notifier = Notifier({"NOTIFY_SOCKET": "@" + name})
        notifier.ready()
        assert receiver.recv(100) == b"READY=1"
        notifier.close()
    Notifier({}).ready()
    gone = Notifier({"NOTIFY_SOCKET": str(tmp_path / "none")})
    gone.ready()
    gone.close()
    for usec, pid, period_s in (("3000000", None, 3.0), ("x", None, 0.0), ("3000000", "1", 0.0)):
        environment = {"WATCHDOG_USEC": usec} | ({"WATCHDOG_PID": pid} if pid else {})
        assert Notifier(environment).period_s == period_s


class Hanging:
    """A training that hangs until it is told to end."""

    def __init__(self) -> None:
        self.began, self.ends = threading.Event(), threading.Event()

    def run(self, request: Train) -> Trained:
        self.began.set()
        self.ends.wait(20)
        return Trained(round=RoundNumber(1), delta=DELTA, num_examples=1)


def test_a_training_that_hangs_starves_the_watchdog(
    tmp_path: Path, mailbox: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(make_home(tmp_path))
    object.__setattr__(config, "max_training_ms", 200)
    monkeypatch.setattr("headwater_agent.shell.mqtt.MAX_WAIT_MS", 20)
    training = Hanging()
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "socket"), "WATCHDOG_USEC": "80000"})
    store = StateStore(
        tmp_path / "own.db", device=DEVICE_KEY.device, network=NET.network, creates=True
    )
    with store:
        device = Device(
            key=DEVICE_KEY,
            genesis=NET.genesis,
            network=NET.network,
            shard=SHARD,
            entropy=ENTROPY,
            state=store.load(),
        )
        shell = MqttShell(
            device=device, store=store, training=training, config=config, notifier=notifier
        )
        thread = threading.Thread(target=shell.run)
        thread.start()
        while mailbox.recv(1_024) != b"WATCHDOG=1":
            pass
        shell._worker.submit(object())  # type: ignore[arg-type]
        assert training.began.wait(5)
        end_s = time.monotonic() + 5
        while not any("training takes longer" in str(e["text"]) for e in shell.reporter.errors):
            assert time.monotonic() < end_s
            time.sleep(0.01)
        mailbox.setblocking(False)
        drain(mailbox)
        time.sleep(0.3)  # longer than three periods of the watchdog: nothing may come
        assert b"WATCHDOG=1" not in drain(mailbox)
        shell.stop()
        thread.join(10)
        training.ends.set()


class Examples:
    """A source whose pool somebody else fills."""

    is_stream = True

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def open(self) -> None:
        """Nothing to do."""

    def dataset(self) -> Dataset:
        return self.pool.dataset(why_empty=lambda: "", copies=True)

    def close(self) -> None:
        """Nothing to do."""


def test_a_refused_device_feeds_the_watchdog_and_says_why(
    tmp_path: Path, mailbox: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A night without training is no hang; data and refusals are in the report."""
    config = load_config(make_home(tmp_path))
    object.__setattr__(config, "max_training_ms", 1)
    monkeypatch.setattr("headwater_agent.shell.mqtt.MAX_WAIT_MS", 20)
    monkeypatch.setattr("headwater_agent.shell.reporter.MIN_INTERVAL_S", 0.01)
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "socket"), "WATCHDOG_USEC": "80000"})
    problems = Problems()
    examples = Examples(Pool(config.data, entropy=ENTROPY, problems=problems))
    host = Host(
        GuestConfig(max_temperature_c=70), lambda: Readings(local_minute=0, temperature_c=81)
    )
    tries: list[int] = []

    def fill_disk(now_ms: int) -> None:
        tries.append(now_ms)
        raise DiskFull(tmp_path)

    store = StateStore(
        tmp_path / "own.db", device=DEVICE_KEY.device, network=NET.network, creates=True
    )
    with store:
        now_ms = time.time_ns() // 1_000_000
        device = Device(
            key=DEVICE_KEY,
            genesis=NET.genesis,
            network=NET.network,
            shard=SHARD,
            entropy=ENTROPY,
            state=store.load(),
            asks_permission=True,
        )
        shell = MqttShell(
            device=device,
            store=store,
            training=Hanging(),
            config=config,
            notifier=notifier,
            host=host,
            upkeep=fill_disk,
            source=examples,
        )
        shell._perform(AskPermission(round=RoundNumber(1), needed_bytes=0))
        examples.pool.offer(np.ones(2, np.float32), 0)
        problems.add("t\x00€\ud800", "it is no number " * 1_000, fix="correct the sensor")
        thread = threading.Thread(target=shell.run)
        thread.start()
        fed = 0
        while fed < 5:
            fed += mailbox.recv(1_024) == b"WATCHDOG=1"
        shell.stop()
        thread.join(10)
        assert not thread.is_alive()
    assert len(tries) > 1
    assert device.permission is not None
    assert not device.permission.may_train
    status = make_status(replace(config, state=tmp_path / "own.db"), now_ms=now_ms)
    guest, data = status["guest"], status["data"]
    assert isinstance(guest, dict)
    assert isinstance(data, dict)
    assert (guest["reason"], guest["refusals"]) == ("temperature", {"temperature": 1})
    assert "81.0 °C" in guest["detail"]
    assert (status["num_examples"], data["num_seen"], data["bad"]["count"]) == (1, 1, 1)
    assert data["bad"]["latest"][0].startswith("t?€?: it is no number")
    lines = [" ".join(row) for row in format_status(status, now_ms=now_ms)]
    assert any(line.startswith("guest may not train: 81.0 °C") for line in lines)
    assert any("1 examples kept, 1 rows or messages left out" in line for line in lines)
    assert any(line.startswith("bad data t?€?: it is no number") for line in lines)
    assert any("the disk is full" in line for line in lines)


def drain(mailbox: socket.socket) -> list[bytes]:
    said = []
    try:
        while True:
            said.append(mailbox.recv(1_024))
    except BlockingIOError:
        return said


def test_addresses_print_as_they_are_written() -> None:
    assert str(BrokerAddress(host="a", port=1, uses_tls=True)) == "mqtts://a:1"
