"""The delegates of a chain in one epoch, and what a quorum of them is.

A quorum holds more than two thirds of the voting power, so two quorums share more than one third,
and with at most one third Byzantine they meet in an honest delegate.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar, Final

from headwater_protocol.crypto.hashing import Domain, hash_record
from headwater_protocol.encoding.record import Count
from headwater_protocol.errors import InsufficientPower, OutOfBounds
from headwater_protocol.identifiers import Digest, ValidatorId, VotingPower

MAX_DELEGATES: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegate:
    """One validator of a committee."""

    validator: ValidatorId
    voting_power: VotingPower
    """Stake behind it, at least 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Committee:
    """Delegates in order of their keys, each once, each with power."""

    KIND: ClassVar[str] = "committee/1"

    delegates: Annotated[tuple[Delegate, ...], Count(1, MAX_DELEGATES)]

    def __post_init__(self) -> None:
        keys = [delegate.validator for delegate in self.delegates]
        if keys != sorted(set(keys)):
            raise OutOfBounds("a committee lists each delegate once, in order of the keys")
        if any(delegate.voting_power < 1 for delegate in self.delegates):
            raise OutOfBounds("a delegate needs voting power")

    @property
    def total_power(self) -> int:
        """The sum of the delegates' power."""
        return sum(delegate.voting_power for delegate in self.delegates)

    def power_of(self, validator: ValidatorId) -> int:
        """The power of `validator`, 0 where it is no delegate."""
        for delegate in self.delegates:
            if delegate.validator == validator:
                return delegate.voting_power
        return 0

    def power_of_all(self, validators: Iterable[ValidatorId]) -> int:
        """The summed power of the distinct `validators`."""
        wanted = set(validators)
        return sum(
            delegate.voting_power for delegate in self.delegates if delegate.validator in wanted
        )

    def is_quorum(self, power: int) -> bool:
        """Whether `power` is more than two thirds of the total."""
        return power * 3 > self.total_power * 2

    def require_quorum(self, power: int) -> None:
        """Check that `power` is more than two thirds of the total.

        Raises:
            InsufficientPower: If it is not.
        """
        if not self.is_quorum(power):
            raise InsufficientPower(signed_power=power, total_power=self.total_power)


def make_committee(powers: Iterable[tuple[ValidatorId, int]]) -> Committee:
    """The committee of these validators, sorted.

    Raises:
        OutOfBounds: If a key comes twice, a power is below 1 or nobody is left.
    """
    delegates = tuple(
        Delegate(validator=validator, voting_power=VotingPower(power))
        for validator, power in sorted(powers)
    )
    if not delegates:
        raise OutOfBounds("a committee needs a delegate")
    return Committee(delegates=delegates)


@lru_cache(maxsize=64)
def committee_digest(committee: Committee) -> Digest:
    """What a header commits to; asked for at each step of each block, so the last ones are kept."""
    return hash_record(Domain.COMMITTEE, committee)
