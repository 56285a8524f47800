"""A verifier that checks each signature once and counts what it checked.

A certificate stands in the store and in the next block, a checkpoint's signatures on its shard and
on the main chain: the same three byte strings give the same answer, so a good one is remembered.
"""

import hashlib
from typing import Final

from headwater_protocol.crypto.signing import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Verifier

MAX_REMEMBERED: Final = 65_536
"""Answers kept, 32 bytes each and the oldest dropped; one dropped is only checked again."""


class OnceVerifier:
    """Remembers what verified."""

    __slots__ = ("_known", "_verifier", "num_verified")

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier
        self._known: dict[bytes, None] = {}
        self.num_verified = 0
        """Good signatures checked, each once."""

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """Whether `signature` (64 bytes) is `public_key`'s (32 bytes) over `message`."""
        if len(signature) != SIGNATURE_BYTES or len(public_key) != PUBLIC_KEY_BYTES:
            return False
        name = hashlib.sha256(public_key + signature + message).digest()
        if name in self._known:
            return True
        if not self._verifier.verify(public_key, message, signature):
            return False
        if len(self._known) >= MAX_REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[name] = None
        self.num_verified += 1
        return True
