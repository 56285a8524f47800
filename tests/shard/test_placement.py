"""Laws of placement: everybody agrees, the load is even, and an election moves little."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from headwater_protocol.chain.committee import Committee, make_committee
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.identifiers import Digest, ValidatorId
from headwater_shard.placement import COPIES, list_holders, rank_holders

VALIDATORS = st.binary(min_size=32, max_size=32).map(ValidatorId)
COMMITTEES = st.dictionaries(VALIDATORS, st.integers(1, 1_000), min_size=1, max_size=12)
BLOBS = st.binary(min_size=32, max_size=32).map(Digest)


def committee_of(size: int) -> Committee:
    return make_committee((ValidatorId(blob_digest(b"%d" % n)), 1) for n in range(size))


@given(powers=COMMITTEES, blob=BLOBS)
def test_every_delegate_is_ranked_once(powers: dict[ValidatorId, int], blob: Digest) -> None:
    committee = make_committee(powers.items())
    ranked = rank_holders(blob, committee)
    assert sorted(ranked) == sorted(powers)
    assert list_holders(blob, committee) == ranked[:COPIES]


@given(powers=COMMITTEES, blob=BLOBS, other=st.integers(1, 1_000))
def test_power_and_order_decide_nothing(
    powers: dict[ValidatorId, int], blob: Digest, other: int
) -> None:
    reordered = dict.fromkeys(reversed(list(powers)), other)
    one, two = make_committee(powers.items()), make_committee(reordered.items())
    assert rank_holders(blob, one) == rank_holders(blob, two)


@given(powers=COMMITTEES, blob=BLOBS, joins=VALIDATORS)
def test_who_joins_displaces_at_most_one_holder(
    powers: dict[ValidatorId, int], blob: Digest, joins: ValidatorId
) -> None:
    before = make_committee(powers.items())
    after = make_committee({**powers, joins: 1}.items())
    assert [v for v in rank_holders(blob, after) if v != joins or v in powers] == list(
        rank_holders(blob, before)
    )
    assert len(set(list_holders(blob, before)) - set(list_holders(blob, after))) <= 1
    assert set(list_holders(blob, after)) - set(list_holders(blob, before)) <= {joins}


@given(powers=COMMITTEES.filter(lambda powers: len(powers) > 1), blob=BLOBS)
def test_who_leaves_is_replaced_by_the_next_and_nobody_else_moves(
    powers: dict[ValidatorId, int], blob: Digest
) -> None:
    before = make_committee(powers.items())
    ranked = rank_holders(blob, before)
    for leaves in ranked:
        after = make_committee((v, p) for v, p in powers.items() if v != leaves)
        expected = tuple(v for v in ranked if v != leaves)[:COPIES]
        assert list_holders(blob, after) == expected


def test_load_is_even() -> None:
    committee, num_blobs = committee_of(10), 4_000
    load: Counter[ValidatorId] = Counter()
    for number in range(num_blobs):
        load.update(list_holders(blob_digest(b"blob %d" % number), committee))
    mean = num_blobs * COPIES / 10
    # Six standard deviations of a binomial count: the hash is fixed, so this is no coin toss.
    slack = 6 * (mean * (1 - COPIES / 10)) ** 0.5
    assert len(load) == 10
    assert all(abs(count - mean) < slack for count in load.values())


def test_one_of_ten_that_leaves_moves_its_own_share() -> None:
    before, num_blobs = committee_of(10), 1_000
    gone = before.delegates[3].validator
    after = make_committee(
        (entry.validator, entry.voting_power)
        for entry in before.delegates
        if entry.validator != gone
    )
    moved = 0
    for number in range(num_blobs):
        blob = blob_digest(b"blob %d" % number)
        new = set(list_holders(blob, after)) - set(list_holders(blob, before))
        assert len(new) == (gone in list_holders(blob, before))
        moved += len(new)
    assert 0 < moved < 2 * num_blobs * COPIES / 10


def test_a_small_committee_keeps_everything() -> None:
    for size in (1, 2, 3):
        assert len(list_holders(blob_digest(b"x"), committee_of(size))) == size
