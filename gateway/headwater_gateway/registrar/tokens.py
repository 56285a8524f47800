"""What becomes of a token: the rules, without a store and without a clock.

A token enrols one device, once, before its time is over. The device that spent it may ask again as
often as it likes, since its first answer may have been lost; nobody else may.
"""

import hmac
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from headwater_protocol.chain.round import MAX_DEVICE_WEIGHT
from headwater_protocol.errors import ConfigError, InvalidMessage
from headwater_protocol.identifiers import ChainId, DeviceId
from headwater_protocol.messages.credential import JoinRequest, RenewalRequest
from headwater_protocol.messages.token import TokenId, token_digest
from headwater_protocol.reasons import ReasonCode

MIN_LIFE_MS: Final = 60_000
MAX_LIFE_MS: Final = 366 * 24 * 3_600_000
DEFAULT_LIFE_MS: Final = 7 * 24 * 3_600_000
MAX_LABEL_CHARACTERS: Final = 64
SALT_BYTES: Final = 16


class Refused(InvalidMessage):
    """A registrar does not do what it was asked; `refusal` is the reason."""

    def __init__(self, reason: ReasonCode, message: str) -> None:
        super().__init__(message)
        self.refusal = reason


class TokenState(StrEnum):
    """What a list says of a token."""

    OPEN = "open"
    SPENT = "spent"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEntry:
    """A token as it is stored."""

    token: TokenId
    salt: bytes
    """16 bytes."""
    digest: bytes
    """Of salt and secret, 32 bytes."""
    shard: ChainId | None
    """Where the device is to be; None leaves it to the registrar."""
    weight: int
    label: str
    created_ms: int
    expires_ms: int
    revoked_ms: int | None = None
    device: DeviceId | None = None
    """Who spent it."""
    spent_ms: int | None = None

    def state(self, now_ms: int) -> TokenState:
        """What a list says of it."""
        if self.device is not None:
            return TokenState.SPENT
        if self.revoked_ms is not None:
            return TokenState.REVOKED
        return TokenState.EXPIRED if now_ms >= self.expires_ms else TokenState.OPEN


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceEntry:
    """An accepted device as it is stored."""

    device: DeviceId
    shard: ChainId
    weight: int
    token: TokenId
    label: str
    accepted_ms: int
    transport_key: bytes
    """Of its last certificate."""
    sequence: int
    """Of its last request to renew; 0 before."""
    certificate: str
    """The last one, in PEM."""
    not_after_ms: int
    revoked_ms: int | None = None
    cut_ms: int | None = None
    """When its live session was ended at all brokers."""


class Verdict(StrEnum):
    """What a request that is not refused leads to."""

    SPEND = "spend"
    """Accept the device, with a certificate."""
    ISSUE = "issue"
    """Another certificate for a device that was accepted."""
    REPEAT = "repeat"
    """The last answer once more."""


def judge_join(
    token: TokenEntry | None, device: DeviceEntry | None, request: JoinRequest, now_ms: int
) -> Verdict:
    """What a request to join leads to.

    Args:
        token: Of the request's id, if there is one.
        device: Of the request's device, if it was accepted before.
        request: Both signatures were verified.
        now_ms: UTC.

    Raises:
        Refused: With the reason.
    """
    name = request.token.hex()
    if token is None or not hmac.compare_digest(
        token_digest(token.salt, request.secret), token.digest
    ):
        raise Refused(ReasonCode.TOKEN_UNKNOWN, f"token {name} was never given out")
    if device is not None and device.revoked_ms is not None:
        raise Refused(ReasonCode.REVOKED, f"device {request.device.hex()[:16]} was revoked")
    if token.device is not None and token.device == request.device and device is not None:
        same = device.transport_key == request.transport_key
        return Verdict.REPEAT if same else Verdict.ISSUE
    if token.device is not None:
        raise Refused(ReasonCode.TOKEN_SPENT, f"token {name} enrolled another device")
    if token.revoked_ms is not None:
        raise Refused(ReasonCode.TOKEN_REVOKED, f"token {name} was taken back")
    if now_ms >= token.expires_ms:
        raise Refused(ReasonCode.TOKEN_EXPIRED, f"token {name} expired")
    if device is not None:
        raise Refused(
            ReasonCode.DUPLICATE,
            f"device {request.device.hex()[:16]} joined with token {device.token.hex()}",
        )
    return Verdict.SPEND


def judge_renewal(device: DeviceEntry | None, request: RenewalRequest) -> Verdict:
    """What a request to renew leads to; errors as `judge_join`."""
    name = request.device.hex()[:16]
    if device is None:
        raise Refused(ReasonCode.NOT_ENROLLED, f"device {name} did not join here")
    if device.revoked_ms is not None:
        raise Refused(ReasonCode.REVOKED, f"device {name} was revoked")
    if request.sequence > device.sequence:
        return Verdict.ISSUE
    if request.sequence == device.sequence and request.transport_key == device.transport_key:
        return Verdict.REPEAT
    raise Refused(ReasonCode.WRONG_NONCE, f"sequence {request.sequence} after {device.sequence}")


def require_token_terms(*, weight: int, label: str, life_ms: int) -> None:
    """Check what a token is to be made with.

    Raises:
        ConfigError: Names the option and the fix.
    """
    if not 1 <= weight <= MAX_DEVICE_WEIGHT:
        raise ConfigError("--weight", f"is {weight}", fix=f"give 1 to {MAX_DEVICE_WEIGHT}")
    if len(label) > MAX_LABEL_CHARACTERS or not label.isprintable():
        raise ConfigError(
            "--label", f"is {label[:80]!r}", fix=f"use up to {MAX_LABEL_CHARACTERS} characters"
        )
    if not MIN_LIFE_MS <= life_ms <= MAX_LIFE_MS:
        raise ConfigError(
            "--valid", f"is {life_ms // 1_000} seconds", fix="give one minute to 366 days"
        )
