"""Tables as Parquet, where pyarrow is installed."""

import importlib
from collections.abc import Mapping
from typing import IO, Final, Protocol, cast

from headwater_firmware_sim.output.tables import Cell, Table

ROWS_PER_GROUP: Final = 100_000
"""Rows held in memory as columns at a time."""


class _Writer(Protocol):
    def write_table(self, table: object) -> None: ...
    def close(self) -> None: ...


class _Arrow(Protocol):
    """What is used of `pyarrow`, which is no dependency and has no types."""

    def bool_(self) -> object: ...
    def int64(self) -> object: ...
    def float64(self) -> object: ...
    def string(self) -> object: ...
    def schema(self, fields: list[tuple[str, object]]) -> object: ...
    def table(self, data: Mapping[str, list[Cell]], *, schema: object) -> object: ...


class _ArrowParquet(Protocol):
    def ParquetWriter(  # noqa: N802  # pyarrow's name
        self, where: IO[bytes], schema: object, *, compression: str
    ) -> _Writer: ...


def has_parquet() -> bool:
    """Whether pyarrow is installed and runs here; newer ones refuse the numpy of Python 3.11."""
    try:
        importlib.import_module("pyarrow.parquet")
    except ImportError:
        return False
    return True


def write_parquet(table: Table, stream: IO[bytes]) -> None:
    """Write `table` with a type for each column, also where all of its cells are None.

    Raises:
        ModuleNotFoundError: Without pyarrow.
    """
    arrow = cast("_Arrow", importlib.import_module("pyarrow"))
    parquet = cast("_ArrowParquet", importlib.import_module("pyarrow.parquet"))
    types = {bool: arrow.bool_, int: arrow.int64, float: arrow.float64, str: arrow.string}
    schema = arrow.schema([(column.name, types[column.type]()) for column in table.columns])
    writer = parquet.ParquetWriter(stream, schema, compression="zstd")
    try:
        held: list[tuple[Cell, ...]] = []
        for cells in table.cells():
            held.append(cells)
            if len(held) == ROWS_PER_GROUP:
                writer.write_table(_make(arrow, schema, table, held))
                held = []
        if held or not table.rows:
            writer.write_table(_make(arrow, schema, table, held))
    finally:
        writer.close()


def _make(arrow: _Arrow, schema: object, table: Table, rows: list[tuple[Cell, ...]]) -> object:
    data = {
        column.name: [cells[index] for cells in rows] for index, column in enumerate(table.columns)
    }
    return arrow.table(data, schema=schema)
