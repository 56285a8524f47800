"""What a machine lacks is skipped with a reason, or fails where it is required.

`HEADWATER_REQUIRE=broker,crash,...` names the markers that may not be skipped; CI sets it.
"""

import functools
import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from headwater_firmware_sim.machines.hosts import why_no_namespaces
from headwater_protocol.errors import ConfigError
from headwater_shard.engine.cometbft.shell.node import INSTALL, find_binary
from tests.arm.machine import why_not as why_no_pi
from tests.support.browser import find_chromium

ROOT = Path(__file__).parent.parent

OTHER_PYTHON = ROOT / ".venv-other/bin/python"
STUDY_MODULES = ("ray", "pyarrow", "pandas")

settings.register_profile(
    "default", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("default")


def has_cometbft() -> bool:
    try:
        find_binary()
    except ConfigError:
        return False
    return True


@functools.cache
def why_no_small_disk() -> str | None:
    if os.geteuid() != 0:
        return "mounting a small disk needs root"
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            return "this machine mounts nothing"
        subprocess.run(["umount", folder], check=True)
    return None


def why_missing(marker: str) -> str | None:
    if marker == "broker" and shutil.which("mosquitto") is None:
        return "needs Mosquitto: apt-get install mosquitto"
    if marker == "export" and not (ROOT / ".venv-export/bin/headwater-model").is_file():
        return "needs TensorFlow in .venv-export: make programs"
    if marker == "browser" and find_chromium() is None:
        return "needs Chromium: apt-get install chromium"
    for program, package in (("openssl", "openssl"), ("systemd-analyze", "systemd")):
        if marker == package and shutil.which(program) is None:
            return f"needs {program}: apt-get install {package}"
    if marker == "small_disk":
        return why_no_small_disk()
    if marker == "arm":
        return why_no_pi()
    if marker == "cometbft" and not has_cometbft():
        return f"needs CometBFT: {INSTALL}"
    if marker == "machines":
        if not has_cometbft():
            return f"needs CometBFT: {INSTALL}"
        if shutil.which("mosquitto") is None:
            return "needs Mosquitto: apt-get install mosquitto"
        return why_no_namespaces()
    if marker == "pythons" and not OTHER_PYTHON.is_file():
        return "needs Python 3.12 or 3.13 in .venv-other: make other-python"
    if marker == "study":
        missing = [name for name in STUDY_MODULES if importlib.util.find_spec(name) is None]
        return f"needs {', '.join(missing)}: make study" if missing else None
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    required = set(filter(None, os.environ.get("HEADWATER_REQUIRE", "").split(",")))
    for mark in item.iter_markers():
        reason = why_missing(mark.name)
        if reason is not None:
            if mark.name in required:
                pytest.fail(f"{mark.name} is required here, but {reason}")
            pytest.skip(reason)
