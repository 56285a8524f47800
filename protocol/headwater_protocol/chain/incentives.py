"""What the network asks of devices beside honest work: deposits, strikes and shares of the draw.

The defaults ask for nothing, so a network without tokens at stake runs on reputation alone.
"""

from dataclasses import dataclass
from typing import Annotated, Final

from headwater_protocol.encoding.record import Range
from headwater_protocol.identifiers import NOTHING, Units


@dataclass(frozen=True, slots=True, kw_only=True)
class Incentives:
    """Rules for devices; part of the network's parameters."""

    device_deposit: Units = NOTHING
    """The least deposit with which a device is enrolled."""
    deposit_per_weight: Units = NOTHING
    """Units of deposit that an owner needs for each unit of weight of all its devices; 0 caps
    nothing."""
    quarantine_strikes: Annotated[int, Range(0, 1_000)] = 0
    """Strikes at which a device is quarantined; 0 quarantines nobody."""
    quarantine_rounds: Annotated[int, Range(1, 1_000_000)] = 1
    """Rounds for which it is left out."""
    penalty_thousandths: Annotated[int, Range(0, 1_000)] = 0
    """Of its deposit, what each quarantine after the first one costs."""


NO_INCENTIVES: Final = Incentives()
"""Nothing is asked."""
