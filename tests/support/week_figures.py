"""What came of a week without a network and the reconnect of all."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What came of it."""

    devices: int
    hours: int
    """Without a network."""
    storm_s: float
    """From the first device that came back to the last one."""
    taken_before: int
    """Updates that were on the ledger before the week, without a receipt."""
    receipts: int
    """Of the first round, signed by a delegate and on the device's disk."""
    p50_ms: float
    p99_ms: float
    max_ms: float
    """From an update's first departure after the week to its receipt on disk. Left out are those
    on the ledger whose verdict came before they left again."""
    p99_from_connecting_ms: float
    """With the connection, and the random wait that spreads a fleet's updates."""
    lost_updates: int
    """Signed before the week, and not on the ledger as signed, or without a receipt."""
    doubled_updates: int
    """Commits on the ledger beyond one a device, and updates that their device held for lost and
    put into its next one."""
    readings: int
    """Of the whole fleet, before and in the week."""
    lost_readings: int
    doubled_readings: int
    """Against what the sensors said, in what the devices trained the second round on."""
    second_round: int
    """Updates of it on the ledger that count for exactly the readings."""

    def to_json(self) -> dict[str, object]:
        return asdict(self)
