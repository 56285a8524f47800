"""What a machine lacks is skipped with a reason, or fails where it is required.

`HEADWATER_REQUIRE=broker,crash,...` names the markers that may not be skipped; CI sets it.
"""

import importlib.util
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.browser import find_chromium

ROOT = Path(__file__).parent.parent

settings.register_profile(
    "default", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("default")


def why_missing(marker: str) -> str | None:
    if marker == "broker" and shutil.which("mosquitto") is None:
        return "needs Mosquitto: apt-get install mosquitto"
    if marker == "export" and not (ROOT / ".venv-export/bin/headwater-model").is_file():
        return "needs TensorFlow in .venv-export: make programs"
    if marker == "browser" and find_chromium() is None:
        return "needs Chromium: apt-get install chromium"
    if marker == "ray" and importlib.util.find_spec("ray") is None:
        return "needs Ray: pip install -e '.[ray]'"
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    required = set(filter(None, os.environ.get("HEADWATER_REQUIRE", "").split(",")))
    for mark in item.iter_markers():
        reason = why_missing(mark.name)
        if reason is not None:
            if mark.name in required:
                pytest.fail(f"{mark.name} is required here, but {reason}")
            pytest.skip(reason)
