import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_protocol.errors import BadProof
from headwater_protocol.merkle.sequence import (
    compute_list_proof,
    compute_list_root,
    verify_list_proof,
)


def reference_root(items: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, word for word."""
    if not items:
        return hashlib.sha256(b"").digest()
    if len(items) == 1:
        return hashlib.sha256(b"\0" + items[0]).digest()
    split = 1
    while split * 2 < len(items):
        split *= 2
    return hashlib.sha256(
        b"\1" + reference_root(items[:split]) + reference_root(items[split:])
    ).digest()


def is_proven(root, item, index, count, siblings) -> bool:
    try:
        verify_list_proof(root=root, item=item, index=index, count=count, siblings=siblings)
    except BadProof:
        return False
    return True


@pytest.mark.parametrize("count", range(20))
def test_the_root_is_that_of_the_rfc(count):
    items = [b"item %d" % index for index in range(count)]
    assert compute_list_root(items) == reference_root(items)


def test_a_certificate_transparency_log_gives_the_published_root():
    items = [
        bytes.fromhex(text)
        for text in (
            "",
            "00",
            "10",
            "2021",
            "3031",
            "40414243",
            "5051525354555657",
            "606162636465666768696a6b6c6d6e6f",
        )
    ]
    expected = "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
    assert compute_list_root(items).hex() == expected


@pytest.mark.parametrize("count", range(1, 18))
def test_every_item_is_proven_at_its_place_and_at_no_other(count):
    items = [b"%d" % index for index in range(count)]
    root = compute_list_root(items)
    for index in range(count):
        siblings = compute_list_proof(items, index)
        assert is_proven(root, items[index], index, count, siblings)
        for other in range(-1, count + 1):
            if other != index:
                assert not is_proven(root, items[index], other, count, siblings)
                assert not is_proven(root, b"%d" % other, index, count, siblings)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=40), st.data())
def test_a_proof_that_was_changed_fails(items, data):
    index = data.draw(st.integers(0, len(items) - 1))
    root, siblings = compute_list_root(items), compute_list_proof(items, index)
    item = items[index]
    assert is_proven(root, item, index, len(items), siblings)
    assert not is_proven(bytes(32), item, index, len(items), siblings)
    assert not is_proven(root, item + b"\0", index, len(items), siblings)
    assert not is_proven(root, item, index, len(items), (*siblings, root))
    assert not is_proven(root, item, index, len(items), (root, *siblings))
    if siblings:
        assert not is_proven(root, item, index, len(items), siblings[:-1])
        assert not is_proven(root, item, index, len(items), siblings[1:])
        at = data.draw(st.integers(0, len(siblings) - 1))
        spoiled = [*siblings[:at], bytes(32), *siblings[at + 1 :]]
        assert not is_proven(root, item, index, len(items), spoiled)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=4), max_size=12), st.lists(st.binary(max_size=4), max_size=12))
def test_two_lists_share_a_root_only_when_they_are_equal(left, right):
    assert (compute_list_root(left) == compute_list_root(right)) == (left == right)


def test_an_inner_node_does_not_pass_for_an_item():
    items = [b"a", b"b", b"c", b"d"]
    left = compute_list_root(items[:2])
    right = compute_list_root(items[2:])
    assert compute_list_root([left, right]) != compute_list_root(items)
    assert not is_proven(compute_list_root(items), left, 0, 2, [right])


@pytest.mark.parametrize("index", [-1, 3])
def test_there_is_no_proof_of_an_item_that_is_not_there(index):
    with pytest.raises(IndexError):
        compute_list_proof([b"a", b"b", b"c"], index)
