"""`headwater-sim run`: a scenario, its progress, its folder."""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from headwater_firmware_sim.output.folder import REPORT_NAME, RESULT_NAME, save_run
from headwater_firmware_sim.output.result_json import write_result
from headwater_firmware_sim.output.standard import standard_output
from headwater_firmware_sim.output.whole import TEMPORARY_SUFFIX, explain
from headwater_firmware_sim.results import RunResult
from headwater_firmware_sim.scenario.reader import load_scenario
from headwater_firmware_sim.stage import make_stage
from headwater_firmware_sim.trainings.choice import TrainingChoice, open_trainings
from headwater_firmware_sim.trainings.recording import describe_runtime
from headwater_firmware_sim.virtual.folder import audit_run, write_ledgers
from headwater_firmware_sim.virtual.run import VirtualRun
from headwater_protocol.chain.round import RoundPhase
from headwater_protocol.errors import ConfigError, StorageError
from headwater_protocol.messages.announcement import round_key
from headwater_shard.layout import GENESIS_NAME
from headwater_shard.shardchain.records import ROUNDS, SHARD, SHARD_KEY

SHOW_EVERY_S: Final = 0.1

OnShare = Callable[[float, str], None]
"""Told which share of a run is done, and where it is."""


def run_file(
    path: Path,
    *,
    seed: int | None,
    out: Path | None,
    audits: bool,
    console: Console,
    as_json: bool,
    choice: TrainingChoice | None = None,
) -> RunResult:
    """Run a scenario on the virtual clock, print what came of it, and write its folder.

    Raises:
        ConfigError: If the scenario, its data or the folder cannot be used; nothing is written.
        NotRecorded: If trainings are replayed that were not recorded.
        TransportError: If a cluster is lost.
    """
    choice = choice or TrainingChoice()
    choice.require_consistent()
    scenario = load_scenario(path)
    if out is not None:
        require_free(out)
    stage = make_stage(scenario, folder=path.parent, seed=seed)
    with open_trainings(choice, stage.plan.network) as opened:
        run = VirtualRun(
            stage,
            keeps_payloads=audits or out is not None,
            trainings=opened.trainings,
        )
        _run(run, console)
    result = run.result(audit=audit_run(run) if audits else "not run")
    # Printed first: a disk that turns out to be full costs the folder, not the result.
    print_result(result, console=console, as_json=as_json)
    if opened.recorded_with is not None:
        console.print(f"trainings as recorded with {opened.recorded_with}", soft_wrap=True)
    if opened.agreement is not None:
        console.print(f"with {describe_runtime()}: {opened.agreement}", soft_wrap=True)
    if out is not None:
        save(run, result, out)
    return result


def _run(run: VirtualRun, console: Console) -> None:
    scenario = run.stage.scenario
    with show_progress(console, scenario.name) as show:
        shown_s = 0.0

        def on_progress(current: VirtualRun) -> None:
            nonlocal shown_s
            if time.monotonic() - shown_s >= SHOW_EVERY_S:
                shown_s = time.monotonic()
                show(compute_share(current), f"{current.elapsed_ms / 1_000:.0f} s simulated")

        try:
            run.run(on_progress=on_progress)
        except StorageError as error:
            raise ConfigError(
                "TMPDIR", str(error), fix="free space there, or name another folder in it"
            ) from error


def compute_share(run: VirtualRun) -> float:
    """How much of a run is done, 0 to 1: rounds closed, and updates of those that are open."""
    shards = run.stage.plan.genesis.shards
    done = 0.0
    for shard in shards:
        tip = run.tip(shard)
        record = None if tip is None else tip.state.get(SHARD, SHARD_KEY)
        if tip is None or record is None:
            continue
        round_ = tip.state.get(ROUNDS, round_key(record.last_round))
        if round_ is None:
            continue
        done += round_.number - 1
        is_closed = round_.phase is RoundPhase.CLOSED
        done += 1.0 if is_closed else 0.9 * round_.num_updates / max(1, round_.cohort_size)
    return min(1.0, done / (len(shards) * run.stage.scenario.total_rounds))


