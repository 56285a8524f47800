"""A verifier that remembers, for thousands of devices and delegates in one process.

Whether a signature holds is a pure function, so an answer given once is given for all who ask.
"""

import hashlib
import threading
from typing import Final

from headwater_protocol.crypto.signing import is_signature

MAX_REMEMBERED: Final = 400_000
"""Answers kept, about 120 bytes each: as many signatures as a large fleet has under way at once."""
NAME_BYTES: Final = 16
"""Of what a signature is remembered by."""


class RememberingVerifier:
    """Checks each signature once; safe to use from several threads.

    The older half of what it remembers is forgotten at a time.
    """

    def __init__(self, *, max_remembered: int = MAX_REMEMBERED) -> None:
        self._max_young = max(1, max_remembered // 2)
        self._young: dict[bytes, bool] = {}
        self._old: dict[bytes, bool] = {}
        self._lock = threading.Lock()
        self.num_checked = 0
        """Signatures checked; the rest was remembered."""
        self.num_witnessed = 0
        """Signatures seen made."""

    def remember(self, public_key: bytes, message: bytes, signature: bytes) -> None:
        """Take a signature for good, because it was seen made."""
        with self._lock:
            self.num_witnessed += 1
            self._keep(_name(public_key, message, signature), answer=True)

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """Whether `signature` is `public_key`'s over `message`."""
        name = _name(public_key, message, signature)
        # A look needs no lock; an answer that is just growing old is found or not.
        known = self._young.get(name)
        if known is None:
            known = self._old.get(name)
        if known is not None:
            return known
        answer = is_signature(public_key, message, signature)
        with self._lock:
            self.num_checked += 1
            self._keep(name, answer=answer)
        return answer

    def _keep(self, name: bytes, *, answer: bool) -> None:
        if len(self._young) >= self._max_young:
            self._old, self._young = self._young, {}
        self._young[name] = answer


def _name(public_key: bytes, message: bytes, signature: bytes) -> bytes:
    return hashlib.blake2b(public_key + signature + message, digest_size=NAME_BYTES).digest()
