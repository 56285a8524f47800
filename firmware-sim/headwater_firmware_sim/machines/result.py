"""What a run of a network of processes comes to: `result.json` and a table."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRow:
    """One closed round."""

    shard: str
    round: int
    cohort: int
    updates: int
    accepted: int
    seconds: float
    """From its opening to its end, in block time."""
    accuracy: float | None
    """Of its model on digits that nobody trained on; None where no gateway has the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainRow:
    """One chain over all gateways."""

    chain: str
    height: int
    """Of the last header that all gateways have."""
    app_hashes_equal: int
    """Heights at which all gateways have the same application hash."""
    gateways: int
    """That were compared."""
    disagreement: str | None
    """The first height at which two differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterResult:
    """One run."""

    network: str
    hosts: str
    """`namespaces` or `loopback`."""
    gateways: int
    brokers: int
    devices: int
    processes: int
    rounds: tuple[RoundRow, ...]
    chains: tuple[ChainRow, ...]
    app_hashes: Mapping[str, Mapping[int, str]]
    """By chain and height, where all gateways agree."""
    checkpoints: Mapping[str, int]
    """On the main chain, by shard."""
    merges: int
    updates_sent: int
    receipts: int
    lost: int
    """Updates with a receipt that are on no ledger."""
    jailed: int
    """Validators that were punished."""
    audit: str
    """`ok`, or what does not hold."""
    seconds: float

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost, nobody disagrees and the audit holds."""
        return (
            self.audit == "ok"
            and self.lost == 0
            and self.jailed == 0
            and all(row.disagreement is None for row in self.chains)
        )

    def write(self, path: Path) -> None:
        """As JSON."""
        values = {
            **asdict(self),
            "final": {"audit": self.audit, "accuracy": self.accuracy, "is_good": self.is_good},
        }
        path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

    @property
    def accuracy(self) -> float | None:
        """Of the last round's model."""
        return self.rounds[-1].accuracy if self.rounds else None


def print_result(console: Console, result: ClusterResult) -> None:
    """Tables for people."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("shard", no_wrap=True)
    for name in ("round", "cohort", "updates", "accepted", "seconds", "accuracy"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in result.rounds:
        table.add_row(
            row.shard,
            str(row.round),
            str(row.cohort),
            str(row.updates),
            str(row.accepted),
            f"{row.seconds:.1f}",
            "-" if row.accuracy is None else f"{row.accuracy:.3f}",
        )
    console.print(table)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("chain", no_wrap=True)
    for name in ("blocks", "equal application hashes"):
        table.add_column(name, justify="right", no_wrap=True)
    for chain in result.chains:
        equal = f"{chain.app_hashes_equal} on all {chain.gateways}"
        table.add_row(chain.chain, str(chain.height), chain.disagreement or equal)
    console.print(table)
    settled = ", ".join(f"{shard}: {count}" for shard, count in result.checkpoints.items())
    for name, text in (
        ("processes", f"{result.processes} on {result.hosts}"),
        ("checkpoints", f"{settled}; {result.merges} merges"),
        ("updates", f"{result.updates_sent} sent, {result.receipts} receipts, {result.lost} lost"),
        ("audit", result.audit),
        ("seconds", f"{result.seconds:.0f}"),
    ):
        console.print(f"{name:<12} {text}", highlight=False)
