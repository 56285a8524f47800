import hashlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_protocol.errors import BadProof
from headwater_protocol.merkle.trie import (
    EMPTY,
    MAX_KEY_BYTES,
    MapProof,
    MerkleMap,
    compute_proven_root,
    part_of,
    verify_map_proof,
)

keys = st.binary(max_size=6)
entries = st.dictionaries(keys, st.binary(max_size=6), max_size=30)
changes = st.lists(st.tuples(keys, st.none() | st.binary(max_size=6)), max_size=40)


def make_map(contents: dict[bytes, bytes]) -> MerkleMap[bytes]:
    return MerkleMap[bytes]().updated({key: (value, value) for key, value in contents.items()})


def reference_root(contents: dict[bytes, bytes]) -> bytes:
    """The root from the definition: a subtree of one entry is that entry."""
    rows = {
        f"{int.from_bytes(hashlib.sha256(key).digest(), 'big'):0256b}": (key, value)
        for key, value in contents.items()
    }

    def root_of(prefix: str, bits: list[str]) -> bytes:
        if not bits:
            return bytes(32)
        if len(bits) == 1:
            key, value = rows[bits[0]]
            return hashlib.sha256(
                b"\0" + hashlib.sha256(key).digest() + hashlib.sha256(value).digest()
            ).digest()
        sides = [
            root_of(prefix + side, [row for row in bits if row.startswith(prefix + side)])
            for side in "01"
        ]
        return hashlib.sha256(b"\1" + sides[0] + sides[1]).digest()

    return root_of("", sorted(rows))


def is_proven(root: bytes, key: bytes, value: bytes | None, proof: MapProof) -> bool:
    try:
        verify_map_proof(root=root, key=key, value=value, proof=proof)
    except BadProof:
        return False
    return True


@settings(max_examples=80, deadline=None)
@given(entries)
def test_the_root_follows_from_the_definition(contents):
    assert make_map(contents).root == reference_root(contents)


@settings(max_examples=80, deadline=None)
@given(entries, st.integers(0, 10))
def test_the_parts_of_a_map_are_all_of_it_in_order(contents, bits):
    tree = make_map(contents)
    parts = [list(tree.part(index, bits=bits)) for index in range(2**bits)]
    assert [entry for part in parts for entry in part] == list(tree)
    for index, part in enumerate(parts):
        assert all(part_of(key, bits=bits) == index for key, _ in part)


@settings(max_examples=100, deadline=None)
@given(entries, st.lists(changes, max_size=4))
def test_changes_in_batches_lead_to_the_map_made_at_once(contents, batches):
    tree, expected = make_map(contents), dict(contents)
    for batch in batches:
        merged = dict(batch)
        tree = tree.updated(
            {key: None if value is None else (value, value) for key, value in merged.items()}
        )
        for key, value in merged.items():
            if value is None:
                expected.pop(key, None)
            else:
                expected[key] = value
    again = make_map(expected)
    assert tree.root == again.root
    assert len(tree) == len(again) == len(expected)
    assert list(tree) == list(again)
    assert dict(tree) == expected
    assert all(tree.get(key) == value for key, value in expected.items())


@settings(max_examples=50, deadline=None)
@given(entries, st.randoms(use_true_random=False))
def test_the_order_of_insertion_does_not_matter(contents, random):
    rows = list(contents.items())
    random.shuffle(rows)
    tree: MerkleMap[bytes] = MerkleMap()
    for key, value in rows:
        tree = tree.updated({key: (value, value)})
    assert tree.root == make_map(contents).root


@settings(max_examples=50, deadline=None)
@given(entries, changes)
def test_an_older_version_stays_as_it_was(contents, batch):
    tree = make_map(contents)
    root, rows = tree.root, list(tree)
    tree.updated({key: None if value is None else (value, value) for key, value in batch})
    assert (tree.root, list(tree)) == (root, rows)


