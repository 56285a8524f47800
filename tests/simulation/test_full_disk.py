"""A disk that fills while a run writes: one line with the fix, and nothing half-written."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

TEXT = 'name = "full"\ndevices = 12\nrounds = 2\n[network]\nshards = 1\n'
CALL = "import sys; from headwater_firmware_sim.cli import main; sys.exit(main())"
SPILL = f"import headwater_firmware_sim.virtual.run as run; run.LARGE_FLEET = 1; {CALL}"


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "full.toml"
    path.write_text(TEXT)
    return path


def simulate(
    scenario: Path, *arguments: str, file_bytes: int, code: str = CALL
) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

    return subprocess.run(
        [sys.executable, "-c", code, "run", str(scenario), *arguments],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )


def require_one_line(done: subprocess.CompletedProcess[str], problem: str) -> None:
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("INFO:")]
    assert line.startswith("headwater-sim: ")
    assert problem in line


@pytest.mark.parametrize("file_bytes", [0, 4_096, 20_000, 60_000])
def test_a_run_that_does_not_fit_leaves_nothing(
    scenario: Path, file_bytes: int, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = simulate(scenario, "--out", str(out), file_bytes=file_bytes)
    require_one_line(done, "free some space")
    assert list(tmp_path.iterdir()) == [scenario]
    # What was computed is still told.
    assert "main chain" in done.stdout


def test_an_earlier_run_stays_where_the_next_one_does_not_fit(
    scenario: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert simulate(scenario, "--out", str(out), file_bytes=1 << 30).returncode == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    done = simulate(scenario, "--seed", "9", "--out", str(out), file_bytes=60_000)
    require_one_line(done, "free some space")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert sorted(tmp_path.iterdir()) == [scenario, out]


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_standard_output_on_a_full_disk_is_one_line(scenario: Path, arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", CALL, "run", str(scenario), *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    require_one_line(done, "standard output: the disk is full")


def test_a_large_fleet_names_the_temporary_folder(scenario: Path, tmp_path: Path) -> None:
    done = simulate(scenario, file_bytes=30_000, code=SPILL)
    require_one_line(done, "TMPDIR: the temporary folder")
    assert list(tmp_path.iterdir()) == [scenario]
