"""What an environment takes on disk, and a process with its children in memory."""

import contextlib
import os
import socket
import subprocess
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

POLL_S = 0.02
MB = 1e6


@dataclass(kw_only=True)
class Side:
    """One row of the table."""

    name: str
    installed_mb: float
    """Of the environment on disk, without the Python that it was made with."""
    peak_mb: float
    """Largest sum of the peak resident sizes (VmHWM) of the processes that lived at one time."""
    proportional_mb: float
    """Largest sum of their proportional sizes (Pss): shared pages are counted once."""
    rounds: int
    processes: list[str]
    note: str = ""

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def disk_mb(folder: Path) -> float:
    """Blocks of all files, each once."""
    seen, blocks = set(), 0
    for path in (folder, *folder.rglob("*")):
        status = path.lstat()
        if (status.st_dev, status.st_ino) not in seen:
            seen.add((status.st_dev, status.st_ino))
            blocks += status.st_blocks
    return blocks * 512 / MB


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(condition, *, what: str, timeout_s: float, child: "subprocess.Popen | None" = None):
    """Until `condition` is true; an exit of `child` or the end of the time is an error."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        if child is not None and child.poll() is not None:
            raise SystemExit(f"{what}: the process ended with {child.returncode}")
        if time.monotonic() > end_s:
            raise SystemExit(f"{what}: nothing within {timeout_s:.0f} s")
        time.sleep(POLL_S)


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextlib.contextmanager
def running(command: list[str], log: Path, **options):
    """A child process that is ended with the block; what it says goes to `log`."""
    with log.open("wb") as output:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **options)
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@dataclass
class Watch:
    """Looks at a process and all its descendants until it is stopped."""

    pid: int
    peak_bytes: int = 0
    proportional_bytes: int = 0
    names: set[str] = field(default_factory=set)

    def __enter__(self) -> "Watch":
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _run(self) -> None:
        while not self._stop.wait(POLL_S):
            self._look()

    def _look(self) -> None:
        peak = proportional = 0
        for pid in descendants(self.pid):
            with contextlib.suppress(OSError):
                peak += _kilobytes(Path(f"/proc/{pid}/status"), "VmHWM:") * 1024
                proportional += _kilobytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") * 1024
                words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
                name = words[1] if len(words) > 1 and "python" in words[0] else words[0]
                if name.startswith("/"):
                    self.names.add(os.path.basename(name))
        self.peak_bytes = max(self.peak_bytes, peak)
        self.proportional_bytes = max(self.proportional_bytes, proportional)


def descendants(pid: int) -> list[int]:
    """`pid` and every living process that it or its children started."""
    found = [pid]
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += descendants(int(child))
    return found


def _kilobytes(path: Path, key: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1])
    return 0
