"""The same scenario on a real broker, with real sockets."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from headwater_firmware_sim.cli import main
from headwater_firmware_sim.live.scenario import run_live_file
from headwater_firmware_sim.results import RunResult
from headwater_gateway.shell.broker import find_free_port

EXAMPLE = Path(__file__).parents[2] / "examples" / "scenarios" / "live-2000.toml"


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[str]:
    port = find_free_port("127.0.0.1")
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    program = shutil.which("mosquitto")
    assert program is not None
    process = subprocess.Popen([program, "-c", str(config)], stderr=subprocess.DEVNULL)
    time.sleep(0.3)
    yield f"mqtt://127.0.0.1:{port}"
    process.terminate()
    process.wait(10)


def run_live(tmp_path: Path, url: str, *, devices: int) -> RunResult:
    path = tmp_path / "live.toml"
    text = EXAMPLE.read_text(encoding="utf-8")
    path.write_text(text.replace("devices = 2000", f"devices = {devices}"))
    return run_live_file(
        path, seed=None, out=None, broker_url=url, console=Console(quiet=True), as_json=False
    )


@pytest.mark.broker
def test_a_scenario_runs_on_a_real_broker(tmp_path: Path, mosquitto: str) -> None:
    result = run_live(tmp_path, mosquitto, devices=40)
    assert result.mode == "live"
    assert result.counts["connections"] == 40
    assert result.final.is_complete
    assert sum(row.accepted for row in result.rounds) == 3 * 40


@pytest.mark.broker
@pytest.mark.crash
def test_two_thousand_connections_complete_three_rounds(tmp_path: Path, mosquitto: str) -> None:
    result = run_live(tmp_path, mosquitto, devices=2_000)
    assert result.counts["connections"] == 2_000
    assert result.final.is_complete
    assert sum(row.accepted for row in result.rounds) > 0.9 * 6_000


def test_a_broker_that_is_not_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, out = f"mqtt://127.0.0.1:{find_free_port('127.0.0.1')}", tmp_path / "out"
    assert main(["run", str(EXAMPLE), "--live", "--broker", url, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert f"--broker: {url}: connection refused" in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_a_broker_without_live_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(EXAMPLE), "--broker", "mqtt://127.0.0.1:1"]) == 2
    assert "--broker" in capsys.readouterr().err
