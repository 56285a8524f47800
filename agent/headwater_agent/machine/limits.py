"""Every bound of a device, with defaults for a Raspberry Pi."""

from dataclasses import dataclass
from typing import Final

from headwater_protocol.messages.update import MAX_UPDATE_BYTES

MAX_RECEIPTS: Final = 32
"""Kept on disk, the newest; each is about 250 bytes."""

MAX_OUTBOX_DAYS: Final = 366
DAY_MS: Final = 86_400_000

ENTROPY_BYTES: Final = 32
"""Of the seed from which a device draws everything random."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceLimits:
    """What a device takes on, and how long it waits."""

    max_parameters: int = 1 << 20
    """Of a model that it trains; 4 MiB as int32, and about five times that while it trains."""
    max_program_bytes: int = 4 * 1024 * 1024
    """Of a training program."""
    max_outbox_bytes: int = 1024 * 1024
    """Of the one signed update that waits for its receipt; a larger one is never signed."""
    max_outbox_days: int = 14
    """How long a signed update waits to be sent, by the device's clock, if its round lasts so long;
    then it is dropped and counted, and what it held returns to the residual."""
    first_resend_ms: int = 5_000
    """Wait before the first resend; doubles with each one."""
    max_resend_ms: int = 120_000
    """Longest wait between two resends."""
    first_refetch_ms: int = 5_000
    """Wait without a new piece before a blob is asked for again; doubles with each time."""
    max_refetch_ms: int = 60_000
    """Longest wait between two such requests."""
    resume_jitter_ms: int = 2_000
    """After a reconnect, the longest random wait before the update goes out again."""

    def __post_init__(self) -> None:
        if not 0 < self.max_outbox_bytes <= MAX_UPDATE_BYTES:
            raise ValueError(f"max_outbox_bytes is 1 to {MAX_UPDATE_BYTES}")
        if min(self.first_resend_ms, self.first_refetch_ms, self.resume_jitter_ms) < 1:
            raise ValueError("waits are at least 1 ms")
        if self.max_parameters < 1 or self.max_program_bytes < 1:
            raise ValueError("sizes are at least 1")
        if not 0 < self.max_outbox_days <= MAX_OUTBOX_DAYS:
            raise ValueError(f"max_outbox_days is 1 to {MAX_OUTBOX_DAYS}")
        if self.max_resend_ms < self.first_resend_ms or self.max_refetch_ms < self.first_refetch_ms:
            raise ValueError("the longest wait is below the first")
