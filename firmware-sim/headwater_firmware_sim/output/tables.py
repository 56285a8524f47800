"""The rows of a run as flat tables, for CSV, Parquet and data frames.

One table for each kind of row. A mapping in a row becomes columns of its own: `rejected` becomes
`rejected`, the total, and `rejected_low_score` and so on, one for each reason that the run had.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import IO, Final, get_type_hints

from headwater_firmware_sim.results import (
    CheckpointRow,
    DeviceRoundRow,
    DeviceRow,
    ElectionRow,
    FaultRow,
    GlobalRow,
    PenaltyRow,
    RoundRow,
    RunResult,
    SeatRow,
)

Cell = bool | int | float | str | None
Row = (
    RoundRow
    | DeviceRoundRow
    | DeviceRow
    | GlobalRow
    | CheckpointRow
    | ElectionRow
    | SeatRow
    | PenaltyRow
    | FaultRow
)

TABLES: Final[Mapping[str, type[Row]]] = {
    "rounds": RoundRow,
    "devices": DeviceRow,
    "device_rounds": DeviceRoundRow,
    "globals": GlobalRow,
    "checkpoints": CheckpointRow,
    "elections": ElectionRow,
    "seats": SeatRow,
    "penalties": PenaltyRow,
    "faults": FaultRow,
}
"""The tables of a run by name, as files and attributes are called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a table."""

    name: str
    type: type[bool] | type[int] | type[float] | type[str]
    """Of its cells; any of them may be None."""


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows; cells are made when they are asked for."""

    columns: tuple[Column, ...]
    rows: Sequence[Row]
    reasons: tuple[str, ...]
    """Reasons of refusal that have a column, sorted."""

    def cells(self) -> Iterator[tuple[Cell, ...]]:
        """The rows, each in order of the columns."""
        names = [entry.name for entry in fields(self.rows[0])] if self.rows else []
        for row in self.rows:
            yield tuple(self._cells(row, names))

    def to_dicts(self) -> list[dict[str, Cell]]:
        """The rows as flat dicts; `pandas.DataFrame` takes them as they are."""
        names = [column.name for column in self.columns]
        return [dict(zip(names, cells, strict=True)) for cells in self.cells()]

    def write_csv(self, stream: IO[bytes]) -> None:
        """Write UTF-8 with a header, line feeds, and nothing for None."""
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(column.name for column in self.columns)
        writer.writerows(self.cells())
        # The stream is the caller's to close.
        text.detach()

    def _cells(self, row: Row, names: list[str]) -> Iterator[Cell]:
        for name in names:
            value = getattr(row, name)
            if isinstance(value, Mapping):
                yield sum(value.values())
                yield from (value.get(reason, 0) for reason in self.reasons)
            else:
                yield value


def make_table(result: RunResult, name: str) -> Table:
    """The table called `name` in `TABLES`."""
    kind = TABLES[name]
    rows: dict[str, Sequence[Row]] = {
        "rounds": result.rounds,
        "devices": result.fleet,
        "device_rounds": result.device_rounds,
        "globals": result.globals,
        "checkpoints": result.checkpoints,
        "elections": result.elections,
        "seats": result.seats,
        "penalties": result.penalties,
        "faults": result.faults,
    }
    reasons = tuple(sorted({reason for row in result.rounds for reason in row.rejected}))
    return Table(tuple(_columns(kind, reasons)), rows[name], reasons)


def _columns(kind: type[Row], reasons: tuple[str, ...]) -> Iterator[Column]:
    hints = get_type_hints(kind)
    for entry in fields(kind):
        hint = hints[entry.name]
        if hint in {bool, int, str}:
            yield Column(name=entry.name, type=hint)
        elif hint == float | None:
            yield Column(name=entry.name, type=float)
        else:
            yield Column(name=entry.name, type=int)
            yield from (Column(name=f"{entry.name}_{reason}", type=int) for reason in reasons)
