"""Elections and penalties of a main chain as rows of a result."""

from collections.abc import Mapping

from headwater_firmware_sim.economy.evidence import EvidenceReport
from headwater_firmware_sim.results import ElectionRow, PenaltyRow, SeatRow
from headwater_protocol.chain.epoch import Epoch
from headwater_protocol.chain.justice import PENALTIES
from headwater_protocol.identifiers import ChainId, ValidatorId

UPRIGHT = "none"
"""The behaviour of an honest delegate."""


def make_election_row(epoch: Epoch, before: Epoch | None, *, at_ms: int) -> ElectionRow:
    """What an election changed; the genesis, which has none before it, changed nothing."""
    now, then = _shards(epoch), {} if before is None else _shards(before)
    return ElectionRow(
        epoch=epoch.epoch,
        at_ms=at_ms,
        height=epoch.start_height,
        delegates=len(epoch.committee.delegates),
        voting_power=epoch.committee.total_power,
        moved=sum(then.get(who, shard) != shard for who, shard in now.items()),
        left=len(then.keys() - now.keys()),
    )


def make_seat_rows(epoch: Epoch, behaviours: Mapping[ValidatorId, str]) -> list[SeatRow]:
    """Who serves where, in order of shards and keys."""
    return [
        SeatRow(
            epoch=epoch.epoch,
            shard=entry.shard,
            validator=delegate.validator.hex(),
            voting_power=delegate.voting_power,
            behaviour=behaviours.get(delegate.validator, UPRIGHT),
        )
        for entry in epoch.shards
        for delegate in entry.committee.delegates
    ]


def make_penalty_row(
    entry: EvidenceReport, behaviours: Mapping[ValidatorId, str], *, at_ms: int
) -> PenaltyRow:
    """One punished offence."""
    return PenaltyRow(
        at_ms=at_ms,
        validator=entry.validator.hex(),
        behaviour=behaviours.get(entry.validator, UPRIGHT),
        offence=entry.offence.value,
        chain=entry.chain,
        place=entry.place,
        height=entry.height,
        slashed=entry.slashed,
        rewarded=entry.rewarded,
        tombstoned=PENALTIES[entry.offence].is_final,
    )


def _shards(epoch: Epoch) -> dict[ValidatorId, ChainId]:
    return {
        delegate.validator: entry.shard
        for entry in epoch.shards
        for delegate in entry.committee.delegates
    }