@contextmanager
def show_progress(console: Console, title: str) -> Iterator[OnShare]:
    """A bar with the time left, on a terminal."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[place]}"),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(title, total=1.0, place="")
        yield lambda share, place: progress.update(task, completed=share, place=place)


def print_result(result: RunResult, *, console: Console, as_json: bool) -> None:
    """Print a run as a table, or as `result.json`.

    Raises:
        ConfigError: If standard output is on a full disk.
    """
    with standard_output():
        if as_json:
            write_result(result, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        else:
            _print_tables(result, console)


def _print_tables(result: RunResult, console: Console) -> None:
    table = Table(title=f"{result.scenario}, seed {result.seed}")
    for name in ("shard", "round", "cohort", "updates", "accepted", "refused", "accuracy"):
        table.add_column(name, justify="left" if name == "shard" else "right")
    for row in result.rounds:
        accuracy = "" if row.accuracy is None else f"{row.accuracy:.3f}"
        refused = sum(row.rejected.values())
        table.add_row(
            row.shard,
            *(str(value) for value in (row.round, row.cohort, row.updates, row.accepted, refused)),
            accuracy,
        )
    console.print(table)
    final = result.final
    accuracy = "" if final.accuracy is None else f", accuracy {final.accuracy:.3f}"
    console.print(f"{final.merges} merges{accuracy}, audit {final.audit}")
    if not final.is_complete:
        console.print("the scenario ended before all rounds were settled")
    console.print(
        f"main chain {final.main_chain_height} blocks, digest {final.main_chain_digest}",
        soft_wrap=True,
    )
    console.print(
        f"{result.virtual_ms / 1_000:.1f} s simulated in {result.wall_ms / 1_000:.1f} s, "
        f"{result.peak_memory_bytes / 1e6:.0f} MB"
    )


def require_free(out: Path) -> None:
    """Check that a run may write there: a new or empty folder, or one of an earlier run.

    Raises:
        ConfigError: If it is something else.
    """
    try:
        if out.exists() and not out.is_dir():
            raise ConfigError("--out", f"{out} is a file", fix="name a folder")
        if out.is_dir() and any(out.iterdir()):
            # A live run and a point of a sweep keep no ledgers, the demo has no report.
            others = (GENESIS_NAME, REPORT_NAME)
            is_run = (out / RESULT_NAME).is_file() and any((out / one).is_file() for one in others)
            if not is_run:
                raise ConfigError(
                    "--out", f"{out} is not empty and no run's", fix="name another folder"
                )
        parent = out.absolute().parent
        while not parent.exists():
            parent = parent.parent
        try:
            tempfile.TemporaryFile(dir=parent).close()
        except OSError as error:
            raise ConfigError(
                "--out",
                f"{parent} cannot be written to: {error.strerror}",
                fix="name another folder",
            ) from error
    except OSError as error:
        raise explain(error) from error


def save(run: VirtualRun, result: RunResult, out: Path) -> None:
    """Write a run's folder, whole or not at all; an earlier run's goes.

    Raises:
        ConfigError: If the disk is full or refuses.
    """
    draft = out.absolute().with_name(out.name + TEMPORARY_SUFFIX)
    before = out.absolute().with_name(out.name + ".before")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        write_ledgers(run, draft)
        save_run(result, draft)
        if out.exists():
            shutil.rmtree(before, ignore_errors=True)
            out.replace(before)
        draft.replace(out)
        shutil.rmtree(before, ignore_errors=True)
    except OSError as error:
        raise explain(error) from error
    except StorageError as error:
        if isinstance(error.__cause__, OSError):
            raise explain(error.__cause__, path=out) from error
        raise ConfigError(str(out), str(error), fix="name another folder") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
