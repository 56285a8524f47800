"""The reservoir: bounds, fairness, shares of classes, and a restart that nobody notices."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_agent.data.reservoir import Bounds, Reservoir, WrongShape, offer_all
from headwater_protocol.errors import OutOfBounds

ENTROPY = b"e" * 32


def make(max_examples: int = 10, num_classes: int | None = None, **changes: object) -> Reservoir:
    values: dict[str, object] = {"entropy": ENTROPY, "max_bytes": 1 << 20} | changes
    bounds = Bounds(max_examples=max_examples, max_bytes=values["max_bytes"])  # type: ignore[arg-type]
    return Reservoir(entropy=values["entropy"], bounds=bounds, num_classes=num_classes)  # type: ignore[arg-type]


def fill(reservoir: Reservoir, labels: "list[int]", start: int = 0) -> None:
    rows = np.arange(start, start + len(labels), dtype=np.float32).reshape(-1, 1)
    offer_all(reservoir, rows, labels)


def test_everything_is_kept_while_there_is_room() -> None:
    reservoir = make()
    fill(reservoir, [0] * 10)
    kept = reservoir.dataset(copies=True)
    assert kept.features.reshape(-1).tolist() == list(range(10))


def test_each_example_stays_with_the_same_probability() -> None:
    counts = np.zeros(40)
    num_trials = 2_000
    for trial in range(num_trials):
        reservoir = make(entropy=trial.to_bytes(32, "big"))
        fill(reservoir, [0] * 40)
        counts[reservoir.dataset(copies=False).features.reshape(-1).astype(int)] += 1
    # 10 of 40 stay: a binomial of mean 500 and deviation 19; the seeds are fixed, so is the result.
    assert abs(counts - num_trials / 4).max() < 4 * 19.4


def test_rare_class_keeps_its_share_with_a_reservoir_for_each() -> None:
    labels = [0] * 5_000 + [1] * 5
    plain, fair = make(20), make(20, num_classes=2)
    fill(plain, labels)
    fill(fair, labels)
    assert np.bincount(fair.dataset(copies=False).labels).tolist() == [10, 5]
    assert np.count_nonzero(plain.dataset(copies=False).labels) < 5


@settings(max_examples=60)
@given(
    labels=st.lists(st.integers(0, 2), min_size=1, max_size=200),
    cut=st.integers(0, 200),
    max_examples=st.integers(3, 30),
    is_stratified=st.booleans(),
)
def test_a_restart_makes_no_difference(
    labels: list[int], cut: int, max_examples: int, is_stratified: bool
) -> None:
    num_classes = 3 if is_stratified else None
    whole, first, second = (make(max_examples, num_classes) for _ in range(3))
    fill(whole, labels)
    fill(first, labels[:cut])
    kept = first.take_changes()
    if kept is not None:
        second.restore(kept)
    fill(second, labels[cut:], start=min(cut, len(labels)))
    left, right = whole.dataset(copies=False), second.dataset(copies=False)
    assert left.features.tolist() == right.features.tolist()
    assert left.labels.tolist() == right.labels.tolist()
    assert whole.seen == second.seen


@settings(max_examples=40)
@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=6), max_bytes=st.integers(24, 300))
def test_bounds_hold_whatever_comes(sizes: list[int], max_bytes: int) -> None:
    reservoir = make(7, max_bytes=max_bytes)
    for size in sizes:
        offer_all(reservoir, np.ones((size, 5), np.float32), [1] * size)
    assert len(reservoir) <= min(7, max_bytes // 24)


def test_changes_are_told_once_and_are_only_what_changed() -> None:
    reservoir = make()
    fill(reservoir, [0] * 3)
    first = reservoir.take_changes()
    assert first is not None
    assert [entry.slot for entry in first.examples] == [0, 1, 2]
    assert reservoir.take_changes() is None
    fill(reservoir, [1], start=9)
    second = reservoir.take_changes()
    assert second is not None
    assert [entry.slot for entry in second.examples] == [3]
    reservoir.give_back(second)
    assert reservoir.num_changed == 1


def test_smaller_bounds_after_a_restart_keep_fewer() -> None:
    large, small = make(10, num_classes=2), make(4, num_classes=2)
    fill(large, [0, 1] * 5)
    kept = large.take_changes()
    assert kept is not None
    small.restore(kept)
    assert np.bincount(small.dataset(copies=False).labels).tolist() == [2, 2]
    changes = small.take_changes()
    assert changes is None or changes.count == 4


def test_what_does_not_fit_is_refused() -> None:
    reservoir = make(num_classes=2)
    reservoir.offer(np.ones(3, np.float32), 0)
    with pytest.raises(WrongShape, match=r"\(4,\)"):
        reservoir.offer(np.ones(4, np.float32), 0)
    with pytest.raises(OutOfBounds, match="label 2"):
        reservoir.offer(np.ones(3, np.float32), 2)
    with pytest.raises(OutOfBounds, match="NaN"):
        reservoir.offer(np.array([1, np.nan, 2], np.float32), 1)
    with pytest.raises(OutOfBounds, match="max_bytes"):
        make(max_bytes=15).offer(np.ones(3, np.float32), 0)
    assert len(make(max_bytes=16).seen) == 1
    exact = make(max_bytes=16)
    assert exact.offer(np.ones(3, np.float32), 0)
