"""A week without a network, then everybody at once: nothing is lost, and nothing doubled."""

import tempfile
from pathlib import Path

import pytest

from tests.support.week_figures import Figures
from tests.support.week_offline import find_memory, spend_week_offline

MAX_P99_MS = 1_000.0


def spend_week(folder: Path, *, devices: int, storm_s: float) -> Figures:
    with tempfile.TemporaryDirectory(dir=find_memory(devices) or folder) as files:
        return spend_week_offline(
            devices=devices, days=7, storm_s=storm_s, folder=folder / "gateway", files=Path(files)
        )


def require_nothing_lost(figures: Figures) -> None:
    assert figures.hours == 168
    assert 0 < figures.taken_before < figures.devices
    assert figures.receipts == figures.devices
    assert figures.lost_updates == figures.doubled_updates == 0
    assert figures.lost_readings == figures.doubled_readings == 0
    assert figures.second_round == figures.devices


@pytest.mark.broker
def test_a_few_devices_come_back_after_a_week(tmp_path: Path) -> None:
    require_nothing_lost(spend_week(tmp_path, devices=24, storm_s=2.0))


@pytest.mark.broker
@pytest.mark.crash
def test_a_thousand_devices_come_back_within_a_minute(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = spend_week(tmp_path, devices=1_000, storm_s=60.0)
    with capsys.disabled():
        print(f"\n{figures}")
    require_nothing_lost(figures)
    assert figures.storm_s < 61
    assert figures.p99_ms < MAX_P99_MS
