"""A real Mosquitto as a child process, on the configuration that the project writes."""

import os
import queue
import signal
import socket
import ssl
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import paho.mqtt.client as mqtt
from Crypto.PublicKey import ECC
from paho.mqtt.enums import CallbackAPIVersion

from headwater_gateway.registrar.authority import DAY_MS, SERIAL_BYTES, Authority
from headwater_gateway.registrar.setup import BrokerFolder, write_broker_folder
from headwater_protocol.chain.genesis import Genesis
from headwater_protocol.crypto.signing import SecretKey

START_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 10.0
MONITOR = "monitor"
MONITOR_ACCESS = f"\nuser {MONITOR}\ntopic readwrite #\ntopic read $SYS/#\n"


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mosquitto:
    """A broker on `config`; it listens at `port`."""

    def __init__(self, config: Path, port: int) -> None:
        self.config = config
        self.port = port
        self.log = config.with_suffix(".log")
        self._child: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            # It would give its rights up, and could not read a test's folder any more.
            config.write_text("user root\n" + config.read_text())

    @property
    def url(self) -> str:
        return f"mqtts://localhost:{self.port}"

    def start(self) -> "Mosquitto":
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                ["mosquitto", "-c", str(self.config)], stderr=log, stdout=log
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            assert self._child.poll() is None, self.log.read_text()
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.02)
            else:
                return self

    def reload(self) -> None:
        assert self._child is not None
        self._child.send_signal(signal.SIGHUP)

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def stop(self) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
            self._child.wait(10)

    def __enter__(self) -> "Mosquitto":
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()


def make_authority(now_ms: int | None = None) -> Authority:
    return Authority.create("test", now_ms=now_ms or wall_ms(), serial=os.urandom(16))


def make_broker(
    folder: Path, genesis: Genesis, authority: Authority, *, crl_file: Path | None = None
) -> Mosquitto:
    """A broker for a network, with a monitor that may use every topic."""
    port = free_port()
    config = write_broker_folder(
        genesis,
        authority,
        BrokerFolder(folder=folder, hosts=("localhost", "127.0.0.1"), port=port, crl_file=crl_file),
    )
    access = folder / "access.acl"
    access.write_text(access.read_text() + MONITOR_ACCESS)
    return Mosquitto(config, port)


def write_client(
    folder: Path,
    authority: Authority,
    name: str,
    *,
    now_ms: int | None = None,
    life_ms: int = DAY_MS,
) -> Path:
    """Key and certificate of a client in one file, as a device keeps them."""
    transport = SecretKey(os.urandom(32))
    issued = authority.issue_client(
        name,
        transport.public_key,
        now_ms=now_ms or wall_ms(),
        serial=os.urandom(SERIAL_BYTES),
        life_ms=life_ms,
    )
    private = ECC.construct(curve="Ed25519", seed=transport.seed).export_key(format="PEM")
    path = folder / f"{name[:16]}.pem"
    path.write_text(f"{private}\n{issued.pem}")
    return path


@dataclass
class Client:
    """A client with a thread; what it hears is in `heard`, in order."""

    broker: Mosquitto
    ca_file: Path
    certificate: Path | None
    client_id: str = "any"
    heard: "queue.Queue[tuple[str, bytes]]" = field(default_factory=queue.Queue)

    def __post_init__(self) -> None:
        self.connected, self.ended = threading.Event(), threading.Event()
        self.client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self.client_id,
            protocol=mqtt.MQTTv311,
            reconnect_on_failure=False,
        )
        context = ssl.create_default_context(cafile=str(self.ca_file))
        if self.certificate is not None:
            context.load_cert_chain(self.certificate)
        self.client.tls_set_context(context)
        self.client.on_connect = lambda *_: self.connected.set()
        self.client.on_disconnect = lambda *_: self.ended.set()
        self.client.on_message = self._on_message
        self.client.connect("localhost", self.broker.port)
        self.client.loop_start()

    def _on_message(self, client: mqtt.Client, userdata: object, message: mqtt.MQTTMessage) -> None:
        self.heard.put((message.topic, bytes(message.payload)))

    def is_let_in(self) -> bool:
        """Whether the broker answered the request to connect; waits for either."""
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        while time.monotonic() < deadline:
            if self.connected.wait(0.02):
                return True
            if self.ended.is_set():
                return False
        raise AssertionError(self.broker.log.read_text())

    def subscribe(self, *topics: str) -> None:
        done = threading.Event()
        self.client.on_subscribe = lambda *_: done.set()
        self.client.subscribe([(topic, 1) for topic in topics])
        assert done.wait(ANSWER_TIMEOUT_S)

    def publish(self, topic: str, payload: bytes) -> None:
        self.client.publish(topic, payload, qos=1).wait_for_publish(ANSWER_TIMEOUT_S)

    def hear_until(self, payload: bytes) -> list[tuple[str, bytes]]:
        """What was heard before `payload`."""
        found = []
        while (entry := self.heard.get(timeout=ANSWER_TIMEOUT_S))[1] != payload:
            found.append(entry)
        return found

    def stop(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
