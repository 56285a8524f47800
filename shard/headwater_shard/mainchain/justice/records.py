"""What the main chain remembers about offences, and under which keys."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from headwater_protocol.chain.justice import Offence
from headwater_protocol.chain.round import CountField
from headwater_protocol.crypto.hashing import Domain, hash_record
from headwater_protocol.encoding.record import Range
from headwater_protocol.identifiers import (
    MAX_UNSIGNED,
    AccountId,
    ChainId,
    Digest,
    Height,
    Units,
    ValidatorId,
)
from headwater_shard.state.table import Table

Place = Annotated[int, Range(0, MAX_UNSIGNED)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What a validator is accused of; two pieces of evidence of one act give the same charge."""

    KIND: ClassVar[str] = "charge/1"

    validator: ValidatorId
    offence: Offence
    chain: ChainId
    place: Place
    """The block's height, the round of a shard or the epoch that it was about."""
    part: Place
    """Of that place: the view and step of a vote, the batch of a payload, the attempt at a merge;
    else 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Infraction:
    """A charge that was proven and punished."""

    KIND: ClassVar[str] = "infraction/1"

    charge: Charge
    height: Height
    """The main chain's block that punished it."""
    infraction_height: Height
    """The main chain's height from which stake answered for it."""
    slashed: Units
    """Taken from the validator's pool and from what left it since."""
    rewarded: Units
    """Of that, paid to the reporter; the rest was burned."""
    reporter: AccountId | None
    """None where the blocks themselves were the evidence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Liveness:
    """How many certificates a delegate missed in a window; written only when it misses one."""

    KIND: ClassVar[str] = "liveness/1"

    window: CountField
    """The windows of all delegates begin together: height divided by the window's blocks."""
    missed: CountField


EVIDENCE: Final = Table("evidence", Infraction)
LIVENESS: Final = Table("liveness", Liveness)


def charge_key(charge: Charge) -> Digest:
    """The key of an infraction."""
    return hash_record(Domain.INFRACTION, charge)
