"""Waits that double, capped and jittered, from a seed instead of the system's entropy.

Half of each wait is fixed and half is random: a fleet that a broker's restart cut off comes back
spread out, and no device hammers. Brooker, "Exponential Backoff And Jitter", 2015.
"""

from typing import Final

from headwater_protocol.crypto.hashing import Domain, hash_bytes

MAX_DOUBLINGS: Final = 32
"""Keeps the shift small; every cap is reached long before."""


class Jitter:
    """A stream of random integers from a seed; 8 bytes of state a device."""

    __slots__ = ("_count", "_seed")

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._count = 0

    def below(self, bound: int) -> int:
        """The next integer from 0 up to `bound`, which is excluded and at least 1."""
        self._count += 1
        digest = hash_bytes(Domain.SEED, self._seed, b"jitter", self._count.to_bytes(8, "big"))
        return int.from_bytes(digest[:16], "big") % bound


def compute_wait_ms(*, attempt: int, first_ms: int, max_ms: int, jitter: Jitter) -> int:
    """The wait before attempt number `attempt`, from 0: between half and all of the capped one."""
    full = min(max_ms, first_ms << min(attempt, MAX_DOUBLINGS))
    return full - jitter.below(full // 2 + 1)
