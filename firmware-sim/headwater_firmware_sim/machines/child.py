"""One process of the network: started, killed, paused, started again, its output in a file."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

STOP_S: Final = 20.0


class Child:
    """A process with a name; it is started as often as one likes."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare; `start` runs it.

        Args:
            name: For people.
            command: Program and arguments.
            log: What it prints is added there.
            environment: Beside this process's own.
        """
        self.name = name
        self.log = log
        self._command = list(command)
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """None while it does not run."""
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    @property
    def code(self) -> int | None:
        """Its last exit code; None while it runs, and before the first start."""
        return None if self._process is None else self._process.poll()

    def start(self, command: Sequence[str] | None = None) -> None:
        """Run it, or `command` in its place this once."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                list(command or self._command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self._send(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def pause(self) -> None:
        """SIGSTOP."""
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._send(signal.SIGCONT)

    def stop(self) -> int | None:
        """SIGTERM, after a while SIGKILL; the exit code."""
        self.ask_to_stop()
        return self.wait()

    def ask_to_stop(self) -> None:
        """SIGTERM, without waiting."""
        self._send(signal.SIGTERM)

    def wait(self, timeout_s: float = STOP_S) -> int | None:
        """Until it ended; it is killed when that takes too long. The exit code."""
        if self._process is None:
            return None
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.returncode

    def children(self) -> list[int]:
        """The processes that it started itself and that run."""
        pid = self.pid
        if pid is None:
            return []
        found: list[int] = []
        for task in Path(f"/proc/{pid}/task").iterdir():
            try:
                found += [int(text) for text in (task / "children").read_text().split()]
            except OSError:
                continue  # The thread has ended.
        return sorted(found)

    def read_log(self) -> str:
        """What it printed so far."""
        return self.log.read_text(errors="replace") if self.log.is_file() else ""

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
