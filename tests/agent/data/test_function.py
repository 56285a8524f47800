"""A Python function: arrays, iterators, and whatever a function can do wrong."""

import itertools
from pathlib import Path

import pytest

from headwater_agent.data.pool import ExampleSource, NoExamples
from headwater_protocol.errors import ConfigError
from tests.agent.data.support import Told, make

COUNTER = itertools.count()


def read_to_the_end(source: ExampleSource) -> None:
    thread = source._thread  # type: ignore[attr-defined]
    thread.join(5)
    assert not thread.is_alive()


def make_function(folder: Path, body: str, **options: object) -> tuple[ExampleSource, Told]:
    module = f"sensor_{next(COUNTER)}"
    (folder / f"{module}.py").write_text(body)
    return make(folder, source="python", callable=f"{module}:read", **options)


def test_arrays_are_asked_for_each_time(tmp_path: Path) -> None:
    source, told = make_function(
        tmp_path,
        "import numpy as np\ncalls = []\n"
        "def read():\n"
        "    calls.append(1)\n"
        "    return np.full((len(calls), 2), len(calls)), ['idle'] * len(calls)\n",
        classes=["idle", "busy"],
    )
    source.open()
    assert source.dataset().features.tolist() == [[2, 2], [2, 2]]
    assert source.dataset().num_examples == 3
    assert not source.is_stream
    assert told.lines == []


def test_iterator_is_read_in_its_own_thread(tmp_path: Path) -> None:
    source, told = make_function(
        tmp_path,
        "def read():\n"
        "    for number in range(5):\n"
        "        yield [number, number + 0.5], number % 2\n",
    )
    source.open()
    assert source.is_stream
    read_to_the_end(source)
    assert source.dataset().features.tolist() == [[n, n + 0.5] for n in range(5)]
    assert told.lines == []


def test_good_examples_of_an_iterator_are_used(tmp_path: Path) -> None:
    source, told = make_function(
        tmp_path,
        "def read():\n"
        "    yield [1, 2], 0\n"
        "    yield [1, float('nan')], 0\n"
        "    yield [1, 2, 3], 0\n"
        "    yield 'what'\n"
        "    yield [3, 4], 'red'\n"
        "    yield [3, 4], 1\n"
        "    raise RuntimeError('two\\nlines')\n",
    )
    source.open()
    read_to_the_end(source)
    assert source.dataset().features.tolist() == [[1, 2], [3, 4]]
    assert told.problems.total == 5
    assert "raises RuntimeError: two lines" in str(told.problems.latest[-1])
    assert "line 2: a feature is NaN or infinite" in told.lines[0]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "there is no such function"),
        ("read = 3", "there is no such function"),
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("def read(): return 1 / 0", "ZeroDivisionError"),
        ("def read(): return {}", "it gives a dict"),
        ("def read(): return None", "it gives a NoneType"),
        ("def read(): return [[1, 2]], [1, 2]", "shape"),
        ("def read(): return [1, 2], [1, 2]", "shape"),
        ("def read(): return [[1, 2], [3]], [1, 2]", "no numbers of one shape"),
        ("def read(): return [['a', 'b']], [1]", "no numbers of one shape"),
        ("def read(): return [[1, 2]], 1", "0 labels"),
    ],
)
def test_what_cannot_work_ends_the_start_in_one_line(tmp_path: Path, body: str, words: str) -> None:
    source, _ = make_function(tmp_path, body)
    with pytest.raises(ConfigError, match=words) as caught:
        source.open()
    assert "\n" not in str(caught.value)
    assert "data.callable" in str(caught.value)


def test_function_that_fails_later_leaves_the_examples(tmp_path: Path) -> None:
    source, told = make_function(
        tmp_path,
        "calls = []\n"
        "def read():\n"
        "    calls.append(1)\n"
        "    if len(calls) > 1: raise OSError('no sensor')\n"
        "    return [[1.0]], [0]\n",
    )
    source.open()
    assert source.dataset().num_examples == 1
    assert "OSError: no sensor" in told.lines[0]


def test_no_module_and_no_examples(tmp_path: Path) -> None:
    source, _ = make(tmp_path, source="python", callable="none_of_this_name:read")
    with pytest.raises(ConfigError, match="no module none_of_this_name"):
        source.open()
    source, _ = make_function(tmp_path, "def read():\n    return iter(())\n")
    source.open()
    with pytest.raises(NoExamples):
        source.dataset()
