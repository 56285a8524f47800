"""A persistent Merkle map from byte keys to values, with proofs of presence and of absence.

The map is a binary trie over SHA-256 of the key in which a subtree of one entry is that entry.
Nodes are immutable and shared between versions, so a snapshot costs nothing, and a batch of
changes hashes only the paths that it touched: the root costs what a block changed, not what is
stored. The shape depends on the contents alone, never on the order of insertion.

Dahlberg, Pulls, Peeters, "Efficient Sparse Merkle Trees", NordSec 2016; the collapsed subtrees
follow Gao, Hu, Wu, "Jellyfish Merkle Tree", 2021.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Generic, TypeAlias, TypeVar, final

from headwater_protocol.encoding.record import Count
from headwater_protocol.errors import BadProof
from headwater_protocol.identifiers import Digest

V = TypeVar("V")

EMPTY: Final = Digest(bytes(32))
"""The digest of a subtree without entries; no preimage of it is known."""

MAX_KEY_BYTES: Final = 128
MAX_PROOF_SIBLINGS: Final = 256
"""The depth at which two different key hashes must part."""

_LEAF: Final = b"\0"
_BRANCH: Final = b"\1"


@final
@dataclass(slots=True)
class _Leaf(Generic[V]):
    """One entry.

    A large map has millions of them, so what hashes to its digest is not kept beside it: the digest
    is computed where a branch above it changes, and the hash of the key where it is split.
    """

    key: bytes
    value: V
    value_hash: bytes

    @property
    def digest(self) -> Digest:
        key_hash = hashlib.sha256(self.key).digest()
        return Digest(hashlib.sha256(_LEAF + key_hash + self.value_hash).digest())


# A branch is a plain tuple of its digest, left and right, because that is the smallest there is.
_Branch: TypeAlias = "tuple[Digest, _Node[V], _Node[V]]"
_Node: TypeAlias = "_Leaf[V] | _Branch[V] | None"
_Change: TypeAlias = "tuple[bytes, bytes, tuple[bytes, V] | None]"
"""The hash of a key, the key, and what is put there."""
_Row: TypeAlias = "tuple[bytes, _Leaf[V]]"
"""The hash of a leaf's key, and the leaf."""

_SIDES: Final = tuple(
    tuple(1 + (byte >> bit & 1) for bit in range(7, -1, -1)) for byte in range(256)
)
"""The way down a byte of a key's hash: for each of its bits, where a branch has that side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapProof:
    """What leads from one key to the root of a map."""

    siblings: Annotated[tuple[Digest, ...], Count(0, MAX_PROOF_SIBLINGS)]
    """Digests beside the path, from the root downwards; zeros where the side is empty."""
    other_key_hash: Digest | None
    """For absence where the path ends at another entry: the hash of its key."""
    other_value_hash: Digest | None
    """And the hash of its value."""


class MerkleMap(Generic[V]):
    """An immutable map; `updated` gives the next version.

    Values are any objects; the caller gives each one's bytes once, when it is put, and only their
    hash is kept for the root.
    """

    __slots__ = ("_count", "_node")

    def __init__(self, node: _Node[V] = None, count: int = 0) -> None:
        self._node = node
        self._count = count

    @property
    def root(self) -> Digest:
        """The digest of the whole map; zeros when it is empty."""
        return _digest(self._node)

    def __len__(self) -> int:
        return self._count

    def get(self, key: bytes) -> V | None:
        """The value at `key`, or None."""
        node = self._node
        for byte in hashlib.sha256(key).digest():
            for side in _SIDES[byte]:
                if node is None:
                    return None
                if type(node) is _Leaf:
                    return node.value if node.key == key else None
                node = node[side]  # type: ignore[assignment]  # `side` is of a branch and no digest
        return node.value if type(node) is _Leaf and node.key == key else None

    def __iter__(self) -> Iterator[tuple[bytes, V]]:
        """Entries in order of their keys' hashes, the same for equal maps."""
        yield from _walk(self._node)

    def part(self, index: int, *, bits: int) -> Iterator[tuple[bytes, V]]:
        """Entries of one of `2**bits` parts, in order of their keys' hashes.

        What keys a part has is `part_of`'s to say, so a look at a part costs a part of the map.
        """
        node = self._node
        for depth in range(bits):
            if node is None or type(node) is _Leaf:
                break
            node = node[2] if index >> (bits - 1 - depth) & 1 else node[1]
        for key, value in _walk(node):
            if part_of(key, bits=bits) == index:
                yield key, value

    def updated(self, changes: Mapping[bytes, tuple[bytes, V] | None]) -> MerkleMap[V]:
        """The map after `changes`: to each key its value's bytes and the value, or None to delete.

        Raises:
            ValueError: If a key is longer than `MAX_KEY_BYTES`.
        """
        ordered: list[_Change[V]] = []
        for key, change in changes.items():
            if len(key) > MAX_KEY_BYTES:
                raise ValueError(f"a key of {len(key)} bytes, the limit is {MAX_KEY_BYTES}")
            ordered.append((_hash(key), key, change))
        ordered.sort(key=lambda change: change[0])
        if not ordered:
            return self
        node, added = _update(self._node, ordered, 0, len(ordered), 0)
        return MerkleMap(node, self._count + added)

    def prove(self, key: bytes) -> MapProof:
        """The proof that `key` has its value, or that it has none."""
        key_hash = _hash(key)
        bits = int.from_bytes(key_hash, "big")
        siblings: list[Digest] = []
        node = self._node
        depth = 0
        while node is not None and type(node) is not _Leaf:
            left, right = node[1], node[2]
            is_right = bits >> (255 - depth) & 1
            siblings.append(_digest(left if is_right else right))
            node = right if is_right else left
            depth += 1
        if node is None or node.key == key:
            return MapProof(siblings=tuple(siblings), other_key_hash=None, other_value_hash=None)
        return MapProof(
            siblings=tuple(siblings),
            other_key_hash=Digest(_hash(node.key)),
            other_value_hash=Digest(node.value_hash),
        )


