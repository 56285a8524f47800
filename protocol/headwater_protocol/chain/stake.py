"""Transactions about stake: becoming a candidate, lending stake to one, and taking it back."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from headwater_protocol.encoding.record import Range
from headwater_protocol.identifiers import Units, ValidatorId

MAX_BONDED: Final = 2**53
"""Units behind one candidate; a delegate's voting power is as many."""

CommissionThousandths = Annotated[int, Range(0, 1_000)]
"""The share of a delegate's rewards that it keeps before its pool shares in the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bond:
    """Become a candidate, with a bond of one's own."""

    KIND: ClassVar[str] = "bond/1"

    amount: Units
    """At least the network's smallest self-bond."""
    commission_thousandths: CommissionThousandths


@dataclass(frozen=True, slots=True, kw_only=True)
class SetCommission:
    """Change the sender's own commission; it holds for rewards from then on."""

    KIND: ClassVar[str] = "set-commission/1"

    commission_thousandths: CommissionThousandths


@dataclass(frozen=True, slots=True, kw_only=True)
class DelegateStake:
    """Lend units to a candidate; a candidate adds to its own bond in the same way."""

    KIND: ClassVar[str] = "delegate/1"

    validator: ValidatorId
    amount: Units


@dataclass(frozen=True, slots=True, kw_only=True)
class UndelegateStake:
    """Take units back; they can be withdrawn, and still be slashed, when the period is over."""

    KIND: ClassVar[str] = "undelegate/1"

    validator: ValidatorId
    amount: Units
    """All that the delegation is worth closes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RedelegateStake:
    """Move units from one candidate to another at once; the first one's faults still reach them."""

    KIND: ClassVar[str] = "redelegate/1"

    source: ValidatorId
    destination: ValidatorId
    amount: Units


@dataclass(frozen=True, slots=True, kw_only=True)
class WithdrawStake:
    """Move what has matured of the sender's unbonding from a candidate to its balance."""

    KIND: ClassVar[str] = "withdraw/1"

    validator: ValidatorId


StakeBody = Bond | SetCommission | DelegateStake | UndelegateStake | RedelegateStake | WithdrawStake
