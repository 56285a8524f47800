"""Waits and limits at their edges."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_agent.machine.backoff import Jitter, compute_wait_ms
from headwater_agent.machine.limits import MAX_OUTBOX_DAYS, DeviceLimits
from headwater_protocol.messages.update import MAX_UPDATE_BYTES


@given(st.integers(0, 10_000), st.integers(1, 10_000), st.integers(0, 10**9), st.binary())
def test_wait_is_between_half_and_all_of_the_capped_doubling(
    attempt: int, first_ms: int, more_ms: int, seed: bytes
) -> None:
    max_ms = first_ms + more_ms
    wait_ms = compute_wait_ms(
        attempt=attempt, first_ms=first_ms, max_ms=max_ms, jitter=Jitter(seed)
    )
    full_ms = min(max_ms, first_ms * 2 ** min(attempt, 40))
    assert full_ms - full_ms // 2 <= wait_ms <= full_ms
    assert wait_ms >= 1


def test_jitter_spreads_and_repeats_from_its_seed() -> None:
    first, second, other = Jitter(b"a"), Jitter(b"a"), Jitter(b"b")
    values = [first.below(1_000) for _ in range(100)]
    assert values == [second.below(1_000) for _ in range(100)]
    assert values != [other.below(1_000) for _ in range(100)]
    assert len(set(values)) > 80


@pytest.mark.parametrize(
    "changes",
    [
        {"max_outbox_bytes": MAX_UPDATE_BYTES + 1},
        {"max_outbox_bytes": 0},
        {"max_parameters": 0},
        {"max_program_bytes": 0},
        {"max_outbox_days": 0},
        {"max_outbox_days": MAX_OUTBOX_DAYS + 1},
        {"first_resend_ms": 0},
        {"resume_jitter_ms": 0},
        {"first_refetch_ms": 2, "max_refetch_ms": 1},
    ],
)
def test_limits_that_make_no_sense_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        DeviceLimits(**changes)


def test_longest_wait_of_an_update_is_allowed() -> None:
    assert DeviceLimits(max_outbox_days=MAX_OUTBOX_DAYS).max_outbox_days == MAX_OUTBOX_DAYS


def test_largest_update_of_the_protocol_is_allowed() -> None:
    assert DeviceLimits(max_outbox_bytes=MAX_UPDATE_BYTES).max_outbox_bytes == MAX_UPDATE_BYTES
