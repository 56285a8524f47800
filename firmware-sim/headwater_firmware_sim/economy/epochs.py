"""What a run tells of the elections: one entry an epoch, with who served where."""

from headwater_firmware_sim.results import JsonValue
from headwater_protocol.chain.committee import Committee
from headwater_protocol.chain.epoch import Epoch
from headwater_shard.mainchain.records import EPOCHS
from headwater_shard.state.state import State


def list_epochs(state: State) -> tuple[Epoch, ...]:
    """All epochs of a main chain, in order."""
    return tuple(epoch for _, epoch in state.sorted_items(EPOCHS))


def describe_epochs(epochs: tuple[Epoch, ...]) -> JsonValue:
    """For `result.json`."""
    return [
        {
            "epoch": epoch.epoch,
            "start_height": epoch.start_height,
            "seed": epoch.seed.hex(),
            "delegates": len(epoch.committee.delegates),
            "voting_power": epoch.committee.total_power,
            "committees": {entry.shard: _describe(entry.committee) for entry in epoch.shards},
        }
        for epoch in epochs
    ]


def count_committees(epochs: tuple[Epoch, ...]) -> int:
    """How many of the epochs' seatings differ from each other."""
    return len(
        {
            tuple(
                tuple(delegate.validator for delegate in entry.committee.delegates)
                for entry in epoch.shards
            )
            for epoch in epochs
        }
    )


def _describe(committee: Committee) -> JsonValue:
    return [
        {"validator": entry.validator.hex(), "voting_power": entry.voting_power}
        for entry in committee.delegates
    ]
