"""A device on its shard's ledger."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from headwater_protocol.chain.cohort import Capability, Standing, compute_effective_weight
from headwater_protocol.chain.round import CountField, DeviceWeight
from headwater_protocol.encoding.record import Range
from headwater_protocol.identifiers import AccountId, Height, RoundNumber, Units


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """An enrolled device."""

    KIND: ClassVar[str] = "device/2"

    weight: DeviceWeight
    """As granted at enrolment."""
    enrolled_height: Height
    num_accepted: CountField
    num_rejected: CountField
    reputation: Annotated[int, Range(-10_000, 10_000)]
    """Decayed mean of its updates' median scores, in ten-thousandths."""
    owner: AccountId | None
    """Who locked its deposit; None for the device itself."""
    deposit: Units
    """Found on the main chain at enrolment."""
    mark: CountField
    """Where it is on the shard's clock of draws; see `chain.cohort`."""
    drawn_round: RoundNumber
    """The last round that drew it and not the whole fleet; 0 before."""
    strikes: CountField
    """One more for each refusal by the committee, one less for each accepted update."""
    num_quarantines: CountField
    quarantined_until: RoundNumber
    """The last round that it is left out of."""
    revoked_height: Height
    """Of the block that took its enrolment back, for good; 0 where none did."""

    capability: Capability = Capability.STRONG
    """As it reported; before, nothing is taken off its weight."""
    declared: CountField = 0
    """Number of the report that said so; 0 for none."""

    @property
    def is_revoked(self) -> bool:
        """Whether its enrolment was taken back."""
        return self.revoked_height > 0

    @property
    def standing(self) -> Standing:
        """What its weight in the next draw follows from."""
        weight = compute_effective_weight(self.weight, self.capability)
        return Standing(weight=weight, mark=self.mark)
