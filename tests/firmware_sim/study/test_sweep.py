"""A sweep runs what is missing, on processes, and survives what happens to them."""

import csv
import fcntl
import multiprocessing
import os
import shutil
import signal
import time
from functools import partial

import pytest

from headwater_firmware_sim.output.folder import load_run
from headwater_firmware_sim.study.grid import load_grid
from headwater_firmware_sim.study.local import WorkerLost, run_on_processes
from headwater_firmware_sim.study.sweep import run_sweep
from headwater_firmware_sim.study.work import compute_point
from headwater_protocol.errors import ConfigError
from tests.support import fake_runner


class View:
    def __init__(self):
        self.started = None
        self.done = []

    def start(self, *, total, finished):
        self.started = (total, finished)

    def point_done(self, point, failure):
        self.done.append((point.label, failure))


def here(runner):
    """Runs points in this process."""

    def execute(points):
        for point in points:
            yield compute_point(point, runner)

    return execute


def count_runs(tmp_path):
    return len(list(tmp_path.glob("ran-*")))


def read_summary(out):
    with (out / "summary.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_each_point_has_a_folder_and_a_row(grid_file, tmp_path):
    out, view = tmp_path / "out", View()
    report = run_sweep(load_grid(grid_file), out, here(fake_runner.run_fake), view)
    assert (report.num_run, report.num_kept, report.failures) == (4, 0, {})
    assert view.started == (4, 0)
    rows = read_summary(out)
    assert [row["seed"] for row in rows] == ["1", "2", "3", "4"]
    for row in rows:
        run = load_run(out / "points" / row["point"])
        assert run.seed == int(row["seed"])
        assert float(row["accuracy"]) == run.final.accuracy


def test_finished_points_are_not_run_again(grid_file, tmp_path):
    out = tmp_path / "out"
    grid = load_grid(grid_file)
    run_sweep(grid, out, here(fake_runner.run_fake), View())
    before = (out / "summary.csv").read_bytes()
    # The runner fails if it is called twice for a seed.
    report = run_sweep(grid, out, here(fake_runner.run_fake), View())
    assert (report.num_run, report.num_kept) == (0, 4)
    assert (out / "summary.csv").read_bytes() == before


def test_a_point_that_was_half_written_is_run_again(grid_file, tmp_path):
    out = tmp_path / "out"
    grid = load_grid(grid_file)
    run_sweep(grid, out, here(fake_runner.run_fake), View())
    (out / "points" / grid.points[1].name / "point.json").unlink()
    (out / "points" / grid.points[2].name / "point.json").write_text('{"metr')
    shutil.rmtree(out / "points" / grid.points[3].name)
    for path in tmp_path.glob("ran-*"):
        path.unlink()
    report = run_sweep(grid, out, here(fake_runner.run_fake), View())
    assert (report.num_run, report.num_kept) == (3, 1)
    assert count_runs(tmp_path) == 3


def test_a_point_that_fails_is_told_and_the_others_go_on(grid_file, tmp_path):
    view = View()
    out = tmp_path / "out"
    report = run_sweep(load_grid(grid_file), out, here(fake_runner.fail_at_two), view)
    assert sorted(report.failures.values()) == [
        "ZeroDivisionError: a bug",
        "data.path: is gone; bring it back",
    ]
    rows = read_summary(out)
    assert [bool(row["failure"]) for row in rows] == [False, True, True, False]
    assert view.done[1] == ("seed=2", "data.path: is gone; bring it back")


def test_two_sweeps_do_not_share_a_folder(grid_file, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with (out / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another sweep writes"):
            run_sweep(load_grid(grid_file), out, here(fake_runner.run_fake), View())


def test_processes_give_the_same_table_as_one(grid_file, tmp_path):
    grid = load_grid(grid_file)
    run_sweep(grid, tmp_path / "one", here(fake_runner.run_fake), View())
    for path in tmp_path.glob("ran-*"):
        path.unlink()
    execute = partial(run_on_processes, runner=fake_runner.run_fake, workers=2)
    run_sweep(grid, tmp_path / "two", execute, View())
    assert read_summary(tmp_path / "one") == read_summary(tmp_path / "two")


def test_a_worker_that_is_killed_stops_the_sweep_and_keeps_what_is_finished(grid_file, tmp_path):
    grid = load_grid(grid_file)
    out = tmp_path / "out"
    execute = partial(run_on_processes, runner=fake_runner.die_at_two, workers=1)
    with pytest.raises(WorkerLost, match="finished points are kept"):
        run_sweep(grid, out, execute, View())
    assert [bool(row["accuracy"]) for row in read_summary(out)] == [True, False, False, False]
    report = run_sweep(grid, out, here(fake_runner.run_fake), View())
    assert (report.num_run, report.num_kept) == (3, 1)


def sweep_that_hangs(grid_file, out):
    execute = partial(run_on_processes, runner=fake_runner.hang_at_two, workers=1)
    run_sweep(load_grid(grid_file), out, execute, View())


def test_a_killed_sweep_takes_its_workers_along_and_goes_on_later(grid_file, tmp_path):
    out = tmp_path / "out"
    process = multiprocessing.get_context("spawn").Process(
        target=sweep_that_hangs, args=(grid_file, out)
    )
    process.start()
    worker = wait_for(lambda: next(iter(tmp_path.glob("hangs-*")), None))
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    number = int(worker.name.removeprefix("hangs-"))
    wait_for(lambda: not is_alive(number))
    report = run_sweep(load_grid(grid_file), out, here(fake_runner.run_fake), View())
    assert (report.num_run, report.num_kept) == (3, 1)


def is_alive(number):
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{number}/stat") as stream:
        return stream.read().rsplit(")", 1)[1].split()[0] != "Z"


def wait_for(check, *, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = check()
        if found:
            return found
        time.sleep(0.05)
    raise TimeoutError
