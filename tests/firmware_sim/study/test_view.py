"""Progress of a sweep where there is no terminal."""

import io
from itertools import count

from rich.console import Console

from headwater_firmware_sim.study.grid import load_grid
from headwater_firmware_sim.study.view import SweepProgress


def test_time_left_comes_from_the_points_that_were_run(grid_file):
    text = io.StringIO()
    ticks = count(0, 10)
    points = load_grid(grid_file).points
    with SweepProgress(Console(file=text), clock=lambda: float(next(ticks))) as view:
        view.start(total=4, finished=1)
        view.point_done(points[1], None)
        view.point_done(points[2], "data.path: is gone")
        view.point_done(points[3], None)
    assert text.getvalue().splitlines() == [
        "1 of 4 points were finished before",
        "2 of 4, about 20 s left: seed=2",
        "failed: seed=3: data.path: is gone",
        "3 of 4, about 10 s left: seed=3",
        "4 of 4, done: seed=4",
    ]
