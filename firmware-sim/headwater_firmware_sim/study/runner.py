"""Running one scenario on the virtual clock, as sweeps and notebooks do."""

from pathlib import Path

from headwater_firmware_sim.results import RunResult
from headwater_firmware_sim.scenario.model import Scenario
from headwater_firmware_sim.stage import make_stage
from headwater_firmware_sim.virtual.run import VirtualRun


def run_virtual(scenario: Scenario, folder: Path) -> RunResult:
    """Run `scenario` in memory; paths in it are relative to `folder`.

    Raises:
        ConfigError: If its program or its data cannot be used.
    """
    run = VirtualRun(make_stage(scenario, folder=folder))
    run.run()
    return run.result()
