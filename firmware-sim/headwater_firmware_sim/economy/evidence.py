"""Who was punished in a run, and for what, as `result.json` lists it."""

from dataclasses import dataclass

from headwater_firmware_sim.results import JsonValue
from headwater_protocol.chain.justice import Offence
from headwater_protocol.identifiers import ChainId, Height, ValidatorId
from headwater_shard.mainchain.justice.records import EVIDENCE, Infraction
from headwater_shard.mainchain.records import CANDIDATES, Candidate
from headwater_shard.state.state import State


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceReport:
    """One punished offence."""

    validator: ValidatorId
    offence: Offence
    chain: ChainId
    place: int
    """The height, the round or the epoch that it was about."""
    height: Height
    """Of the main chain's block that punished it."""
    slashed: int
    """Units."""
    rewarded: int
    """Units, of these to the reporter."""
    is_jailed: bool
    """Whether its validator is in jail now."""
    is_tombstoned: bool

    def to_json(self) -> JsonValue:
        """For `result.json`."""
        return {
            "validator": self.validator.hex(),
            "offence": self.offence.value,
            "chain": self.chain,
            "place": self.place,
            "height": self.height,
            "slashed": self.slashed,
            "rewarded": self.rewarded,
            "burned": self.slashed - self.rewarded,
            "jailed": self.is_jailed,
            "tombstoned": self.is_tombstoned,
        }


def list_evidence(state: State) -> list[EvidenceReport]:
    """All punished offences, in order of the blocks that punished them."""
    infractions = sorted(
        (entry for _, entry in state.items(EVIDENCE)),
        key=lambda entry: (entry.height, entry.charge.validator, entry.charge.offence),
    )
    return [
        _describe(entry, state.get(CANDIDATES, entry.charge.validator)) for entry in infractions
    ]


def _describe(infraction: Infraction, candidate: Candidate | None) -> EvidenceReport:
    charge = infraction.charge
    return EvidenceReport(
        validator=charge.validator,
        offence=charge.offence,
        chain=charge.chain,
        place=charge.place,
        height=infraction.height,
        slashed=infraction.slashed,
        rewarded=infraction.rewarded,
        is_jailed=candidate is not None and candidate.jailed_until > 0,
        is_tombstoned=candidate is not None and candidate.is_tombstoned,
    )
