"""Examples from `.npz` files with the arrays `features` and `labels`; a bad one is left out.

A look reads files that are new or changed. Arrays cannot be sampled while they are read, so each
file has to fit the memory limit by itself; of all of them together the reservoir keeps what fits.
"""

from pathlib import Path
from typing import Final

from headwater_agent.data.config import DataConfig, FileSource
from headwater_agent.data.pool import Pool
from headwater_agent.data.reservoir import Reservoir, offer_all
from headwater_models.dataset import Dataset, load_dataset
from headwater_protocol.errors import ConfigError, OutOfBounds

MAX_FILES: Final = 10_000
FIX_FILE: Final = "store features (n, ...) and integer labels (n,) as the others do"


class NpzFiles:
    """A folder of `*.npz`, or one such file."""

    is_stream = False

    def __init__(self, source: FileSource, config: DataConfig, pool: Pool) -> None:
        self._source = source
        self._config = config
        self.pool = pool
        self._read: dict[Path, tuple[int, int]] | None = None

    def open(self) -> None:
        """Read what is there.

        Raises:
            ConfigError: If the path does not exist, or there are files and none is of use.
        """
        path = self._source.path
        if not path.exists():
            raise ConfigError(
                "data.path", f"{path} does not exist", fix="name an .npz file or a folder of them"
            )
        self._look()
        latest = self.pool.problems.latest
        if latest and not self.pool.num_examples:
            raise ConfigError("data", latest[0].place_and_problem, fix=latest[0].fix)

    def dataset(self) -> Dataset:
        """The examples of all files, as far as they are kept.

        Raises:
            NoExamples: If there are none.
        """
        self._look()
        path = self._source.path
        return self.pool.dataset(
            why_empty=lambda: (
                self.pool.why_empty() if self.pool.problems.total else f"{path} holds no *.npz"
            ),
            copies=False,
        )

    def close(self) -> None:
        """Nothing stays open between looks."""

    def _look(self) -> None:
        path = self._source.path
        paths = sorted(path.glob("*.npz"))[:MAX_FILES] if path.is_dir() else [path]
        found = {entry: _signature(entry) for entry in paths}
        if found == self._read:
            return
        self._read = found

        def read_all(reservoir: Reservoir) -> None:
            for entry in paths:
                self._offer_file(reservoir, entry)

        self.pool.fill(read_all)

    def _offer_file(self, reservoir: Reservoir, path: Path) -> None:
        problems = self.pool.problems
        problems.begin(str(path))
        try:
            part = load_dataset(path, max_bytes=self._config.memory.max_bytes, key="data")
        except ConfigError as error:
            problems.add(str(path), error.problem.removeprefix(f"{path}: "), fix=error.fix)
            return
        highest, classes = int(part.labels.max()), self._config.labels.num_classes
        if classes is not None and highest >= classes:
            problems.add(str(path), f"the label {highest} is no class", fix="see data.classes")
            return
        try:
            offer_all(reservoir, part.features, part.labels.tolist())
        except OutOfBounds as error:
            problems.add(str(path), str(error), fix=FIX_FILE)


def _signature(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size
