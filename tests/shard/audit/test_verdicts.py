"""The audit's own arithmetic, against the ledger's."""

from hypothesis import given
from hypothesis import strategies as st

from headwater_protocol.identifiers import DeviceId
from headwater_shard.apportion import apportion
from headwater_shard.audit.verdicts import split_exactly, weigh_median
from headwater_shard.shardchain.score import compute_weighted_median


@given(
    st.lists(st.tuples(st.integers(-10_000, 10_000), st.integers(1, 2**53)), min_size=1, max_size=9)
)
def test_both_medians_agree(cast: list[tuple[int, int]]) -> None:
    assert weigh_median(cast) == compute_weighted_median(cast)


@given(
    st.integers(0, 2**60),
    st.dictionaries(st.binary(min_size=1, max_size=2), st.integers(0, 2**40), max_size=9),
)
def test_both_splits_agree(amount: int, merits: dict[bytes, int]) -> None:
    by_device = {DeviceId(name): merit for name, merit in merits.items()}
    assert split_exactly(amount, by_device) == apportion(amount, merits)


def test_a_split_of_nothing_is_empty() -> None:
    assert split_exactly(5, {DeviceId(b"a"): 0}) == {}