def part_of(key: bytes, *, bits: int) -> int:
    """The part that `key` is in, where a map has `2**bits` of them."""
    return _number(_hash(key)) >> (256 - bits)


def verify_map_proof(*, root: Digest, key: bytes, value: bytes | None, proof: MapProof) -> None:
    """Check that `key` has `value` in the map of `root`, or, with None, that it has no value.

    Raises:
        BadProof: If that does not follow from `proof`.
    """
    if compute_proven_root(key=key, value=value, proof=proof) != root:
        raise BadProof("the map proof leads to another root")


def compute_proven_root(*, key: bytes, value: bytes | None, proof: MapProof) -> Digest:
    """The root of the map in which, by `proof`, `key` has `value`, or none.

    Raises:
        BadProof: If the proof contradicts itself or is about another key.
    """
    key_hash = _hash(key)
    depth = len(proof.siblings)
    if value is not None:
        if proof.other_key_hash is not None or proof.other_value_hash is not None:
            raise BadProof("a proof of presence names another entry")
        digest = _leaf_digest(key_hash, hashlib.sha256(value).digest())
    elif proof.other_key_hash is None:
        if proof.other_value_hash is not None:
            raise BadProof("a value without its key")
        digest = EMPTY
    else:
        if proof.other_value_hash is None:
            raise BadProof("a key without its value")
        if proof.other_key_hash == key_hash:
            raise BadProof("the entry named for absence is the key's own")
        shift = 256 - depth
        if _number(proof.other_key_hash) >> shift != _number(key_hash) >> shift:
            raise BadProof("the other entry does not lie on the key's path")
        digest = _leaf_digest(proof.other_key_hash, proof.other_value_hash)
    bits = _number(key_hash)
    for level in range(depth - 1, -1, -1):
        sibling = proof.siblings[level]
        if bits >> (255 - level) & 1:
            digest = _branch_digest(sibling, digest)
        else:
            digest = _branch_digest(digest, sibling)
    return digest


def _hash(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _number(digest: bytes) -> int:
    return int.from_bytes(digest, "big")


def _leaf_digest(key_hash: bytes, value_hash: bytes) -> Digest:
    return Digest(hashlib.sha256(_LEAF + key_hash + value_hash).digest())


def _branch_digest(left: bytes, right: bytes) -> Digest:
    return Digest(hashlib.sha256(_BRANCH + left + right).digest())


def _digest(node: _Node[V]) -> Digest:
    if node is None:
        return EMPTY
    return node.digest if type(node) is _Leaf else node[0]


def _walk(node: _Node[V]) -> Iterator[tuple[bytes, V]]:
    stack: list[_Node[V]] = [node]
    while stack:
        node = stack.pop()
        if node is None:
            continue
        if type(node) is _Leaf:
            yield node.key, node.value
        else:
            stack.append(node[2])
            stack.append(node[1])


def _update(
    node: _Node[V], changes: list[_Change[V]], low: int, high: int, depth: int
) -> tuple[_Node[V], int]:
    """The subtree after `changes[low:high]`, and by how many entries it grew."""
    if low == high:
        return node, 0
    if node is None or type(node) is _Leaf:
        return _update_leaf(node, changes, low, high, depth)
    middle = _partition(changes, low, high, depth)
    left, left_added = _update(node[1], changes, low, middle, depth + 1)
    right, right_added = _update(node[2], changes, middle, high, depth + 1)
    return _join(left, right), left_added + right_added


def _update_leaf(
    node: _Leaf[V] | None, changes: list[_Change[V]], low: int, high: int, depth: int
) -> tuple[_Node[V], int]:
    rows: list[_Row[V]] = []
    before = 0 if node is None else 1
    kept: _Row[V] | None = None if node is None else (_hash(node.key), node)
    for key_hash, key, change in changes[low:high]:
        if kept is not None and kept[0] <= key_hash:
            if kept[0] < key_hash:
                rows.append(kept)
            kept = None
        if change is not None:
            rows.append((key_hash, _Leaf(key, change[1], hashlib.sha256(change[0]).digest())))
    if kept is not None:
        rows.append(kept)
    return _build(rows, 0, len(rows), depth), len(rows) - before


def _build(rows: list[_Row[V]], low: int, high: int, depth: int) -> _Node[V]:
    if high - low <= 1:
        return rows[low][1] if high > low else None
    middle = _partition(rows, low, high, depth)
    return _join(
        _build(rows, low, middle, depth + 1), _build(rows, middle, high, depth + 1), full=True
    )


def _join(left: _Node[V], right: _Node[V], *, full: bool = False) -> _Node[V]:
    if not full:
        if left is None and (right is None or type(right) is _Leaf):
            return right
        if right is None and type(left) is _Leaf:
            return left
    # As `_digest` and `_branch_digest` have it, but most of an update's time goes here.
    digest = hashlib.sha256(
        _BRANCH
        + (EMPTY if left is None else left.digest if type(left) is _Leaf else left[0])
        + (EMPTY if right is None else right.digest if type(right) is _Leaf else right[0])
    ).digest()
    return (Digest(digest), left, right)


def _partition(rows: list[_Row[V]] | list[_Change[V]], low: int, high: int, depth: int) -> int:
    """Where the rows whose key hash has a one at bit `depth` begin."""
    byte, mask = depth >> 3, 128 >> (depth & 7)
    while low < high:
        middle = (low + high) // 2
        if rows[middle][0][byte] & mask:
            high = middle
        else:
            low = middle + 1
    return low
