"""What a worker of a sweep does: one point, in a process of its own, here or on another machine."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from headwater_firmware_sim.cluster import one_line
from headwater_firmware_sim.results import RunResult
from headwater_firmware_sim.scenario.model import Scenario
from headwater_firmware_sim.scenario.reader import parse_scenario
from headwater_firmware_sim.study.grid import Point
from headwater_protocol.errors import HeadwaterError

Runner = Callable[[Scenario, Path], RunResult]
"""Runs a scenario; paths in it are relative to the folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a point; one of the two is None."""

    point: str
    """Its name."""
    result: RunResult | None
    failure: str | None
    """One line."""


def compute_point(point: Point, runner: Runner) -> Outcome:
    """Run one point; an error is an outcome, so that the others go on."""
    folder = Path(point.folder)
    try:
        scenario = parse_scenario(point.scenario, file=point.file, folder=folder)
        return Outcome(point=point.name, result=runner(scenario, folder), failure=None)
    except HeadwaterError as error:
        return Outcome(point=point.name, result=None, failure=one_line(error))
    except Exception as error:
        # A point that runs into a bug must not cost the night's other thousand.
        name = type(error).__name__
        return Outcome(point=point.name, result=None, failure=f"{name}: {one_line(error)}")
