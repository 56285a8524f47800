"""The same sweep on Ray."""

import sys

import pytest

from headwater_firmware_sim.study.grid import load_grid
from headwater_firmware_sim.study.on_ray import run_on_ray
from headwater_protocol.errors import ConfigError
from tests.conftest import ROOT
from tests.support import fake_runner


def test_a_missing_ray_is_one_line_with_the_package(grid_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    outcomes = run_on_ray(
        load_grid(grid_file).points, fake_runner.run_fake, address="local", workers=1
    )
    with pytest.raises(ConfigError, match=r'--ray: .*pip install "headwater\[sim,ray\]"'):
        list(outcomes)


@pytest.mark.study
def test_a_local_ray_runs_every_point_and_a_failure_is_an_outcome(grid_file, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    points = load_grid(grid_file).points
    outcomes = list(run_on_ray(points, fake_runner.fail_at_two, address="local", workers=2))
    by_point = {outcome.point: outcome for outcome in outcomes}
    assert set(by_point) == {point.name for point in points}
    results = [by_point[point.name].result for point in points]
    assert [result and result.seed for result in results] == [1, None, None, 4]
    assert by_point[points[1].name].failure == "data.path: is gone; bring it back"
    assert by_point[points[2].name].failure == "ZeroDivisionError: a bug"


@pytest.mark.study
@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere", "host:99999999"]
)
def test_a_cluster_that_is_not_there_is_one_line(grid_file, address):
    points = load_grid(grid_file).points
    with pytest.raises(ConfigError, match=f"--ray: {address}"):
        list(run_on_ray(points, fake_runner.run_fake, address=address, workers=1))
