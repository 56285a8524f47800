"""`enroll --data`: what is typed is relative to the shell, what is written to the configuration."""

from pathlib import Path

import pytest

from headwater_agent.enrol.cli import place_data


def test_a_file_that_is_here_is_found_from_the_devices_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.npz").touch()
    assert place_data("own.npz", Path("device")) == str(tmp_path / "own.npz")
    assert place_data("own.npz", Path()) == "own.npz"
    assert place_data("own.npz", tmp_path) == "own.npz"


def test_what_is_not_here_is_taken_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert place_data("data", Path("device")) == "data"
    assert place_data("/srv/readings", Path("device")) == "/srv/readings"
