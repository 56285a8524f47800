"""Runs in a notebook or a script: tables that a data frame takes, the report, the folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from headwater_firmware_sim.output.folder import load_run, save_run
from headwater_firmware_sim.output.tables import Cell, make_table
from headwater_firmware_sim.output.whole import write_whole
from headwater_firmware_sim.report.run_report import render_report
from headwater_firmware_sim.results import RunResult
from headwater_firmware_sim.scenario.reader import load_scenario
from headwater_firmware_sim.study.change import check_changed, put, read_toml
from headwater_firmware_sim.study.metrics import summarise
from headwater_firmware_sim.study.runner import run_virtual

Rows = list[dict[str, Cell]]
"""Flat rows with the same keys; `pandas.DataFrame(rows)` takes them as they are."""


@dataclass(frozen=True, slots=True, repr=False)
class Run:
    """A run that is over."""

    result: RunResult
    """Everything, typed."""

    def __repr__(self) -> str:
        result = self.result
        return (
            f"<Run {result.scenario} seed={result.seed} devices={result.devices} "
            f"rounds={len(result.rounds)} accuracy={result.final.accuracy}>"
        )

    @property
    def rounds(self) -> Rows:
        """A row for each round of each shard."""
        return self._rows("rounds")

    @property
    def devices(self) -> Rows:
        """A row for each device."""
        return self._rows("devices")

    @property
    def device_rounds(self) -> Rows:
        """A row for each device of each round; empty with `output.device_rounds = false`."""
        return self._rows("device_rounds")

    @property
    def globals(self) -> Rows:
        """A row for each merged model."""
        return self._rows("globals")

    @property
    def checkpoints(self) -> Rows:
        """A row for each settled checkpoint."""
        return self._rows("checkpoints")

    @property
    def elections(self) -> Rows:
        """A row for each epoch."""
        return self._rows("elections")

    @property
    def seats(self) -> Rows:
        """A row for each delegate of each epoch."""
        return self._rows("seats")

    @property
    def penalties(self) -> Rows:
        """A row for each offence of a delegate that was punished."""
        return self._rows("penalties")

    @property
    def faults(self) -> Rows:
        """A row for each thing that the scenario broke."""
        return self._rows("faults")

    @property
    def summary(self) -> dict[str, Cell]:
        """The run in one row."""
        return summarise(self.result)

    def report(self, path: str | Path | None = None) -> str:
        """The report as HTML text; also into a file where `path` names one."""
        text = render_report(self.result)
        if path is not None:
            write_whole({Path(path): text.encode()})
        return text

    def save(self, folder: str | Path) -> None:
        """Write the folder of the run, as `headwater-sim run --out` does."""
        save_run(self.result, Path(folder))

    def _rows(self, name: str) -> Rows:
        return make_table(self.result, name).to_dicts()


def run(
    scenario: str | Path, *, seed: int | None = None, changes: Mapping[str, object] | None = None
) -> Run:
    """Run a scenario on the virtual clock.

    Args:
        scenario: A TOML file.
        seed: In place of the scenario's.
        changes: Values for keys of the scenario, such as `{"task.bits": 4, "fleet.0.loss": 0.1}`.

    Raises:
        ConfigError: If the scenario or a change cannot be used; it names the key and the fix.
    """
    path = Path(scenario)
    checked = load_scenario(path)
    wanted = dict(changes or {}) if seed is None else {**(changes or {}), "seed": seed}
    if wanted:
        table = read_toml(path)
        for key, value in wanted.items():
            put(table, key, value, where=f"changes: {key}")
        _, checked = check_changed(table, file=f"{path} with changes", folder=path.parent)
    return Run(run_virtual(checked, path.parent))


def load(folder: str | Path) -> Run:
    """A run that was written to a folder before.

    Raises:
        ConfigError: If the folder holds no run.
    """
    return Run(load_run(Path(folder)))
