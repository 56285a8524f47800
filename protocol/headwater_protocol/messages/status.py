"""A device's birth and will, retained.

Both carry the session's number, so a will that a broker delivers late, of a session long replaced,
never hides the device that came back.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from headwater_protocol.chain.cohort import Capability
from headwater_protocol.crypto.hashing import Domain
from headwater_protocol.crypto.signing import SecretKey, Verifier, verify_record
from headwater_protocol.encoding.record import Range, decode_record
from headwater_protocol.identifiers import MAX_UNSIGNED, DeviceId, Digest, Network, Signature

MAX_STATUS_BYTES: Final = 512
MAX_MEMORY_BYTES: Final = 2**50
MAX_ROUND_TRIP_MS: Final = 86_400_000
REPORTS_A_SESSION: Final = 2**20
"""A report's number is the session's times this, and one more for each report in it."""
MAX_SPEED: Final = 10**12
"""Steps in 1,000 seconds."""

STANDARD_SPEED: Final = 20_000
"""20 steps a second: what a Raspberry Pi Zero 2 does with a small program."""
STRONG_SPEED: Final = 500_000
"""500 steps a second."""
STANDARD_MEMORY_BYTES: Final = 400 * 1024 * 1024
"""What is left of 512 MiB."""
STRONG_MEMORY_BYTES: Final = 1_500 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class CapabilityReport:
    """What a device measured of itself; a claim, which the registrar may believe."""

    number: Annotated[int, Range(1, MAX_UNSIGNED)]
    """Greater than that of every earlier report, so that none is put in a newer one's place."""
    capability: Capability
    """The class that the measurements amount to."""
    memory_bytes: Annotated[int, Range(0, MAX_MEMORY_BYTES)]
    """Of the machine; 0 for unknown."""
    program: Digest
    """What was trained."""
    steps_per_1000_s: Annotated[int, Range(0, MAX_SPEED)]
    """Optimizer steps of this program in 1,000 seconds, smoothed."""
    round_trip_ms: Annotated[int, Range(0, MAX_ROUND_TRIP_MS)] = 0
    """From an update to its receipt, the shortest so far; 0 for unknown."""
    link_bytes_per_s: Annotated[int, Range(0, MAX_UNSIGNED)] = 0
    """Of the blobs that were fetched last; 0 for unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Whether a device is connected, and what it can do."""

    KIND: ClassVar[str] = "status/2"

    device: DeviceId
    session: Annotated[int, Range(0, MAX_UNSIGNED)]
    """Counts the device's connections over its life."""
    is_online: bool
    report: CapabilityReport | None = None
    """None before the device has trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedStatus:
    """A status with the device's signature."""

    KIND: ClassVar[str] = "signed-status/2"

    status: Status
    signature: Signature


def classify_capability(*, steps_per_1000_s: int, memory_bytes: int) -> Capability:
    """The class of a device; one that does not know its memory is judged by its speed.

    The classes are about one program, so what is standard for a small one may be light for a large
    one, which is as it should be: it decides who is drawn for that task.
    """
    memory = memory_bytes or MAX_MEMORY_BYTES
    if steps_per_1000_s >= STRONG_SPEED and memory >= STRONG_MEMORY_BYTES:
        return Capability.STRONG
    if steps_per_1000_s >= STANDARD_SPEED and memory >= STANDARD_MEMORY_BYTES:
        return Capability.STANDARD
    return Capability.LIGHT


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
