"""Examples from a query of somebody else's SQLite database, which is never written to."""

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

from headwater_agent.data.config import QuerySource
from headwater_agent.data.labels import Labels
from headwater_agent.data.pool import FIX_ROW, Pool
from headwater_agent.data.reservoir import Reservoir
from headwater_agent.data.rows import BadColumns, find_columns, read_row
from headwater_models.dataset import Dataset
from headwater_protocol.errors import ConfigError, OutOfBounds

QUERY_TIMEOUT_S: Final = 60.0
"""A query that takes longer is given up; the examples of the last one stay."""

BUSY_TIMEOUT_S: Final = 5.0
"""How long to wait for whoever writes the database."""

STEPS_BETWEEN_LOOKS: Final = 100_000
"""Of SQLite's machine, from one look at the clock to the next."""

ROWS_AT_A_TIME: Final = 1_000


class SqliteQuery:
    """One query, run again when the database has changed."""

    is_stream = False

    def __init__(
        self,
        source: QuerySource,
        labels: Labels,
        pool: Pool,
        *,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._labels = labels
        self.pool = pool
        self._monotonic_s = monotonic_s
        self._seen: tuple[int, ...] | None = None

    def open(self) -> None:
        """Run the query once.

        Raises:
            ConfigError: If the database or the query cannot be used, or no row is of use.
        """
        database = self._source.database
        if not database.is_file():
            raise ConfigError(
                "data.database", f"{database} does not exist", fix="name a SQLite file"
            )
        try:
            self._look()
        except BadColumns as error:
            raise ConfigError("data.query", str(error), fix="select that column") from None
        except sqlite3.Error as error:
            raise ConfigError(
                "data.query", f"{database}: {error}", fix="try it with sqlite3 -readonly"
            ) from None
        latest = self.pool.problems.latest
        if latest and not self.pool.num_examples:
            raise ConfigError("data.query", latest[0].place_and_problem, fix=latest[0].fix)

    def dataset(self) -> Dataset:
        """The query's rows, as far as they are kept.

        Raises:
            NoExamples: If there are none.
        """
        try:
            self._look()
        except (sqlite3.Error, BadColumns) as error:
            self.pool.problems.add(
                str(self._source.database), str(error), fix="the rows of the last query are used"
            )
        return self.pool.dataset(
            why_empty=lambda: (
                self.pool.why_empty()
                if self.pool.problems.total
                else f"the query of {self._source.database} gives no rows"
            ),
            copies=False,
        )

    def close(self) -> None:
        """Nothing stays open between looks."""

    def _look(self) -> None:
        seen = _signature(self._source.database)
        if seen == self._seen:
            return
        self.pool.fill(self._run)
        self._seen = seen

    def _run(self, reservoir: Reservoir) -> None:
        source = self._source
        self.pool.problems.begin(str(source.database))
        end_s = self._monotonic_s() + QUERY_TIMEOUT_S
        uri = f"{source.database.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S)) as database:
            database.execute("PRAGMA query_only=ON")
            database.text_factory = lambda data: data.decode(errors="replace")
            database.set_progress_handler(
                lambda: int(self._monotonic_s() > end_s), STEPS_BETWEEN_LOOKS
            )
            cursor = database.execute(source.query)
            if cursor.description is None:
                raise BadColumns("it is no SELECT")
            names = [str(entry[0]) for entry in cursor.description]
            columns = find_columns(names, len(names), features=source.features, label=source.label)
            number = 0
            while rows := cursor.fetchmany(ROWS_AT_A_TIME):
                for row in rows:
                    number += 1
                    try:
                        features, label = read_row(row, columns, self._labels)
                        reservoir.offer(features, label)
                    except OutOfBounds as error:
                        self.pool.problems.add(
                            str(source.database), str(error), row=number, fix=FIX_ROW
                        )


def _signature(database: Path) -> tuple[int, ...]:
    """Changes whenever somebody writes; the log of a database in WAL mode counts too.

    An empty log says nothing: who only reads may have made it.
    """
    signature: list[int] = []
    for path in (database, database.with_name(database.name + "-wal")):
        try:
            found = path.stat()
        except OSError:
            signature += [0, 0]
        else:
            signature += [found.st_mtime_ns, found.st_size] if found.st_size else [0, 0]
    return tuple(signature)
