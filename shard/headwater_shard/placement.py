"""Which gateways keep a blob: the k of a committee that a hash of blob and delegate ranks first.

Everybody computes the same order from the committee on the chain, so there is no directory that
could lie or be away. When a delegate leaves, only the blobs that it kept get one more holder; when
one joins, it takes over only those that rank it among the first k.

Power plays no part: it says how much a vote weighs, not how much disk there is. One gateway may
host several delegates, and then keeps the blobs of all of them.

Thaler, Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM ToN 1998.
"""

from typing import Final

from headwater_protocol.chain.committee import Committee
from headwater_protocol.crypto.hashing import Domain, hash_bytes
from headwater_protocol.identifiers import Digest, ValidatorId

COPIES: Final = 3
"""Delegates that keep a blob: two may lose their disks. A committee of fewer keeps it whole."""


def rank_holders(blob: Digest, committee: Committee) -> tuple[ValidatorId, ...]:
    """All delegates of `committee`, the ones that should keep `blob` first."""
    return tuple(
        sorted(
            (delegate.validator for delegate in committee.delegates),
            key=lambda validator: hash_bytes(Domain.PLACEMENT, blob, validator),
        )
    )


def list_holders(
    blob: Digest, committee: Committee, *, copies: int = COPIES
) -> tuple[ValidatorId, ...]:
    """The delegates that keep `blob`: `copies` of them, or all where there are fewer."""
    return rank_holders(blob, committee)[:copies]
