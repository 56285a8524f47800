"""`headwater-shard`: look after the ledgers of a data folder.

Exit code 0 says done, 1 says that something does not hold, 2 that the command cannot be carried out
as given.
"""

import json
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from headwater_protocol.crypto.signing import require_libsodium
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId
from headwater_shard.command_line import run_app

if TYPE_CHECKING:
    import typer
    from rich.progress import TaskID

    from headwater_shard.audit.failure import AuditFailure
    from headwater_shard.audit.network import NetworkAudit
    from headwater_shard.audit.report import AuditReport

PROGRAM = "headwater-shard"
PROGRESS_INTERVAL_S = 0.1
"""Between two drawings of the progress bars."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    return run_app(PROGRAM, _build_app, argv, extra="headwater[gateway]")


def _build_app() -> "typer.Typer":
    import rich  # noqa: F401  # missing together with typer, and sooner said
    import typer

    require_libsodium()
    app = typer.Typer(
        help="Look after the ledgers of a data folder.",
        add_completion=False,
        no_args_is_help=False,
        rich_markup_mode=None,
    )
    debug_option = typer.Option("--debug", help="Show tracebacks.")

    @app.callback()
    def set_options(context: typer.Context, debug: Annotated[bool, debug_option] = False) -> None:
        context.obj.debug = debug

    @app.command("audit")
    def audit(
        context: typer.Context,
        folder: Annotated[
            Path, typer.Argument(metavar="DIR", help="The data folder of a gateway.")
        ],
        chain: Annotated[
            str | None, typer.Option(metavar="NAME", help="Audit this chain alone.")
        ] = None,
        blobs: Annotated[
            list[Path] | None,
            typer.Option(
                metavar="DIR", help="Another gateway's data folder, for blobs that DIR lacks."
            ),
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
        debug: Annotated[bool, debug_option] = False,
    ) -> int:
        """Replay the ledgers offline and name the first thing that does not hold."""
        context.obj.debug = context.obj.debug or debug
        return _audit(
            folder,
            only=None if chain is None else ChainId(chain),
            others=tuple(blobs or ()),
            as_json=as_json,
            debug=context.obj.debug,
        )

    from headwater_shard.tools.cli import add_commands

    add_commands(app)
    return app


def _audit(
    folder: Path, *, only: ChainId | None, others: Sequence[Path], as_json: bool, debug: bool
) -> int:
    from headwater_shard.audit.failure import AuditFailure
    from headwater_shard.audit.folder import open_audit
    from headwater_shard.layout import DataFolder

    started_s = time.monotonic()
    report: AuditReport | None = None
    failure: AuditFailure | None = None
    try:
        with open_audit(
            DataFolder(folder), only=only, others=[DataFolder(path) for path in others]
        ) as run:
            try:
                _show_progress(run)
            finally:
                report = run.report
    except AuditFailure as error:
        failure = error
        if debug:
            traceback.print_exception(error)
    seconds = time.monotonic() - started_s
    if as_json:
        print(json.dumps(to_json(report, failure, seconds=seconds)))
    elif failure is not None:
        print(f"audit: failed: {failure}")
    elif report is not None:
        _print_report(report, seconds=seconds)
    return 0 if failure is None else 1


def _show_progress(run: "NetworkAudit") -> None:
    """Run the audit, with bars on stderr where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as ProgressBars

    with ProgressBars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as bars:
        tasks: dict[str, TaskID] = {}
        drawn_s = 0.0
        for progress in run.run():
            if bars.disable:
                continue
            now_s = time.monotonic()
            if progress.part not in tasks:
                tasks[progress.part] = bars.add_task(progress.part, total=progress.total)
            elif progress.done < progress.total and now_s - drawn_s < PROGRESS_INTERVAL_S:
                continue
            bars.update(tasks[progress.part], completed=progress.done)
            drawn_s = now_s


def to_json(
    report: "AuditReport | None", failure: "AuditFailure | None", *, seconds: float
) -> dict[str, object]:
    """What `--json` prints; after a failure the counts are of what held until then."""
    return {
        "ok": failure is None,
        "failure": None
        if failure is None
        else {
            "chain": failure.chain,
            "height": failure.height,
            "item": failure.item,
            "problem": failure.problem,
        },
        "network": None if report is None else report.network.hex(),
        "counts": {} if report is None else _count(report),
        "chains": [
            {
                "chain": entry.chain,
                "blocks": entry.blocks,
                "transactions": entry.transactions,
                "refused": entry.refused,
                "entries": entry.entries,
                "state_root": entry.state_root.hex(),
                "rounds": entry.rounds,
                "updates": entry.updates,
                "rewards": entry.rewards,
                "checkpoints": entry.checkpoints,
                "merges": entry.merges,
                "model": None if entry.model is None else entry.model.hex(),
            }
            for entry in (() if report is None else report.chains)
        ],
        "not_replayed": [] if report is None else list(report.absent),
        "model": None if report is None or report.model is None else report.model.hex(),
        "seconds": round(seconds, 3),
    }


def _count(report: "AuditReport") -> dict[str, int]:
    chains = report.chains
    return {
        "chains": len(chains),
        "blocks": sum(entry.blocks for entry in chains),
        "transactions": sum(entry.transactions for entry in chains),
        "signatures": report.signatures,
        "rounds": sum(entry.rounds for entry in chains),
        "updates": sum(entry.updates for entry in chains),
        "rewards": sum(entry.rewards for entry in chains),
        "checkpoints": sum(entry.checkpoints for entry in chains if entry.chain == MAIN_CHAIN),
        "checkpoints_compared": report.compared,
        "merges": sum(entry.merges for entry in chains if entry.chain == MAIN_CHAIN),
        "merges_adopted": sum(entry.merges for entry in chains if entry.chain != MAIN_CHAIN),
        "blobs": report.blobs,
    }


def _print_report(report: "AuditReport", *, seconds: float) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    names = ("blocks", "transactions", "rounds", "updates", "rewards", "checkpoints", "merges")
    table.add_column("chain", overflow="fold")
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    for entry in report.chains:
        table.add_row(entry.chain, *(f"{getattr(entry, name):,}" for name in names))
    console.print(table)
    counts = _count(report)
    console.print(
        f"signatures {counts['signatures']:,}, blobs {counts['blobs']:,}, checkpoints found on "
        f"their shards {counts['checkpoints_compared']:,} of {counts['checkpoints']:,}, "
        f"{seconds:.1f} s"
    )
    console.print(f"network {report.network.hex()}")
    if report.model is not None:
        console.print(f"model   {report.model.hex()}")
    if report.absent:
        console.print(f"not replayed: {', '.join(report.absent)}")
    console.print("audit: ok")
