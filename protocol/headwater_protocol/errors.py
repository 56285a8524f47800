"""The errors of every package, by who has to act on them.

```
HeadwaterError
├─ InvalidMessage      a peer's fault: reject, count, answer with a reason code
│  └─ InvalidBlock     rejects the block
├─ TransportError      retry with capped, jittered backoff; raised by shells only
├─ StorageError        stop the process
└─ ConfigError         at start-up; names the key and the fix
```
"""

from typing import ClassVar

from headwater_protocol.reasons import ReasonCode


class HeadwaterError(Exception):
    """Anything that this project raises on purpose."""


class InvalidMessage(HeadwaterError):
    """A peer sent what cannot be taken; `reason` is what it is answered with."""

    reason: ClassVar[ReasonCode] = ReasonCode.BAD_ENCODING


class BadEncoding(InvalidMessage):
    """Bytes do not decode to the record that was expected."""


class NonCanonicalEncoding(BadEncoding):
    """Bytes decode, but what they decode to encodes to other bytes."""


class TooLarge(InvalidMessage):
    """A message exceeds its limit."""

    reason = ReasonCode.TOO_LARGE

    def __init__(self, what: str, *, size: int, limit: int) -> None:
        super().__init__(f"{what} has {size} bytes, the limit is {limit}")
        self.size = size
        self.limit = limit


class OutOfBounds(InvalidMessage):
    """A value lies outside its range."""

    reason = ReasonCode.OUT_OF_BOUNDS


class BadSignature(InvalidMessage):
    """A signature does not verify."""

    reason = ReasonCode.BAD_SIGNATURE


class BadProof(InvalidMessage):
    """A Merkle proof does not lead from the claim to the root."""

    reason = ReasonCode.BAD_PROOF


class InsufficientPower(InvalidMessage):
    """The signers of a certificate hold too little voting power."""

    reason = ReasonCode.LOW_POWER

    def __init__(self, *, signed_power: int, total_power: int) -> None:
        quorum = total_power * 2 // 3 + 1
        super().__init__(f"power {signed_power} of {total_power} signed, quorum is {quorum}")
        self.signed_power = signed_power
        self.total_power = total_power


class InvalidBlock(InvalidMessage):
    """A block breaks a rule; it is refused whole."""


class TransportError(HeadwaterError):
    """A broker or a peer could not be reached; retry with capped, jittered backoff."""


class StorageError(HeadwaterError):
    """A store is unusable; going on would break a promise, so the process stops."""


class ConfigError(HeadwaterError):
    """A configuration cannot be used: which key, what is wrong, and the fix."""

    def __init__(self, key: str, problem: str, *, fix: str) -> None:
        super().__init__(f"{key}: {problem}; {fix}")
        self.key = key
        self.problem = problem
        self.fix = fix
