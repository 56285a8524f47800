"""The demo on a terminal: a live table, then a summary; plain lines where there is no terminal."""

from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from headwater_firmware_sim.demo.options import DemoOptions
from headwater_firmware_sim.demo.report import DemoReport, RoundReport

ROWS_SHOWN: int = 8


HEAD: Final = f"{'shard':<8}{'round':>5}{'accuracy':>9}{'accepted':>9}{'s':>5}  rejected"
"""Over the rounds where there is no terminal to draw on."""


class TerminalView:
    """A context manager around a run."""

    def __init__(self, console: Console, options: DemoOptions) -> None:
        self._console = console
        self._options = options
        self._progress = Progress(
            TextColumn("rounds"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._task = self._progress.add_task("", total=options.rounds * options.shards)
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._num_said = 0

    def __enter__(self) -> "TerminalView":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def say(self, line: str) -> None:
        """One line for people."""
        self._console.print(line)

    def update(self, report: DemoReport) -> None:
        """Show where the run is."""
        self._progress.update(self._task, completed=len(report.rounds))
        if self._console.is_terminal:
            self._live.update(self._render(report))
            return
        if report.rounds and not self._num_said:
            self._console.print(HEAD, highlight=False)
        for entry in report.rounds[self._num_said :]:
            # A line with every reason there is may be longer; it is not cut into two.
            self._console.print(_line(entry), highlight=False, soft_wrap=True)
        self._num_said = len(report.rounds)

    def _render(self, report: DemoReport) -> RenderableType:
        table = Table(expand=True, pad_edge=False)
        for name in ("shard", "round", "accuracy", "accepted", "rejected", "kB up", "ms"):
            table.add_column(name, justify="left" if name in {"shard", "rejected"} else "right")
        for entry in report.rounds[-ROWS_SHOWN:]:
            table.add_row(
                entry.shard,
                str(entry.round),
                f"{entry.accuracy:.3f}",
                str(entry.accepted),
                _reasons(entry),
                f"{entry.bytes_up / 1_000:.1f}",
                str(entry.wall_ms),
            )
        settled = "  ".join(f"{shard} {report.checkpoints[shard]}" for shard in report.shards)
        state = Text.assemble(
            ("checkpoints  ", "dim"),
            settled,
            ("   main chain  ", "dim"),
            f"height {report.heights.get('main', 0)}, merges {report.merges}",  # type: ignore[call-overload]
            ("   global accuracy  ", "dim"),
            f"{report.accuracy:.3f}",
        )
        return Group(table, state, self._progress)


def print_summary(console: Console, options: DemoOptions, report: DemoReport) -> None:
    """The end of a run, 80 columns wide."""
    table = Table(show_header=False, pad_edge=False, box=None)
    table.add_column(style="dim")
    table.add_column()
    judged_bad = report.judged[(True, True)] + report.judged[(True, False)]
    judged_good = report.judged[(False, True)] + report.judged[(False, False)]
    rows = (
        ("accuracy", f"{report.accuracy:.3f} on held-out digits, merged model"),
        ("model", "none" if report.model is None else report.model.hex()),
        (
            "sign-flipped",
            f"{report.judged[(True, False)]} of {judged_bad} updates refused "
            f"({report.share_refused(attackers=True):.1%})",
        ),
        (
            "honest",
            f"{report.judged[(False, False)]} of {judged_good} updates refused "
            f"({report.share_refused(attackers=False):.1%})",
        ),
        ("rounds missed", f"{report.absences} times a device was off the net"),
        (
            "checkpoints",
            ", ".join(f"{shard}: {report.checkpoints[shard]}" for shard in report.shards),
        ),
        (
            "heights",
            ", ".join(f"{chain}: {height}" for chain, height in sorted(report.heights.items())),
        ),
        ("audit", report.audit),
        ("ledgers", str(options.out)),
        ("check them", f"headwater-shard audit {options.out}"),
    )
    for name, value in rows:
        table.add_row(name, value)
    console.print(table)


def _reasons(entry: RoundReport) -> str:
    return " ".join(f"{reason} {entry.rejected[reason]}" for reason in sorted(entry.rejected))


def _line(entry: RoundReport) -> str:
    """A row under `HEAD`."""
    row = (
        f"{entry.shard:<8}{entry.round:>5}{entry.accuracy:>9.3f}{entry.accepted:>9}"
        f"{entry.wall_ms / 1_000:>5.1f}  {_reasons(entry)}"
    )
    return row.rstrip()
