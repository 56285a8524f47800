"""How often an address may ask."""

from hypothesis import given
from hypothesis import strategies as st

from headwater_gateway.web.rate import RateLimit


def test_a_burst_is_let_through_and_the_next_one_waits():
    limit = RateLimit(burst=3, refill_ms=100)
    assert [limit.wait_ms("10.0.0.1", 0) for _ in range(4)] == [0, 0, 0, 100]
    assert limit.wait_ms("10.0.0.1", 99) == 1
    assert limit.wait_ms("10.0.0.1", 100) == 0
    assert limit.wait_ms("10.0.0.1", 100) == 100
    assert limit.wait_ms("10.0.0.2", 100) == 0


@given(
    gaps=st.lists(st.integers(0, 300), max_size=60),
    burst=st.integers(1, 5),
    refill_ms=st.integers(1, 100),
)
def test_no_window_has_more_than_a_burst_and_what_was_refilled(gaps, burst, refill_ms):
    limit = RateLimit(burst=burst, refill_ms=refill_ms)
    now_ms, taken = 0, []
    for gap in gaps:
        now_ms += gap
        wait_ms = limit.wait_ms("a", now_ms)
        if wait_ms == 0:
            taken.append(now_ms)
        else:
            assert wait_ms <= refill_ms
    for first, begin in enumerate(taken):
        for last in range(first, len(taken)):
            assert last - first + 1 <= burst + (taken[last] - begin) // refill_ms


def test_an_ipv6_household_has_one_bucket():
    limit = RateLimit(burst=1, refill_ms=100)
    assert limit.wait_ms("2001:db8::1", 0) == 0
    assert limit.wait_ms("2001:db8::2", 0) == 100
    assert limit.wait_ms("2001:db8:0:1::2", 0) == 0
    assert limit.wait_ms("fe80::1%eth0", 0) == 0


def test_so_many_addresses_are_remembered_and_no_more():
    limit = RateLimit(burst=1, refill_ms=100, max_addresses=2)
    for address in ("10.0.0.1", "10.0.0.2", "10.0.0.3"):
        assert limit.wait_ms(address, 0) == 0
    assert limit.wait_ms("10.0.0.3", 0) == 100
    assert limit.wait_ms("10.0.0.1", 0) == 0
