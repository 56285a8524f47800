"""The same scenario and seed on two interpreters with two TFLite runtimes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import OTHER_PYTHON, ROOT

MAIN = "import sys; from headwater_firmware_sim.cli import main; sys.exit(main())"
SCENARIO = ROOT / "examples" / "scenarios" / "digits-sign-flip.toml"

pytestmark = pytest.mark.pythons


def simulate(python: Path, *arguments: str) -> tuple[dict[str, object], str]:
    done = subprocess.run(
        [str(python), "-c", MAIN, "run", str(SCENARIO), "--seed", "7", "--json", *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout), done.stderr


def test_recorded_trainings_give_the_same_ledgers_on_another_interpreter(tmp_path: Path) -> None:
    file = str(tmp_path / "trainings")
    recorded, _ = simulate(Path(sys.executable), "--record-training", file)
    replayed, said = simulate(OTHER_PYTHON, "--replay-training", file, "--check-training")
    assert replayed["final"] == recorded["final"]
    assert replayed["rounds"] == recorded["rounds"]
    # Which bits differ is the runtimes' affair; that it is told is ours.
    assert "trainings have the same bits" in said


def test_one_interpreter_agrees_with_itself(tmp_path: Path) -> None:
    file = str(tmp_path / "trainings")
    recorded, _ = simulate(OTHER_PYTHON, "--record-training", file)
    again, said = simulate(OTHER_PYTHON, "--replay-training", file, "--check-training")
    assert again["final"] == recorded["final"]
    assert "differ" not in said
