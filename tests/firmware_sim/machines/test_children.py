"""Processes of a network: kill, pause, start again; a clock that is wrong."""

import os
import signal
import sys
import time
from pathlib import Path

from headwater_firmware_sim.machines.child import Child
from headwater_firmware_sim.machines.shifted_clock import shift

PATIENCE_S = 20.0


def wait_for(log: Path, text: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not (log.exists() and text in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def make_child(tmp_path: Path, text: str) -> Child:
    return Child("child", [sys.executable, "-u", "-c", text], log=tmp_path / "log")


def test_a_child_is_killed_and_started_again(tmp_path: Path) -> None:
    child = make_child(tmp_path, "import time; print('up'); time.sleep(60)")
    assert (child.pid, child.code, child.stop()) == (None, None, None)
    for count in (1, 2):
        child.start()
        wait_for(child.log, "up\n" * count)
        assert child.pid is not None
        child.kill()
        assert (child.pid, child.code) == (None, -9)


def state_of(child: Child) -> str:
    return Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_child_that_is_frozen_can_be_stopped_after_it_goes_on(tmp_path: Path) -> None:
    child = make_child(tmp_path, "import time; print('up'); time.sleep(60)")
    child.start()
    wait_for(child.log, "up")
    child.pause()
    deadline = time.monotonic() + PATIENCE_S
    while state_of(child) not in {"T", "t"}:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.resume()
    assert child.stop() == -15


def test_children_of_a_child_are_found(tmp_path: Path) -> None:
    child = make_child(
        tmp_path,
        "import subprocess, sys\n"
        "inner = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print('started', inner.pid, flush=True)\n"
        "inner.wait()\n",
    )
    child.start()
    wait_for(child.log, "started")
    (inner,) = child.children()
    assert f"started {inner}" in child.read_log()
    child.kill()

    os.kill(inner, signal.SIGKILL)
    assert child.children() == []


def test_a_shifted_clock_is_ahead_by_what_was_asked_for() -> None:
    assert shift(lambda: 5, 2)() == 2_000_005
