"""Faults in real time: a real Mosquitto that is killed, a gateway that crashes, cut sockets."""

from pathlib import Path

import pytest
from rich.console import Console

from headwater_firmware_sim.cli import main
from headwater_firmware_sim.live.scenario import run_live_file
from headwater_firmware_sim.results import RunResult

HEAD = """
name = "live-faults"
devices = {devices}
rounds = 3
[network]
shards = 1
delegates = 2
[task]
collect_s = 12.0
[data]
examples = 8
"""
LOSSES = """
[[faults]]
kind = "gateway_crash"
at_s = 0.0
for_s = 2.0
[[faults]]
kind = "broker_loss"
at_s = 0.5
for_s = 2.5
"""
SMALL = """
[[faults]]
kind = "reboot"
rate = 300.0
[[faults]]
kind = "disconnect"
rate = 300.0
[[faults]]
kind = "duplicate"
rate = 0.5
[[faults]]
kind = "replay"
rate = 0.5
[[faults]]
kind = "reorder"
rate = 0.2
"""


def write(folder: Path, text: str, *, devices: int = 20) -> Path:
    path = folder / "live.toml"
    path.write_text(HEAD.format(devices=devices) + text)
    return path


def run_live(path: Path, broker: str | None) -> RunResult:
    return run_live_file(
        path, seed=None, out=None, broker_url=broker, console=Console(quiet=True), as_json=False
    )


@pytest.mark.broker
def test_a_fleet_survives_everything_at_once(tmp_path: Path) -> None:
    result = run_live(write(tmp_path, LOSSES + SMALL), "mosquitto")
    counts = result.counts
    assert result.final.is_complete
    assert all(row.accepted >= 18 for row in result.rounds)
    assert counts["gateway_crash"] == counts["broker_loss"] == 1
    assert counts["reboot"] > 0
    assert counts["disconnect"] > 0
    assert counts["messages_duplicate"] > 10
    assert counts["messages_replay"] > 10
    assert counts["messages_reorder"] > 0
    assert counts["boots"] > 20
    assert {row.kind for row in result.faults} == {
        *("gateway_crash", "broker_loss", "reboot", "disconnect"),
        *("duplicate", "replay", "reorder"),
    }
    # One update a device and round, however often it came.
    assert all(row.updates <= row.cohort for row in result.rounds)
    assert all(row.signed <= 3 for row in result.fleet)


def test_the_embedded_broker_comes_back_with_nothing_retained(tmp_path: Path) -> None:
    result = run_live(write(tmp_path, LOSSES, devices=4), None)
    assert result.final.is_complete
    assert sum(row.accepted for row in result.rounds) == 3 * 4
    assert result.counts["broker_loss"] == result.counts["gateway_crash"] == 1


@pytest.mark.broker
def test_a_hung_training_is_reset_and_done_again(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("headwater_firmware_sim.live.lean.HANG_S", 0.2)
    monkeypatch.setattr("headwater_firmware_sim.live.lean.RESET_S", 0.1)
    text = '[[faults]]\nkind = "watchdog"\nrate = 0.5\n'
    result = run_live(write(tmp_path, text), "mosquitto")
    assert result.counts["hangs"] > 5
    assert sum(row.boots for row in result.fleet) == 20 + result.counts["hangs"]
    assert sum(row.accepted for row in result.rounds) == 3 * 20


@pytest.mark.parametrize(
    ("text", "key", "problem"),
    [
        ('[[faults]]\nkind = "torn_write"\nrate = 0.1\n', "faults[1].kind", "flash is not"),
        ('[[faults]]\nkind = "loss"\nrate = 0.1\n', "faults[1].kind", "tc netem"),
        ('[[faults]]\nkind = "partition"\nat_s = 1\n', "faults[1].kind", "one gateway process"),
        (
            '[[faults]]\nkind = "broker_loss"\nat_s = 1\n',
            "faults[1].kind",
            "not this run's to stop",
        ),
        ("[[fleet]]\nloss = 0.1\n", "fleet[1].loss", "no model of it"),
        ("[[fleet]]\nbattery_j = 10.0\n", "fleet[1].battery_j", "no model of it"),
        ("[churn]\nabsent = 0.1\n", "churn.absent", "no effect in a live run"),
        ("[delegates]\nbyzantine = 1\n", "delegates.byzantine", "no effect in a live run"),
    ],
)
def test_what_a_live_run_cannot_do_is_one_line_with_key_and_line(
    text: str, key: str, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, text)
    line = len(path.read_text().splitlines()) - (1 if "rate" in text or "at_s" in text else 0)
    assert main(["run", str(path), "--live", "--broker", "mqtt://127.0.0.1:1"]) == 2
    error = capsys.readouterr().err
    assert f"live.toml, line {line}: {key}: " in error
    assert problem in error
    assert error.count("\n") == 1
    # The same scenario is one for the virtual clock.
    if "broker_loss" in text:
        assert main(["run", str(path)]) == 0


def test_connections_break_on_the_virtual_clock_too(tmp_path: Path) -> None:
    from headwater_firmware_sim.notebook import run

    result = run(write(tmp_path, '[[faults]]\nkind = "disconnect"\nrate = 20000.0\n')).result
    assert result.counts["disconnect"] > 0
    assert result.counts["connections"] > 20
    # Hundreds of connections break; over seeds 54 to 58 updates come through in their time.
    assert sum(row.accepted for row in result.rounds) >= 3 * 20 - 6


def test_a_live_run_has_no_audit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(write(tmp_path, "")), "--live", "--audit"]) == 2
    assert "--audit: " in capsys.readouterr().err
