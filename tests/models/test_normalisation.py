"""Normalisation: integers in a task, the same floats for everybody."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_models.errors import InvalidExamples
from headwater_models.normalisation import measure_normalisation, normalise
from headwater_protocol.chain.task import Normalisation


def make(offsets: list[int], scales: list[int], fraction_bits: int = 1) -> Normalisation:
    return Normalisation(fraction_bits=fraction_bits, offsets=tuple(offsets), scales=tuple(scales))


def test_none_leaves_examples_alone() -> None:
    features = np.ones((2, 3), np.float32)
    assert normalise(features, None) is features


@pytest.mark.parametrize(
    ("offsets", "scales", "expected"),
    [
        ([2], [4], [[0, 2, 4], [6, 8, 10]]),
        ([2, 4, 6], [2], [[0, 0, 0], [3, 3, 3]]),
        ([0], [2, 4, 6], [[1, 4, 9], [4, 10, 18]]),
    ],
)
def test_one_for_all_or_one_for_each_column(
    offsets: list[int], scales: list[int], expected: list[list[int]]
) -> None:
    features = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
    before = features.copy()
    found = normalise(features, make(offsets, scales))
    assert found.tolist() == expected
    assert found.dtype == np.float32
    assert features.tolist() == before.tolist()


def test_windows_take_one_for_each_channel_or_one_a_value() -> None:
    features = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    by_channel = normalise(features, make([0, 2], [2]))
    assert by_channel[0].tolist() == [[0, 0], [2, 2]]
    by_value = normalise(features, make([0, 2, 4, 6], [2]))
    assert by_value[0].tolist() == [[0, 0], [0, 0]]


def test_lists_of_another_length_and_overflow_are_refused() -> None:
    with pytest.raises(InvalidExamples, match=r"2 scales for examples of shape \(3,\)"):
        normalise(np.ones((1, 3), np.float32), make([0], [1, 1]))
    huge = np.full((1, 1), 3e38, np.float32)
    with pytest.raises(InvalidExamples, match="not finite"):
        normalise(huge, make([0], [2**31 - 1], fraction_bits=0))


@given(
    mean=st.floats(-1_000, 1_000),
    spread=st.floats(0.01, 1_000),
    columns=st.integers(1, 4),
    seed=st.integers(0, 100),
)
def test_measured_normalisation_centres_and_scales(
    mean: float, spread: float, columns: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    features = (rng.normal(size=(200, columns)) * spread + mean).astype(np.float32)
    found = normalise(features, measure_normalisation(features)).astype(np.float64)
    assert np.abs(found.mean(axis=0)).max() < 0.02
    assert np.abs(found.std(axis=0) - 1).max() < 0.02


def test_column_that_never_changes_is_only_moved() -> None:
    features = np.array([[5, 1], [5, 3]], np.float32)
    assert normalise(features, measure_normalisation(features)).tolist() == [[0, -1], [0, 1]]


def test_what_fixed_point_cannot_say_is_refused() -> None:
    with pytest.raises(InvalidExamples, match="31 bits"):
        measure_normalisation(np.array([[1e12], [2e12]], np.float32))
