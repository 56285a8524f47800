"""Dealing elected delegates to shards: nobody picks its shard, and every shard keeps a quorum.

At the end of an epoch each shard gives up a few of its delegates, drawn by the seed, and newcomers
join them; the draw deals them out again, each to a shard with the fewest seats, and back to its own
only where no other has as few. A shard gives up no more than a third of its seats, nor a third of
its power, so more than two thirds of a committee serve on, unless they were not elected again.
"""

from collections.abc import Mapping
from typing import Final

from headwater_protocol.chain.committee import Committee, make_committee
from headwater_protocol.crypto.hashing import Domain, hash_bytes
from headwater_protocol.identifiers import ChainId, Digest, ValidatorId

COUNTER_BYTES: Final = 8


class Draw:
    """Numbers that follow from a seed alone."""

    __slots__ = ("_counter", "_seed")

    def __init__(self, seed: Digest) -> None:
        self._seed = seed
        self._counter = 0

    def below(self, bound: int) -> int:
        """The next number from 0 to `bound` - 1; its bias is under 2**-240."""
        digest = hash_bytes(
            Domain.SHUFFLE, self._seed, self._counter.to_bytes(COUNTER_BYTES, "big")
        )
        self._counter += 1
        return int.from_bytes(digest, "big") % bound

    def shuffle(self, keys: list[ValidatorId]) -> list[ValidatorId]:
        """`keys` in a drawn order. Fisher and Yates, 1938, from the end."""
        drawn = list(keys)
        for index in range(len(drawn) - 1, 0, -1):
            other = self.below(index + 1)
            drawn[index], drawn[other] = drawn[other], drawn[index]
        return drawn


def deal_committees(
    previous: Mapping[ChainId, Committee], elected: Mapping[ValidatorId, int], seed: Digest
) -> dict[ChainId, Committee]:
    """The shards' next committees.

    Args:
        previous: The committees that end; their keys are the shards.
        elected: Every delegate of the next epoch with its power, at least one a shard.
        seed: Decides.
    """
    draw = Draw(seed)
    seats: dict[ChainId, list[ValidatorId]] = {}
    origin: dict[ValidatorId, ChainId] = {}
    for shard in sorted(previous):
        leaving = _pick_leaving(previous[shard], elected, draw)
        for delegate in previous[shard].delegates:
            if delegate.validator in elected:
                origin[delegate.validator] = shard
        seats[shard] = [
            delegate.validator
            for delegate in previous[shard].delegates
            if delegate.validator in elected and delegate.validator not in leaving
        ]
    seated = {validator for row in seats.values() for validator in row}
    free = [validator for validator in sorted(elected) if validator not in seated]
    for validator in draw.shuffle(free):
        fewest = min(len(row) for row in seats.values())
        open_shards = [shard for shard in sorted(seats) if len(seats[shard]) == fewest]
        others = [shard for shard in open_shards if shard != origin.get(validator)]
        choice = others or open_shards
        seats[choice[draw.below(len(choice))]].append(validator)
    _fill_empty(seats)
    return {
        shard: make_committee((validator, elected[validator]) for validator in row)
        for shard, row in sorted(seats.items())
    }


def _pick_leaving(
    committee: Committee, elected: Mapping[ValidatorId, int], draw: Draw
) -> set[ValidatorId]:
    """Who gives up its seat by lot, within what those that were not elected leave of the limit."""
    lost = [entry for entry in committee.delegates if entry.validator not in elected]
    num_seats = (len(committee.delegates) - 1) // 3 - len(lost)
    power = (committee.total_power - 1) // 3 - sum(entry.voting_power for entry in lost)
    leaving: set[ValidatorId] = set()
    staying = [entry.validator for entry in committee.delegates if entry.validator in elected]
    for validator in draw.shuffle(staying):
        own_power = committee.power_of(validator)
        if len(leaving) < num_seats and own_power <= power:
            leaving.add(validator)
            power -= own_power
    return leaving


def _fill_empty(seats: dict[ChainId, list[ValidatorId]]) -> None:
    """A shard whose whole committee was voted out takes from the fullest one."""
    for shard in sorted(seats):
        if not seats[shard]:
            fullest = max(sorted(seats), key=lambda name: len(seats[name]))
            seats[shard].append(seats[fullest].pop())
