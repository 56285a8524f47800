"""What an account holds, as both kinds of ledger record it and a light client verifies it."""

from dataclasses import dataclass
from typing import ClassVar

from headwater_protocol.identifiers import Units


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A holder of units on the main chain."""

    KIND: ClassVar[str] = "account/1"

    balance: Units


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardBalance:
    """What an account has earned on a shard."""

    KIND: ClassVar[str] = "reward-balance/1"

    total: Units


@dataclass(frozen=True, slots=True, kw_only=True)
class PenaltyBalance:
    """What a device's conduct on a shard has cost of its deposit."""

    KIND: ClassVar[str] = "penalty-balance/1"

    total: Units
