"""A command in a process of its own, and what the system says that it cost."""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LOOK_S: Final = 0.05
"""Between two looks at the memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one process with all children that it waited for."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    """Resident, of all processes together; what they share counts for each."""
    output: str


def run_child(command: list[str]) -> Cost:
    """Run a command to its end; what it says on stderr is shown only if it fails."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        began = time.monotonic()
        child = subprocess.Popen(command, stdout=out, stderr=errors)
        pid, peak_bytes = 0, 0
        while not pid:
            peak_bytes = max(peak_bytes, resident_bytes(child.pid))
            time.sleep(LOOK_S)
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        wall_s = time.monotonic() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            errors.seek(0)
            tail = errors.read()[-2_000:].decode(errors="replace")
            sys.exit(f"{' '.join(command)} failed with {child.returncode}:\n{tail}")
        out.seek(0)
        return Cost(
            wall_s=wall_s,
            cpu_s=usage.ru_utime + usage.ru_stime,
            peak_mb=max(peak_bytes, usage.ru_maxrss * 1_024) / 1e6,
            output=out.read().decode(),
        )


def resident_bytes(pid: int) -> int:
    """Of a process and all that it started; 0 once it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(resident_bytes(int(one)) for one in children)


def simulate(scenario: Path) -> Cost:
    """One run of `headwater-sim` with its result as JSON."""
    main = "import sys; from headwater_firmware_sim.cli import main; sys.exit(main())"
    return run_child([sys.executable, "-c", main, "run", str(scenario), "--json"])
