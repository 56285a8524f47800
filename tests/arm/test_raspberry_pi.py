"""The whole walk, and what is left when its driver is killed in the middle of it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.arm.machine import FOLDER, ROOT, Machine, Namespace

WALK_TIMEOUT_S = 3_600
NAMED_IN = "headwater-arm-test-sleeper"

pytestmark = pytest.mark.arm


def processes_named(word: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word in path.read_text() and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_the_page_leads_to_a_round_with_the_pi_in_it() -> None:
    child = subprocess.run(
        [sys.executable, "-m", "tests.arm", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WALK_TIMEOUT_S,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    figures = json.loads(child.stdout.splitlines()[-1])
    assert figures["machine"].startswith("aarch64, Debian GNU/Linux 12")
    assert figures["accepted"] >= 1
    assert re.search(r"\baccepted=2\b", figures["closed"])
    assert figures["environment_mb"] < 150
    assert not (FOLDER / "run").exists()


def test_sudo_works_for_pi_and_nobody_is_root_by_chance() -> None:
    with Machine() as machine:
        said = subprocess.run(
            machine.command("id -un; sudo id -un; uname -m; touch /etc/x || echo refused"),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert said.stdout.split() == ["pi", "root", "aarch64", "refused"]
    assert str(FOLDER) not in Path("/proc/mounts").read_text()


def test_a_killed_driver_leaves_no_process_and_no_mount(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys, time\nfrom pathlib import Path\n"
        "from tests.arm.machine import Namespace\n"
        "with Namespace(Path(sys.argv[1])) as namespace:\n"
        f"    subprocess.Popen(namespace.command('sh', '-c', 'sleep 600; : {NAMED_IN}'))\n"
        "    print('up', flush=True)\n    time.sleep(600)\n"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert driver.stdout is not None
    assert driver.stdout.readline() == "up\n"
    end_s = time.monotonic() + 20
    while not processes_named(f"sleep 600; : {NAMED_IN}\0"):
        assert time.monotonic() < end_s
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    while processes_named(f"sleep 600; : {NAMED_IN}\0"):
        assert time.monotonic() < end_s
        time.sleep(0.02)
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


def test_a_namespace_leaves_the_machine_unregistered(tmp_path: Path) -> None:
    before = sorted(Path("/proc/sys/fs/binfmt_misc").glob("*"))
    with Namespace(tmp_path) as namespace:
        said = subprocess.run(
            namespace.command("ls", "/proc/sys/fs/binfmt_misc"),
            capture_output=True,
            text=True,
            check=True,
        )
        assert "aarch64" in said.stdout or "arm64" in said.stdout
        assert sorted(Path("/proc/sys/fs/binfmt_misc").glob("*")) == before
    assert sorted(Path("/proc/sys/fs/binfmt_misc").glob("*")) == before
