"""The table of `headwater-sim chaos`: one line a fault, as each is over."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from headwater_firmware_sim.machines.chaos import ChaosRow

COLUMNS = f"{'fault':<26}{'recovered':>11}{'sent':>7}{'receipts':>10}{'lost':>6}  result"


class ChaosTable:
    """Prints rows as they come."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._has_head = False

    def tell(self, row: ChaosRow) -> None:
        """One line, and one more for each thing that does not hold."""
        if not self._has_head:
            self._print(COLUMNS)
            self._has_head = True
        if row.skipped is not None:
            self._print(f"{row.text:<26}{'-':>11}{'-':>7}{'-':>10}{'-':>6}  {row.skipped}")
            return
        recovered = f"{row.seconds:.1f} s"
        verdict = "ok" if row.is_good else "FAILED"
        self._print(
            f"{row.text:<26}{recovered:>11}{row.sent:>7}{row.receipts:>10}{row.lost:>6}  {verdict}"
        )
        for problem in row.problems:
            self._print(f"    {problem}")

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)


def write_rows(rows: Sequence[ChaosRow], path: Path) -> None:
    """As JSON."""
    values = [{**asdict(row), "is_good": row.is_good} for row in rows]
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
