"""`headwater-sim compare` and `headwater-sim sweep`."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from headwater_firmware_sim.output.tables import Cell
    from headwater_firmware_sim.results import RunResult
    from headwater_firmware_sim.study.compare import Comparison, Difference
    from headwater_firmware_sim.study.sweep import SweepReport


SHOWN: Final = {
    "accuracy": "accuracy",
    "participation": "took part",
    "attackers_refused": "caught",
    "honest_refused": "honest refused",
    "gini": "gini",
}
"""What a sweep's table on the terminal shows of its summary, and what it calls that."""


def add_study_commands(app: typer.Typer) -> None:
    """Add the commands of this folder."""
    app.command("compare")(_compare)
    app.command("sweep")(_sweep)


def _compare(
    *,
    a: Annotated[Path, typer.Argument(metavar="A", help="Folder of a run.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Folder of another one.")],
    html: Annotated[Path | None, typer.Option(help="Write both curves into this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Say what differs between two runs."""
    from headwater_firmware_sim.output.folder import load_run
    from headwater_firmware_sim.output.whole import write_whole
    from headwater_firmware_sim.study.compare import compare_runs

    runs = (load_run(a), load_run(b))
    comparison = compare_runs(*runs)
    if html is not None:
        write_whole({html: _render(runs, comparison, (_name(a), _name(b))).encode()})
    if as_json:
        print(json.dumps(comparison.to_json()))
    else:
        _print_comparison(comparison, (_name(a), _name(b)))
    return 0


def _sweep(
    *,
    grid: Annotated[Path, typer.Argument(metavar="GRID", help="TOML with scenario and [grid].")],
    out: Annotated[Path, typer.Option(help="Folder; finished points in it are kept.")] = Path(
        "headwater-sweep"
    ),
    workers: Annotated[
        int | None, typer.Option(min=1, max=256, help="Processes; all cores if left out.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Run on Ray: local, auto, HOST:6379, ray://HOST:PORT."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> int:
    """Run a scenario over a grid; started again, it goes on where it was."""
    from functools import partial

    from rich.console import Console

    from headwater_firmware_sim.study.grid import load_grid
    from headwater_firmware_sim.study.local import run_on_processes
    from headwater_firmware_sim.study.on_ray import run_on_ray
    from headwater_firmware_sim.study.runner import run_virtual
    from headwater_firmware_sim.study.sweep import run_sweep
    from headwater_firmware_sim.study.view import SweepProgress

    plan = load_grid(grid)
    count = min(workers or os.cpu_count() or 1, len(plan.points))
    if ray is None:
        execute = partial(run_on_processes, runner=run_virtual, workers=count)
    else:
        execute = partial(run_on_ray, runner=run_virtual, address=ray, workers=count)
    with SweepProgress(Console(stderr=True)) as view:
        report = run_sweep(plan, out, execute, view)
    if as_json:
        rows = [dict(zip(report.columns, report.cells(row), strict=True)) for row in report.rows]
        print(json.dumps(rows))
    else:
        _print_sweep(report, out)
    return 1 if report.failures else 0


def _name(folder: Path) -> str:
    return folder.resolve().name


def _render(
    runs: "tuple[RunResult, RunResult]", comparison: "Comparison", names: tuple[str, str]
) -> str:
    from headwater_firmware_sim.report.chart import DataTable
    from headwater_firmware_sim.report.compare_report import render_comparison

    def tabulate(entries: "Sequence[Difference]") -> DataTable:
        return DataTable(
            columns=("name", "A", "B"),
            rows=tuple((entry.name, _say(entry.a), _say(entry.b)) for entry in entries),
            source="result.json",
        )

    return render_comparison(
        *runs,
        names=names,
        details=(
            ("Numbers", tabulate(comparison.metrics)),
            ("Counts that differ", tabulate(comparison.counts)),
            ("Scenario keys that differ", tabulate(comparison.config)),
        ),
    )


def _print_comparison(comparison: "Comparison", names: tuple[str, str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold")
    for name in (f"A {names[0]}", f"B {names[1]}", "B - A"):
        table.add_column(name, justify="right", overflow="fold")
    # The digests are the last line's.
    metrics = [entry for entry in comparison.differing if entry.name != "main_chain_digest"]
    for part in (comparison.config, metrics, comparison.counts):
        for entry in part:
            delta = "" if entry.delta is None else _say(entry.delta, sign="+")
            table.add_row(entry.name, _say(entry.a), _say(entry.b), delta)
        if part:
            table.add_section()
    if table.row_count:
        console.print(table)
    verdict = "the same block" if comparison.is_same_ledger else "different blocks"
    console.print(f"the main chains end in {verdict}")


def _print_sweep(report: "SweepReport", out: Path) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    titles = {key: key for key in report.keys} | {
        name: title for name, title in SHOWN.items() if name in report.columns
    }
    for title in titles.values():
        table.add_column(title, justify="right", overflow="fold")
    for row in report.rows:
        cells = dict(zip(report.columns, report.cells(row), strict=True))
        table.add_row(*(_say(cells[name]) for name in titles))
    console.print(table)
    failed = f", {len(report.failures):,} failed" if report.failures else ""
    console.print(
        f"{report.num_run:,} points run, {report.num_kept:,} kept{failed}; {out / 'summary.csv'}",
        soft_wrap=True,
    )


def _say(value: "Cell", *, sign: str = "") -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:{sign}.4g}"
    if isinstance(value, int):
        return f"{value:{sign},}"
    return value
