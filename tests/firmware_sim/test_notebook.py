"""The researcher's face: a light import, tables that a data frame takes, checked changes."""

import subprocess
import sys

import pytest

import headwater_firmware_sim as hs
from headwater_firmware_sim.cli import main
from headwater_protocol.errors import ConfigError

SCENARIO = """
name = "small"
devices = 6
rounds = 1
[network]
shards = 1
"""


@pytest.fixture(scope="module")
def scenario(tmp_path_factory):
    path = tmp_path_factory.mktemp("scenario") / "small.toml"
    path.write_text(SCENARIO)
    return path


@pytest.fixture(scope="module")
def run(scenario):
    return hs.run(scenario, seed=5)


def test_the_import_loads_nothing_heavy():
    code = (
        "import sys, headwater_firmware_sim as hs; assert hs.__all__; "
        "print(sorted({'numpy', 'typer', 'rich', 'cbor2', 'sklearn'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_tables_are_flat_rows_with_the_same_keys(run):
    for rows in (run.rounds, run.devices, run.device_rounds, run.globals, run.checkpoints):
        assert rows
        assert len({tuple(row) for row in rows}) == 1
        for row in rows:
            assert {type(cell) for cell in row.values()} <= {bool, int, float, str, type(None)}
    assert len(run.devices) == 6
    assert run.summary["rounds"] == len(run.rounds) == 1
    assert run.result.seed == 5
    assert "seed=5" in repr(run)


@pytest.mark.study
def test_a_data_frame_takes_the_tables(run):
    import pandas

    frame = pandas.DataFrame(run.rounds)
    assert frame["accuracy"].dtype == float
    assert len(frame) == 1


def test_a_run_is_the_same_again_and_after_the_disk(run, scenario, tmp_path):
    again = hs.run(scenario, changes={"seed": 5})
    assert again.report() == run.report()
    run.save(tmp_path / "run")
    assert hs.load(tmp_path / "run").result == run.result
    assert run.report(tmp_path / "page.html") == (tmp_path / "page.html").read_text()


def test_changes_reach_the_scenario_and_wrong_ones_are_named(run, scenario):
    smaller = hs.run(scenario, seed=5, changes={"task.bits": 4})
    assert smaller.summary["bytes_up"] < run.summary["bytes_up"]
    with pytest.raises(ConfigError, match=r"task\.bitz: is no key; write bits"):
        hs.run(scenario, changes={"task.bitz": 4})
    with pytest.raises(ConfigError, match="changes"):
        hs.run(scenario, changes={"seed": object()})
    with pytest.raises(ConfigError, match="none"):
        hs.run(scenario.parent / "none.toml")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="frob"):
        _ = hs.frob


def test_the_command_sweeps_a_grid_and_goes_on(scenario, tmp_path, capsys):
    grid = scenario.parent / "grid.toml"
    grid.write_text('scenario = "small.toml"\n[grid]\nseed = [5]\ntask.bits = [4, 8]\n')
    command = ["sweep", str(grid), "--out", str(tmp_path / "out"), "--workers", "2"]
    assert main(command) == 0
    assert "2 points run, 0 kept" in capsys.readouterr().out
    assert main(command) == 0
    assert "0 points run, 2 kept" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [(["--workers", "0"], "workers"), (["--ray", "nowhere"], "--ray")],
)
def test_a_wrong_option_is_one_line(arguments, problem, scenario, tmp_path, capsys):
    grid = scenario.parent / "grid.toml"
    grid.write_text('scenario = "small.toml"\n[grid]\nseed = [5]\n')
    assert main(["sweep", str(grid), "--out", str(tmp_path / "out"), *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert problem in lines[0]
