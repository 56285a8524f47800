"""Examples from a Python function of the user's: two arrays, or an iterator of examples.

A function that gives arrays is called before each training. An iterator is read in a thread of its
own for as long as it gives something; what it gave is kept like any stream's. Whatever the function
raises is one line for the user and never the end of the device.
"""

import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater_agent.data.config import PythonSource, find_module
from headwater_agent.data.labels import Labels
from headwater_agent.data.pool import FIX_ROW, Pool
from headwater_agent.data.reservoir import Reservoir
from headwater_models.dataset import Dataset
from headwater_protocol.errors import ConfigError, OutOfBounds

FIRST_EXAMPLE_S: Final = 5.0
"""How long a training waits for the first example of an iterator."""

STOP_TIMEOUT_S: Final = 1.0
"""How long a stopping device waits for the iterator; it may be waiting for a sensor."""

FIX_FUNCTION: Final = "give (features (n, ...), labels (n,)), or an iterator of (features, label)"


class PythonFunction:
    """One function."""

    def __init__(self, source: PythonSource, labels: Labels, pool: Pool) -> None:
        self._source = source
        self._labels = labels
        self.pool = pool
        self._name = f"{source.module}:{source.function}"
        self._function: Callable[[], object] | None = None
        self._thread: threading.Thread | None = None
        self._is_stopping = threading.Event()
        self._has_news = threading.Event()

    @property
    def is_stream(self) -> bool:
        """Whether the function gives an iterator."""
        return self._thread is not None

    def open(self) -> None:
        """Import the function and call it once.

        Raises:
            ConfigError: If there is none, it raises, or gives something else.
        """
        find_module(self._source)
        folder = str(self._source.folder.absolute())
        if folder not in sys.path:
            sys.path.insert(0, folder)
        try:
            found: object = getattr(
                importlib.import_module(self._source.module), self._source.function, None
            )
        except (Exception, SystemExit) as error:
            raise self._refused(f"importing it raises {_describe(error)}") from None
        if not callable(found):
            raise self._refused("there is no such function")
        self._function = found
        try:
            self._call()
        except OutOfBounds as error:
            raise self._refused(str(error)) from None

    def dataset(self) -> Dataset:
        """What the function gives now, or what its iterator gave so far.

        Raises:
            NoExamples: If there is nothing.
        """
        if self._thread is None:
            try:
                self._call()
            except OutOfBounds as error:
                self.pool.problems.add(self._name, str(error), fix=FIX_FUNCTION)
        else:
            self._has_news.wait(FIRST_EXAMPLE_S)
        return self.pool.dataset(why_empty=self.pool.why_empty, copies=self._thread is not None)

    def close(self) -> None:
        """Let the iterator go."""
        self._is_stopping.set()
        if self._thread is not None:
            self._thread.join(STOP_TIMEOUT_S)

    def _call(self) -> None:
        if self._function is None:
            raise OutOfBounds("it was never opened")
        try:
            given = self._function()
        except (Exception, SystemExit) as error:
            raise OutOfBounds(f"it raises {_describe(error)}") from None
        if isinstance(given, tuple) and len(given) == 2:
            features, labels = self._read_arrays(given[0], given[1])
            self.pool.fill(lambda reservoir: self._offer_rows(reservoir, features, labels))
        elif isinstance(given, Iterator):
            self._thread = threading.Thread(
                target=self._feed, args=(given,), name="examples", daemon=True
            )
            self._thread.start()
        else:
            raise OutOfBounds(f"it gives a {type(given).__name__}")

    def _read_arrays(
        self, features: object, labels: object
    ) -> tuple[NDArray[np.float32], list[object]]:
        values = _to_array(features)
        names: list[object] = np.asarray(labels).tolist() if _has_length(labels) else []
        if values.ndim < 2 or len(values) != len(names):
            raise OutOfBounds(
                f"features have shape {values.shape}, and there are {len(names)} labels"
            )
        return values, names

    def _offer_rows(
        self, reservoir: Reservoir, features: NDArray[np.float32], labels: list[object]
    ) -> None:
        self.pool.problems.begin(self._name)
        for number, (row, label) in enumerate(zip(features, labels, strict=True), start=1):
            try:
                reservoir.offer(row, self._labels.number(label))
            except OutOfBounds as error:
                self.pool.problems.add(self._name, str(error), row=number, fix=FIX_ROW)

    def _feed(self, examples: Iterator[object]) -> None:
        number = 0
        try:
            while not self._is_stopping.is_set():
                try:
                    example = next(examples)
                except StopIteration:
                    return
                except (Exception, SystemExit) as error:
                    self.pool.problems.add(
                        self._name, f"it raises {_describe(error)}", fix="start the device again"
                    )
                    return
                number += 1
                try:
                    self._take(example)
                except OutOfBounds as error:
                    self.pool.problems.add(self._name, str(error), row=number, fix=FIX_FUNCTION)
                else:
                    self._has_news.set()
        finally:
            self._has_news.set()

    def _take(self, example: object) -> None:
        if not isinstance(example, tuple) or len(example) != 2:
            raise OutOfBounds(f"an example is a {type(example).__name__}")
        features = np.atleast_1d(_to_array(example[0]))
        label = example[1]
        plain: object = label.item() if isinstance(label, np.generic) else label
        self.pool.offer(features, self._labels.number(plain))

    def _refused(self, problem: str) -> ConfigError:
        return ConfigError("data.callable", f"{self._name}: {problem}", fix=FIX_FUNCTION)


def _to_array(values: object) -> NDArray[np.float32]:
    try:
        with np.errstate(over="ignore"):
            return np.array(values, dtype=np.float32)
    except (ValueError, TypeError, OverflowError) as error:
        raise OutOfBounds(f"features are no numbers of one shape: {_describe(error)}") from None


def _has_length(values: object) -> bool:
    return isinstance(values, list | tuple) or (isinstance(values, np.ndarray) and values.ndim == 1)


def _describe(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