@settings(max_examples=80, deadline=None)
@given(entries, keys)
def test_presence_and_absence_are_proven_and_nothing_else_is(contents, key):
    tree = make_map(contents)
    for name in (*contents, key):
        value, proof = contents.get(name), tree.prove(name)
        assert is_proven(tree.root, name, value, proof)
        assert not is_proven(tree.root, name, b"another" if value is None else None, proof)
        assert not is_proven(tree.root, name, (value or b"") + b"\0", proof)
        assert not is_proven(bytes([1]) * 32, name, value, proof)
        for other in contents:
            if other != name:
                assert not is_proven(tree.root, other, None, proof)
                assert not is_proven(tree.root, other, value, proof)


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(keys, st.binary(max_size=6), min_size=2, max_size=30), keys, st.data())
def test_a_proof_that_was_changed_fails(contents, key, data):
    tree = make_map(contents)
    value, proof = contents.get(key), tree.prove(key)
    siblings = proof.siblings
    longer = data.draw(st.sampled_from([EMPTY, tree.root, hashlib.sha256(b"").digest()]))
    at = data.draw(st.integers(0, len(siblings) - 1))
    for changed in (
        siblings[:-1],
        siblings[1:],
        (*siblings, longer),
        (longer, *siblings),
        (*siblings[:at], bytes([7]) * 32, *siblings[at + 1 :]),
    ):
        assert not is_proven(tree.root, key, value, replace(proof, siblings=changed))


def test_an_empty_map_proves_that_everything_is_absent():
    tree: MerkleMap[bytes] = MerkleMap()
    assert tree.root == EMPTY
    assert tree.prove(b"x") == MapProof(siblings=(), other_key_hash=None, other_value_hash=None)
    assert is_proven(EMPTY, b"x", None, tree.prove(b"x"))
    assert not is_proven(EMPTY, b"x", b"y", tree.prove(b"x"))


def test_a_proof_of_absence_names_the_entry_that_stands_in_the_way():
    tree = make_map({b"a": b"1"})
    proof = tree.prove(b"b")
    assert proof.other_key_hash == hashlib.sha256(b"a").digest()
    assert is_proven(tree.root, b"b", None, proof)


@pytest.mark.parametrize(
    ("value", "changed", "message"),
    [
        (b"1", {"other_key_hash": bytes(32)}, "presence"),
        (b"1", {"other_value_hash": bytes(32)}, "presence"),
        (None, {"other_value_hash": bytes(32)}, "without its key"),
        (None, {"other_key_hash": bytes(32)}, "without its value"),
        (
            None,
            {
                "other_key_hash": hashlib.sha256(b"a").digest(),
                "other_value_hash": hashlib.sha256(b"1").digest(),
            },
            "own",
        ),
    ],
)
def test_a_proof_that_contradicts_itself_is_refused(value, changed, message):
    proof = replace(make_map({b"a": b"1", b"b": b"2"}).prove(b"a"), **changed)
    with pytest.raises(BadProof, match=message):
        compute_proven_root(key=b"a", value=value, proof=proof)


def test_an_entry_off_the_path_does_not_prove_absence():
    tree = make_map({b"%d" % index: b"v" for index in range(8)})
    for index in range(8):
        leaf = b"%d" % index
        proof = replace(
            tree.prove(leaf),
            other_key_hash=hashlib.sha256(leaf).digest(),
            other_value_hash=hashlib.sha256(b"v").digest(),
        )
        for other in range(8):
            if other != index:
                with pytest.raises(BadProof, match="path"):
                    compute_proven_root(key=b"%d" % other, value=None, proof=proof)


def test_a_key_at_its_limit_is_taken_and_one_past_it_is_not():
    tree = make_map({b"k" * MAX_KEY_BYTES: b"v"})
    assert tree.get(b"k" * MAX_KEY_BYTES) == b"v"
    with pytest.raises(ValueError, match="129 bytes"):
        make_map({b"k" * (MAX_KEY_BYTES + 1): b"v"})


def test_the_root_costs_what_changed_and_not_what_is_stored():
    tree = make_map({b"%d" % index: b"v" for index in range(2_000)})
    changed = tree.updated({b"7": (b"w", b"w")})
    before, after = set(map(id, nodes(tree))), set(map(id, nodes(changed)))
    assert len(after - before) <= 30


def nodes(tree: MerkleMap[bytes]):
    stack = [tree._node]
    while stack:
        node = stack.pop()
        if node is not None:
            yield node
            if isinstance(node, tuple):
                stack += node[1:]
