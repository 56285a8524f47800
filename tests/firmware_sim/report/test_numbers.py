"""Numbers as people read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_firmware_sim.report.numbers import (
    TIME_STEPS_MS,
    format_bytes,
    format_count,
    format_share,
    format_time,
    make_ticks,
)


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (format_time, 0, "0"),
        (format_time, 250, "250 ms"),
        (format_time, 1_500, "1.5 s"),
        (format_time, 60_000, "1 min"),
        (format_time, 405_000, "6 min 45 s"),
        (format_time, 3_600_000, "1 h"),
        (format_time, 90 * 60_000, "1 h 30 min"),
        (format_time, 3 * 86_400_000 + 5_000, "3 d"),
        (format_bytes, 999, "999 B"),
        (format_bytes, 1_250_000, "1.25 MB"),
        (format_share, 1.0, "100 %"),
        (format_share, 0.9337, "93.4 %"),
        (format_count, 1_234_567, "1,234,567"),
        (format_count, 0.125, "0.125"),
    ],
)
def test_numbers_are_short(write, value, text):
    assert write(value) == text


@given(st.floats(1e-3, 1e12), st.integers(3, 20))
def test_ticks_start_at_zero_cover_the_range_and_are_few(highest, at_most):
    ticks = make_ticks(highest, at_most=at_most)
    assert ticks[0] == 0
    assert ticks[-1] >= highest * (1 - 1e-6)
    assert 2 <= len(ticks) <= at_most


@given(st.integers(1, 10**12), st.integers(3, 20))
def test_ticks_of_time_use_the_steps_of_clocks(highest, at_most):
    ticks = make_ticks(highest, at_most=at_most, steps=TIME_STEPS_MS)
    assert ticks[1] - ticks[0] in TIME_STEPS_MS
