"""Brokers that a live run may use, and those of them that it may stop."""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Final, Protocol

from headwater_gateway.shell.broker import embedded_broker, find_free_port
from headwater_gateway.shell.mqtt import parse_broker_url
from headwater_protocol.errors import ConfigError

MOSQUITTO: Final = "mosquitto"
"""In place of a URL: start one."""
HOST: Final = "127.0.0.1"
START_S: Final = 10.0
STOP_S: Final = 10.0
PROBE_S: Final = 0.02


class LiveBroker(Protocol):
    """Where devices and gateway meet."""

    url: str

    @property
    def is_own(self) -> bool:
        """Whether the run may stop it."""
        ...

    def start(self) -> None:
        """Come back with nothing retained; blocks until it listens."""

    def stop(self) -> None:
        """Go, with all connections and all that is retained."""


class ForeignBroker:
    """Somebody else's."""

    is_own = False

    def __init__(self, url: str) -> None:
        self.url = url

    def start(self) -> None:
        """It runs.

        Raises:
            ConfigError: If nothing listens there; a run would wait for devices that never come.
        """
        address = parse_broker_url(self.url)
        try:
            socket.create_connection((address.host, address.port), timeout=START_S).close()
        except OSError as error:
            raise ConfigError(
                "--broker",
                f"{self.url}: {(error.strerror or str(error)).lower()}",
                fix="start it, or use --broker mosquitto",
            ) from error

    def stop(self) -> None:
        """It goes on."""


class EmbeddedBroker:
    """amqtt in this process."""

    is_own = True

    def __init__(self) -> None:
        self._port = find_free_port(HOST)
        self._running: AbstractContextManager[str] | None = None
        self.url = f"mqtt://{HOST}:{self._port}"

    def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: If it cannot.
        """
        if self._running is None:
            running = embedded_broker(HOST, self._port)
            running.__enter__()
            self._running = running

    def stop(self) -> None:
        """Close all connections."""
        if self._running is not None:
            running, self._running = self._running, None
            running.__exit__(None, None, None)


class Mosquitto:
    """A Mosquitto of this run's own, which forgets everything when it is stopped."""

    is_own = True

    def __init__(self, folder: Path) -> None:
        """Choose a port and write a configuration into `folder`.

        Raises:
            ConfigError: If Mosquitto is not installed.
        """
        program = shutil.which(MOSQUITTO)
        if program is None:
            raise ConfigError(
                "--broker", "Mosquitto is not installed", fix="apt-get install mosquitto"
            )
        self._port = find_free_port(HOST)
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            f"listener {self._port} {HOST}\nallow_anonymous true\npersistence false\n"
            "max_queued_messages 0\n"
        )
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"mqtt://{HOST}:{self._port}"

    def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: If it does not.
        """
        if self._process is not None:
            return
        self._process = subprocess.Popen(
            [self._program, "-c", str(self._config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + START_S
        while time.monotonic() < until and self._process.poll() is None:
            try:
                socket.create_connection((HOST, self._port), timeout=START_S).close()
            except OSError:
                time.sleep(PROBE_S)
            else:
                return
        self.stop()
        raise ConfigError(
            "--broker", f"Mosquitto does not listen on {self._port}", fix="try it by hand"
        )

    def stop(self) -> None:
        """Kill it, as a power cut would."""
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.wait(STOP_S)


@contextmanager
def open_broker(choice: str | None) -> Iterator[LiveBroker]:
    """The broker of a run, listening, until the block ends.

    Args:
        choice: A URL, `mosquitto`, or None for the embedded one.

    Raises:
        ConfigError: If it cannot be started.
    """
    with ExitStack() as stack:
        broker: LiveBroker
        if choice is None:
            broker = EmbeddedBroker()
        elif choice == MOSQUITTO:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="headwater-broker-"))
            broker = Mosquitto(Path(folder))
        else:
            broker = ForeignBroker(choice)
        stack.callback(broker.stop)
        broker.start()
        yield broker


def is_own_broker(choice: str | None) -> bool:
    """Whether `open_broker` will start one."""
    return choice is None or choice == MOSQUITTO
