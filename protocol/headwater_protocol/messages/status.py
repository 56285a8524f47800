"""A device's birth and will, retained.

Both carry the session's number, so a will that a broker delivers late, of a session long replaced,
never hides the device that came back.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from headwater_protocol.crypto.hashing import Domain
from headwater_protocol.crypto.signing import SecretKey, Verifier, verify_record
from headwater_protocol.encoding.record import Range, decode_record
from headwater_protocol.identifiers import MAX_UNSIGNED, DeviceId, Network, Signature

MAX_STATUS_BYTES: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Whether a device is connected."""

    KIND: ClassVar[str] = "status/1"

    device: DeviceId
    session: Annotated[int, Range(0, MAX_UNSIGNED)]
    """Counts the device's connections over its life."""
    is_online: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedStatus:
    """A status with the device's signature."""

    KIND: ClassVar[str] = "signed-status/1"

    status: Status
    signature: Signature


def sign_status(key: SecretKey, network: Network, status: Status) -> SignedStatus:
    """`status` with the device's signature."""
    return SignedStatus(status=status, signature=key.sign_record(Domain.STATUS, network, status))


def decode_status(data: bytes) -> SignedStatus:
    """The signed status that `data` encodes.

    Raises:
        InvalidMessage: If it does not decode.
    """
    return decode_record(SignedStatus, data, max_bytes=MAX_STATUS_BYTES)


def verify_status(signed: SignedStatus, *, network: Network, verifier: Verifier) -> None:
    """Check the device's signature.

    Raises:
        BadSignature: If it does not verify.
    """
    verify_record(
        verifier, signed.status.device, Domain.STATUS, network, signed.status, signed.signature
    )
