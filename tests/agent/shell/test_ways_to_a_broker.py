"""Failover, and networks that lie: what stands in the log is what is wrong and what to do."""

import contextlib
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headwater_agent.config import BrokerAddress, Tls, load_config
from headwater_agent.device import Device
from headwater_agent.machine.effects import OpenConnection, Publish
from headwater_agent.shell.connection import Connection
from headwater_agent.shell.mqtt import MqttShell
from headwater_agent.shell.problems import explain_connection
from headwater_agent.store import StateStore
from headwater_protocol.errors import TransportError
from tests.agent.shell.test_hostile_broker import Echo
from tests.agent.shell.test_mqtt import open_connection, serving
from tests.support.agent_home import NET, make_home
from tests.support.agent_support import DEVICE_KEY, ENTROPY, SHARD
from tests.support.sensor_broker import free_port, running_broker

NOW_MS = 1_700_000_000_000


def test_the_second_broker_is_taken_when_the_first_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headwater_agent.shell.mqtt.FIRST_RECONNECT_MS", 5)
    ports = (free_port(), free_port())
    config = load_config(make_home(tmp_path))
    addresses = tuple(BrokerAddress(host="127.0.0.1", port=p, uses_tls=False) for p in ports)
    object.__setattr__(config, "brokers", addresses)
    path = tmp_path / "own.db"
    with StateStore(path, device=DEVICE_KEY.device, network=NET.network, creates=True) as store:
        device = Device(
            key=DEVICE_KEY,
            genesis=NET.genesis,
            network=NET.network,
            shard=SHARD,
            entropy=ENTROPY,
            state=store.load(),
        )
        shell = MqttShell(device=device, store=store, training=Echo(), config=config)
        link = shell.reporter.link
        with running_broker(ports[1]):
            thread = threading.Thread(target=shell.run)
            thread.start()
            wait_until(lambda: link.is_connected)
            assert link.broker == str(addresses[1])
        wait_until(lambda: not link.is_connected)
        with running_broker(ports[0]):
            wait_until(lambda: link.is_connected and link.broker == str(addresses[0]))
            shell.stop()
            thread.join(10)


def wait_until(condition: object) -> None:
    end_s = time.monotonic() + 10
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.01)


def test_a_login_page_in_the_brokers_place_is_told() -> None:
    with serving(b"HTTP/1.1 302 Found\r\nLocation: http://portal/\r\n\r\n") as port:
        connection = open_connection(port)
        end_s = time.monotonic() + 5
        while not connection.is_closed and time.monotonic() < end_s:
            connection.handle(can_read=True, can_write=connection.wants_write)
            time.sleep(0.002)
    assert "a web server answers in the broker's place; log in" in connection.problem


def test_names_that_do_not_resolve_and_ports_where_nobody_is_are_told() -> None:
    address = BrokerAddress(host="gateway.invalid", port=1883, uses_tls=False)
    for error, words in (
        (socket.gaierror(-2, "Name or service not known"), "cannot be resolved"),
        (ConnectionRefusedError(), "nothing listens there"),
        (TimeoutError(), "no answer"),
        (OSError(101, "Network is unreachable"), "no way to it"),
        (ValueError("odd"), "odd"),
    ):
        line = explain_connection(address, error, now_ms=NOW_MS)
        assert line.startswith("mqtt://gateway.invalid:1883: ")
        assert words in line
        assert "; " in line
        assert "\n" not in line


@contextlib.contextmanager
def serving_tls(folder: Path, *, days: int) -> Iterator[int]:
    """A TLS server with a certificate of its own making, as a portal's."""
    certificate, key = folder / "portal.pem", folder / "portal.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-days", str(days), "-out", str(certificate), "-keyout", str(key)),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            peer, _ = listener.accept()
            with peer, context.wrap_socket(peer, server_side=True):
                pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()
        thread.join(2)


@pytest.mark.openssl
def test_a_peer_with_a_certificate_of_its_own_is_refused_with_the_fix(tmp_path: Path) -> None:
    will = Publish(topic="t", payload=b"", qos=1, is_retained=True)
    with serving_tls(tmp_path, days=2) as port, pytest.raises(TransportError) as caught:
        Connection(
            address=BrokerAddress(host="localhost", port=port, uses_tls=True),
            opening=OpenConnection(session=1, will=will),
            client_id="test",
            login=None,
            tls=Tls(ca_file=None, cert_file=None, key_file=None),
        )
    assert "the peer is not who it should be" in str(caught.value)
    assert "[tls] ca_file" in str(caught.value)


def test_a_certificate_that_is_not_valid_now_points_to_the_clock() -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = 9, "certificate is not yet valid"
    address = BrokerAddress(host="a", port=8883, uses_tls=True)
    line = explain_connection(address, error, now_ms=0)
    assert "1970-01-01" in line
    assert "timedatectl set-ntp true" in line
