"""The installer's own errors; what it installs is tried where there is a package index."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "deploy/install-agent.sh"


def run_script(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["sh", str(SCRIPT), *arguments], capture_output=True, text=True, check=False, timeout=30
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--wheel", "/none.whl"], "/none.whl does not exist; name a .whl file"),
        (["--colour"], "unknown option --colour; see --help"),
        (["--prefix"], "--prefix has no value"),
        (["--prefix", "/proc/none"], "cannot be written; run it with sudo"),
    ],
)
def test_what_is_wrong_is_one_line_with_the_fix(arguments: list[str], words: str) -> None:
    done = run_script(*arguments)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 1
    assert words in lines[0]


def test_help_shows_the_ways_to_call_it() -> None:
    done = run_script("--help")
    assert done.returncode == 0
    assert "--wheel FILE.whl" in done.stdout
