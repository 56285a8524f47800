"""A verifier that remembers, for thousands of devices and delegates in one process.

Whether a signature holds is a pure function, so an answer given once is given for all who ask.
"""

import hashlib
import threading
from collections import OrderedDict

from headwater_protocol.crypto.signing import is_signature

MAX_REMEMBERED: int = 200_000
"""Answers kept; each takes about 200 bytes."""


class RememberingVerifier:
    """Checks each signature once; safe to use from several threads."""

    def __init__(self, *, max_remembered: int = MAX_REMEMBERED) -> None:
        self._max_remembered = max_remembered
        self._answers: OrderedDict[bytes, bool] = OrderedDict()
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
        # One look needs no lock; an answer that is just being forgotten is found or not.
        known = self._answers.get(name)
        if known is not None:
            return known
        answer = is_signature(public_key, message, signature)
        with self._lock:
            self.num_checked += 1
        self._keep(name, answer=answer)
        return answer

    def _keep(self, name: bytes, *, answer: bool) -> None:
        with self._lock:
            self._answers[name] = answer
            while len(self._answers) > self._max_remembered:
                self._answers.popitem(last=False)


def _name(public_key: bytes, message: bytes, signature: bytes) -> bytes:
    return hashlib.blake2b(public_key + signature + message, digest_size=32).digest()
