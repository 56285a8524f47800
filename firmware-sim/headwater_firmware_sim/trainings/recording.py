"""Training results in a file: one run records them, another one takes them as its inputs.

Two TFLite runtimes may differ in the last bit of a float, and so may one runtime on two kinds of
processor. A run that takes its trainings from the file has the same ledgers on any of them.

The file is SQLite: a table of what was trained, by trainee, round, base and seed, and one of what
the recording is of. It is written under another name and appears whole at the end, or not at all.
"""

import os
import platform
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Final

import numpy as np

from headwater_firmware_sim.output.whole import TEMPORARY_SUFFIX, explain
from headwater_firmware_sim.trainings.work import Outcome, Refused, Trainings, Work
from headwater_models.trainer import TrainingResult
from headwater_protocol.errors import ConfigError, HeadwaterError
from headwater_protocol.identifiers import Network
from headwater_protocol.reasons import ReasonCode

FORMAT: Final = "headwater-trainings/1"
RUNTIMES: Final = ("tflite-runtime", "ai-edge-litert", "numpy")
BATCH: Final = 1_000
"""Rows of one write."""
TABLES: Final = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE trainings (
  trainee TEXT NOT NULL,
  round INTEGER NOT NULL,
  base BLOB NOT NULL,
  seed TEXT NOT NULL,
  num_examples INTEGER,
  num_steps INTEGER,
  mean_loss REAL,
  delta BLOB,
  reason TEXT,
  detail TEXT,
  PRIMARY KEY (trainee, round, base, seed)
) WITHOUT ROWID;
"""
INSERT: Final = "INSERT OR IGNORE INTO trainings VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
SELECT: Final = (
    "SELECT num_examples, num_steps, mean_loss, delta, reason, detail FROM trainings "
    "WHERE trainee = ? AND round = ? AND base = ? AND seed = ?"
)

Row = tuple[str | int | float | bytes | None, ...]


class NotRecorded(HeadwaterError):
    """A run wants a training that the recording lacks, so it is not the run that was recorded."""

    def __init__(self, work: Work) -> None:
        super().__init__(
            f"the recording has no training of {work.trainee} in round {work.round} from this "
            "base: it is of another version of the program; record it anew"
        )


def describe_runtime() -> str:
    """The interpreter and what it trains with, as `CPython 3.12.1, ai-edge-litert 2.3.0, ...`."""
    parts = [f"{platform.python_implementation()} {platform.python_version()}"]
    for name in RUNTIMES:
        try:
            parts.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(parts)


class Recorder:
    """Hands on what another source answers, and keeps it."""

    def __init__(self, connection: sqlite3.Connection, source: Trainings) -> None:
        self.is_early = source.is_early
        self._connection = connection
        self._source = source
        self._rows: list[Row] = []

    def begin(self, work: Work) -> None:
        """As the source."""
        self._source.begin(work)

    def drop(self, trainee: str) -> None:
        """As the source."""
        self._source.drop(trainee)

    def outcome(self, work: Work) -> Outcome:
        """As the source; kept.

        Raises:
            sqlite3.Error: If the file cannot be written; `record_trainings` explains it.
        """
        outcome = self._source.outcome(work)
        self._rows.append((*_key(work), *_encode(outcome)))
        if len(self._rows) >= BATCH:
            self.flush()
        return outcome

    def flush(self) -> None:
        """Write what is kept in memory; errors as `outcome`."""
        self._connection.executemany(INSERT, self._rows)
        self._rows.clear()


@contextmanager
def record_trainings(path: Path, source: Trainings, network: Network) -> Iterator[Recorder]:
    """Record into `path`, which is there once the block ends without an error.

    Args:
        path: A new file, or one that is replaced.
        source: Where the results come from.
        network: Whose run it is; names the scenario, its data and the seed.

    Raises:
        ConfigError: If the file cannot be written.
    """
    draft = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        draft.unlink(missing_ok=True)
        connection = sqlite3.connect(draft, isolation_level=None)
        try:
            # The file counts only under its final name, so it needs no journal.
            connection.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")
            connection.executescript(TABLES)
            about = {"format": FORMAT, "network": network.hex(), "runtime": describe_runtime()}
            connection.executemany("INSERT INTO about VALUES (?, ?)", sorted(about.items()))
            connection.execute("BEGIN")
            recorder = Recorder(connection, source)
            yield recorder
            recorder.flush()
            connection.execute("COMMIT")
        finally:
            connection.close()
        with draft.open("rb+") as stream:
            os.fsync(stream.fileno())
        draft.replace(path)
    except OSError as error:
        raise explain(error, path=path) from error
    except sqlite3.Error as error:
        raise ConfigError(
            str(path), f"{error}", fix="free some space or name a file that you can write to"
        ) from error
    finally:
        draft.unlink(missing_ok=True)


class Recording:
    """A recording as a source; it trains nothing."""

    is_early = False

    def __init__(self, connection: sqlite3.Connection, path: Path, runtime: str) -> None:
        self._connection = connection
        self._path = path
        self.runtime = runtime
        """What it was recorded with."""
        self.num_read = 0

    def begin(self, work: Work) -> None:
        """There is nothing to begin."""

    def drop(self, trainee: str) -> None:
        """As `begin`."""

    def outcome(self, work: Work) -> Outcome:
        """What came of `work` when it was recorded.

        Raises:
            NotRecorded: If it was not.
            ConfigError: If the file is damaged.
        """
        try:
            row = self._connection.execute(SELECT, _key(work)).fetchone()
        except sqlite3.Error as error:
            raise _damaged(self._path, str(error)) from error
        if row is None:
            raise NotRecorded(work)
        self.num_read += 1
        return _decode(row, work, self._path)


@contextmanager
def open_recording(path: Path, network: Network) -> Iterator[Recording]:
    """Read a recording of the same scenario and seed.

    Raises:
        ConfigError: If there is none, or it is of another run.
    """
    if not path.is_file():
        raise ConfigError("--replay-training", f"{path} is no file", fix="record it first")
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        try:
            about = dict(connection.execute("SELECT name, value FROM about").fetchall())
        except sqlite3.Error as error:
            raise _damaged(path, "is no recording") from error
        if about.get("format") != FORMAT:
            raise _damaged(path, f"has the format {about.get('format')!r}, not {FORMAT}")
        if about.get("network") != network.hex():
            raise ConfigError(
                "--replay-training",
                f"{path} was recorded of another scenario or seed",
                fix="use the same ones, or record it anew",
            )
        yield Recording(connection, path, str(about.get("runtime", "")))
    finally:
        connection.close()


def _key(work: Work) -> tuple[str, int, bytes, str]:
    seed = work.seed if isinstance(work.seed, tuple) else (work.seed,)
    return work.trainee, work.round, work.base, ",".join(str(part) for part in seed)


def _encode(outcome: Outcome) -> Row:
    if isinstance(outcome, Refused):
        return None, None, None, None, outcome.reason.value, outcome.detail
    delta = outcome.delta.astype("<f4", copy=False).tobytes()
    return outcome.num_examples, outcome.num_steps, outcome.mean_loss, delta, None, None


def _decode(row: Row, work: Work, path: Path) -> Outcome:
    num_examples, num_steps, mean_loss, delta, reason, detail = row
    try:
        if reason is not None:
            return Refused(reason=ReasonCode(str(reason)), detail=str(detail))
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    if not (
        isinstance(num_examples, int)
        and isinstance(num_steps, int)
        and isinstance(mean_loss, float)
        and isinstance(delta, bytes)
        and len(delta) == 4 * len(work.parameters)
    ):
        raise _damaged(path, f"the training of {work.trainee} in round {work.round} is damaged")
    return TrainingResult(
        delta=np.frombuffer(delta, "<f4").astype(np.float32, copy=False),
        num_examples=num_examples,
        num_steps=num_steps,
        # The simulator sets no time limit, so what was recorded has finished.
        planned_steps=num_steps,
        mean_loss=mean_loss,
    )


def _damaged(path: Path, problem: str) -> ConfigError:
    return ConfigError("--replay-training", f"{path}: {problem}", fix="record it anew")
