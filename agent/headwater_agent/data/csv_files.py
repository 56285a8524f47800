"""Examples from CSV files, which may grow and become more while the device runs.

Each look reads what was appended since the last one. A line without its end is left until the file
has been quiet for `SETTLED_MS`, because a logger may be in the middle of it. A file that shrank or
was replaced makes everything be read anew, so that no example counts twice.
"""

import csv
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headwater_agent.data.config import FileSource
from headwater_agent.data.labels import Labels
from headwater_agent.data.pool import FIX_ROW, Pool
from headwater_agent.data.reservoir import WrongShape
from headwater_agent.data.rows import Columns, find_columns, is_header, read_row
from headwater_models.dataset import Dataset
from headwater_protocol.errors import ConfigError, OutOfBounds

READ_BYTES: Final = 1024 * 1024
"""Read at a time; a line that is longer is skipped."""

SETTLED_MS: Final = 2_000

MAX_FILES: Final = 10_000

FIX_COLUMNS: Final = "correct the file's header, or data.features and data.label"


@dataclass(slots=True)
class _File:
    """How far one file is read."""

    inode: int
    offset: int = 0
    line: int = 0
    columns: Columns | None = None
    is_refused: bool = False
    """Its columns do not fit; told once."""
    was_empty: bool = False
    is_skipping: bool = False
    """In the middle of a line that is too long."""


class CsvFiles:
    """A folder of `*.csv`, or one such file."""

    is_stream = False

    def __init__(
        self, source: FileSource, labels: Labels, pool: Pool, *, clock: Callable[[], int]
    ) -> None:
        self._source = source
        self._labels = labels
        self.pool = pool
        self._clock = clock
        self._files: dict[Path, _File] = {}

    def open(self) -> None:
        """Read what is there.

        Raises:
            ConfigError: If the path does not exist, or there are rows and none is of use.
        """
        path = self._source.path
        if not path.exists():
            raise ConfigError(
                "data.path", f"{path} does not exist", fix="name a folder of *.csv or *.npz"
            )
        self._look()
        latest = self.pool.problems.latest
        if latest and not self.pool.num_examples:
            raise ConfigError("data", latest[0].place_and_problem, fix=latest[0].fix)

    def dataset(self) -> Dataset:
        """All rows up to now, as far as they are kept.

        Raises:
            NoExamples: If there are none.
        """
        self._look()
        path = self._source.path
        return self.pool.dataset(
            why_empty=lambda: (
                self.pool.why_empty()
                if self.pool.problems.total
                else f"{path} holds no rows; put *.csv files with a header there"
            ),
            copies=False,
        )

    def close(self) -> None:
        """Nothing stays open between looks."""

    def _look(self) -> None:
        paths = self._list()
        if self._was_replaced(paths):
            self._files.clear()
            self.pool.start_over()
        for path in paths:
            try:
                self._read(path)
            except OSError as error:
                reason = error.strerror or str(error)
                self.pool.problems.add(str(path), reason, fix="check the permissions")

    def _list(self) -> list[Path]:
        path = self._source.path
        if not path.is_dir():
            return [path] if path.exists() else []
        found = sorted(path.glob("*.csv"))
        if len(found) > MAX_FILES:
            self.pool.problems.add(
                str(path), f"{len(found)} files", fix=f"keep no more than {MAX_FILES} there"
            )
        return found[:MAX_FILES]

    def _was_replaced(self, paths: list[Path]) -> bool:
        present = set(paths)
        for path, known in self._files.items():
            if path not in present:
                return True
            try:
                found = path.stat()
            except OSError:
                return True
            if found.st_ino != known.inode or found.st_size < known.offset:
                return True
        return False

    def _read(self, path: Path) -> None:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            known = self._files.setdefault(path, _File(inode=found.st_ino))
            if known.is_refused:
                return
            if found.st_size == 0 and not known.was_empty:
                known.was_empty = True
                self.pool.problems.add(
                    str(path), "the file is empty", fix="remove it, or write rows into it"
                )
            is_settled = self._clock() - found.st_mtime_ns // 1_000_000 >= SETTLED_MS
            while not known.is_refused:
                file.seek(known.offset)
                data = file.read(READ_BYTES)
                if not data:
                    return
                end = data.rfind(b"\n") + 1
                is_last = len(data) < READ_BYTES
                if not end and is_last and not is_settled:
                    return
                if not end and not is_last:
                    self._skip(path, known, len(data))
                    continue
                if is_last and is_settled:
                    end = len(data)
                self._take(path, known, data[:end])

    def _skip(self, path: Path, known: _File, num_bytes: int) -> None:
        if not known.is_skipping:
            self.pool.problems.add(
                str(path),
                f"the line has more than {READ_BYTES} bytes",
                row=known.line + 1,
                fix=FIX_ROW,
            )
        known.is_skipping = True
        known.offset += num_bytes

    def _take(self, path: Path, known: _File, data: bytes) -> None:
        known.offset += len(data)
        # Most encodings of a degree sign are no UTF-8, and it stands in headers only.
        lines = data.decode(errors="replace").splitlines(keepends=True)
        if known.is_skipping:
            known.is_skipping = False
            known.line += 1
            lines = lines[1:]
        reader = csv.reader(lines)
        first = known.line
        while not known.is_refused:
            try:
                row = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                self._refuse_row(path, first + reader.line_num, str(error))
                continue
            if row:
                self._take_row(path, known, row, first + reader.line_num)
        known.line = first + reader.line_num

    def _take_row(self, path: Path, known: _File, row: list[str], line: int) -> None:
        source = self._source
        try:
            if known.columns is None:
                # Named columns need a header, whatever it looks like.
                needs_names = source.features is not None or isinstance(source.label, str)
                has_header = needs_names or is_header(row)
                known.columns = find_columns(
                    row if has_header else None,
                    len(row),
                    features=source.features,
                    label=source.label,
                )
                if has_header:
                    return
        except OutOfBounds as error:
            known.is_refused = True
            self.pool.problems.add(str(path), str(error), row=line, fix=FIX_COLUMNS)
            return
        try:
            features, label = read_row(row, known.columns, self._labels)
            self.pool.offer(features, label)
        except WrongShape as error:
            known.is_refused = True
            self.pool.problems.add(str(path), str(error), row=line, fix=FIX_COLUMNS)
        except OutOfBounds as error:
            self._refuse_row(path, line, str(error))

    def _refuse_row(self, path: Path, line: int, problem: str) -> None:
        self.pool.problems.add(str(path), problem, row=line, fix=FIX_ROW)
