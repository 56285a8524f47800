"""What a service manager is told: sd_notify's datagrams, written to the socket that it names.

Without `NOTIFY_SOCKET` nothing is sent. The watchdog is fed by who makes progress, not by a timer,
so that a loop or a training that hangs lets it starve.
"""

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

MAX_STATUS_CHARACTERS: Final = 200
FEEDS_A_PERIOD: Final = 4
"""systemd recommends two; a busy Pi may miss one."""


class Notifier:
    """Speaks to the service manager that started this process, if one did.

    Args:
        environment: `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` are read.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # A leading @ is an abstract name.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._period_s = _read_watchdog_s(environment)
        self._fed_at_s = float("-inf")
        self._status = ""
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            )

    @property
    def period_s(self) -> float:
        """Within which the watchdog has to be fed; 0 if there is none."""
        return self._period_s

    def ready(self) -> None:
        """The process serves: its state is open and its loop runs."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`; sent when it changed."""
        line = " ".join(text.split())[:MAX_STATUS_CHARACTERS]
        if line != self._status:
            self._status = line
            self._send(f"STATUS={line}")

    def feed(self) -> None:
        """There was progress."""
        now_s = time.monotonic()
        if self._period_s and now_s - self._fed_at_s >= self._period_s / FEEDS_A_PERIOD:
            self._fed_at_s = now_s
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """The process is about to end."""
        self._send("STOPPING=1")

    def close(self) -> None:
        """Send no more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str) -> None:
        if self._socket is None:
            return
        # A manager that is away or slow must not stop a device.
        with suppress(OSError):
            self._socket.sendto(message.encode(), self._address)


def _read_watchdog_s(environment: Mapping[str, str]) -> float:
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    try:
        return max(0, int(environment.get("WATCHDOG_USEC", "0"))) / 1_000_000
    except ValueError:
        return 0.0
