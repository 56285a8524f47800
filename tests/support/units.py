"""The unit files of `deploy/` without systemd: what they start, reload and stop, as processes."""

import configparser
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

DEPLOY = Path(__file__).parents[2] / "deploy"
STATE = "/var/lib/headwater"
BIN = "/opt/headwater/bin/"
WAIT_S = 90.0
STARTED = "event=started"
"""What a gateway says once it has read its stores."""


def read_unit(name: str) -> dict[str, str]:
    """The settings of a unit's [Service]; of those that come again, the last."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string((DEPLOY / f"{name}@.service").read_text())
    return dict(parser["Service"])


def wait(is_done: Callable[[], bool], explain: Callable[[], str]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_done():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.1)


class Units:
    """A `systemctl` for the gateways' and the brokers' units, with their state in `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def call(self, command: str) -> None:
        """Do what a command line that begins with `systemctl` says."""
        words = [word for word in shlex.split(command)[1:] if word != "--now"]
        verb, units = words[0], words[1:]
        for unit in units:
            if verb in {"stop", "disable", "restart"}:
                self.stop(unit)
            if verb in {"start", "enable", "restart"}:
                self._start(unit)
            if verb == "reload":
                self._reload(unit)
            assert verb in {"start", "stop", "restart", "reload", "enable", "disable"}, command

    def is_running(self, unit: str) -> bool:
        return unit in self._children and self._children[unit].poll() is None

    def log(self, unit: str) -> Path:
        return self._root.with_name(f"{unit}.log")

    def stop(self, unit: str) -> None:
        """Stop it; it has to end well and in time."""
        child = self._children.pop(unit)
        assert child.poll() is None, self.log(unit).read_text()
        child.send_signal(signal.SIGTERM)
        timeout_s = float(read_unit(unit.partition("@")[0])["TimeoutStopSec"])
        assert child.wait(timeout=timeout_s) == 0, self.log(unit).read_text()

    def kill_all(self) -> None:
        for child in self._children.values():
            if child.poll() is None:
                child.terminate()
        for child in self._children.values():
            child.wait(timeout=WAIT_S)

    def _start(self, unit: str) -> None:
        name, _, instance = unit.partition("@")
        settings, log = read_unit(name), self.log(unit)
        if name == "headwater-broker" and os.geteuid() == 0:
            # It would give its rights up, and could not read a test's folder any more.
            config = self._root / instance / "mosquitto.conf"
            text = config.read_text()
            config.write_text(text if text.startswith("user ") else f"user root\n{text}")
        before = log.read_text().count(STARTED) if log.exists() else 0
        command = self._localize(settings["ExecStart"], instance)
        with log.open("ab") as stream:
            self._children[unit] = child = subprocess.Popen(
                shlex.split(command), cwd=self._root / instance, stdout=stream, stderr=stream
            )

        def is_ready() -> bool:
            assert child.poll() is None, log.read_text()
            if name == "headwater-broker":
                return self._listens(instance)
            return log.read_text().count(STARTED) > before

        wait(is_ready, log.read_text)

    def _listens(self, broker: str) -> bool:
        text = (self._root / broker / "mosquitto.conf").read_text()
        (port,) = (int(line.split()[1]) for line in text.splitlines() if line[:9] == "listener ")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def _reload(self, unit: str) -> None:
        command = read_unit(unit.partition("@")[0])["ExecReload"]
        pid = str(self._children[unit].pid)
        subprocess.run(shlex.split(command.replace("$MAINPID", pid)), check=True)

    def _localize(self, text: str, instance: str) -> str:
        mosquitto = shutil.which("mosquitto") or "mosquitto"
        text = text.replace("%i", instance).replace(STATE, str(self._root))
        text = text.replace(BIN, f"{Path(sys.executable).parent}/")
        return text.replace("/usr/sbin/mosquitto", mosquitto)
