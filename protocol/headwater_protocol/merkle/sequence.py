"""The Merkle tree of a list, with proofs of inclusion.

Leaves and inner nodes are hashed with different first bytes, so that no node can pass for a leaf,
and the tree of n leaves splits at the largest power of two below n, so that no two lists share a
root. RFC 6962, section 2.1.
"""

import hashlib
from collections.abc import Sequence
from typing import Final

from headwater_protocol.errors import BadProof
from headwater_protocol.identifiers import Digest

LEAF: Final = b"\0"
NODE: Final = b"\1"


def compute_list_root(items: Sequence[bytes]) -> Digest:
    """The root over `items` in their order; an empty list has the hash of nothing."""
    level = [hashlib.sha256(LEAF + item).digest() for item in items]
    if not level:
        return Digest(hashlib.sha256(b"").digest())
    while len(level) > 1:
        paired = [
            hashlib.sha256(NODE + level[index] + level[index + 1]).digest()
            for index in range(0, len(level) - 1, 2)
        ]
        # An odd node at the end rises unhashed, which is the split of the RFC seen from below.
        level = paired if len(level) % 2 == 0 else [*paired, level[-1]]
    return Digest(level[0])


def compute_list_proof(items: Sequence[bytes], index: int) -> tuple[Digest, ...]:
    """The siblings on the way from item `index` up to the root.

    Raises:
        IndexError: If there is no such item.
    """
    if not 0 <= index < len(items):
        raise IndexError(f"item {index} of {len(items)}")
    if len(items) == 1:
        return ()
    split = _split(len(items))
    if index < split:
        return (
            *compute_list_proof(items[:split], index),
            compute_list_root(items[split:]),
        )
    return (
        *compute_list_proof(items[split:], index - split),
        compute_list_root(items[:split]),
    )


def verify_list_proof(
    *, root: Digest, item: bytes, index: int, count: int, siblings: Sequence[Digest]
) -> None:
    """Check that `item` stands at `index` of the `count` items under `root`.

    Raises:
        BadProof: If it does not follow from `siblings`.
    """
    if not 0 <= index < count:
        raise BadProof(f"item {index} of {count}")
    sides: list[bool] = []
    low, high = 0, count
    while high - low > 1:
        split = low + _split(high - low)
        sides.append(index < split)
        low, high = (low, split) if index < split else (split, high)
    if len(sides) != len(siblings):
        raise BadProof(f"{len(siblings)} siblings, the path has {len(sides)}")
    digest = hashlib.sha256(LEAF + item).digest()
    for is_left, sibling in zip(reversed(sides), siblings, strict=True):
        pair = digest + sibling if is_left else sibling + digest
        digest = hashlib.sha256(NODE + pair).digest()
    if digest != root:
        raise BadProof("the list proof leads to another root")


def _split(count: int) -> int:
    return 1 << ((count - 1).bit_length() - 1)
