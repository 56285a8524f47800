"""What processes take, and how they are asked to end."""

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Final

STOP_TIMEOUT_S: Final = 20


def disk_mb(folder: Path) -> float:
    """Megabytes of its blocks, on its own file system and those below."""
    said = subprocess.run(
        ["du", "--summarize", "--block-size=1", str(folder)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return int(said.split()[0]) / 1e6


def find_descendants(pid: int) -> list[int]:
    """`pid` and the living processes that it and its children started."""
    found = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [
                one
                for child in children.read_text().split()
                for one in find_descendants(int(child))
            ]
        except OSError:
            continue
    return found


def read_peak_bytes(pid: int) -> int:
    """VmHWM; 0 once it is gone."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found.group(1)) * 1024 if found else 0


def stop(child: "subprocess.Popen[bytes]") -> None:
    """Ask the process to end as its operator would; the namespace's end takes what is left."""
    for pid in reversed(find_descendants(child.pid)):
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            continue
    try:
        child.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
