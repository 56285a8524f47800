"""Who leads a view: rotation in proportion to voting power, by proposer priority.

Each delegate has an integer priority. An election adds to every priority the delegate's power,
takes the delegate with the highest one (the smaller key on a tie) as leader and subtracts the total
power from it. So each leads its share of the elections, evenly spread. Height h, view v is led by
the winner of the (v + 1)-th election from the height's priorities; the next height starts one
election further, however many views this one took, so the priorities depend on nothing but the
committees of the blocks so far.

Priorities survive a change of committee: whoever stays keeps its own, whoever joins starts at
-1.125 times the total power, so that leaving and joining again never buys a turn. They cannot be
derived from one committee alone, hence they are carried from height to height in a `Rotation`,
which goes to disk with each block (`Finalized.rotation`) and comes back at a restart. Replicas that
executed the same blocks hold equal rotations.

Buchman, Kwon, Milosevic, "The latest gossip on BFT consensus", 2018; CometBFT specification,
"Proposer Selection Procedure" (centring, scaling and the penalty of newcomers).
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, NewType

from headwater_protocol.chain.committee import MAX_DELEGATES, Committee
from headwater_protocol.encoding.record import Count, Range
from headwater_protocol.errors import OutOfBounds
from headwater_protocol.identifiers import ValidatorId

PRIORITY_WINDOW: Final = 2
"""The largest spread of priorities, as a multiple of the total power."""

Priority = NewType("Priority", Annotated[int, Range(-(2**63), 2**63 - 1)])
"""How soon a delegate leads; power is at most 2**53 for each of 128, so 63 bits hold it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """What the leaders of a height and the checks of its first link follow from."""

    KIND: ClassVar[str] = "rotation/1"

    certifiers: Committee | None
    """Who certified the last block; None before the first."""
    committee: Committee
    """Who certifies the next block."""
    priorities: Annotated[tuple[Priority, ...], Count(1, MAX_DELEGATES)]
    """In the committee's order, before the election of view 0."""

    def __post_init__(self) -> None:
        if len(self.priorities) != len(self.committee.delegates):
            raise OutOfBounds(
                f"{len(self.priorities)} priorities for {len(self.committee.delegates)} delegates"
            )


def initial_rotation(committee: Committee) -> Rotation:
    """The rotation of height 1."""
    priorities = center_priorities(committee, (Priority(0),) * len(committee.delegates))
    return Rotation(certifiers=None, committee=committee, priorities=priorities)


def next_rotation(rotation: Rotation, next_committee: Committee) -> Rotation:
    """The rotation of the height after `rotation`'s, certified by `next_committee`."""
    _, priorities = elect_leader(rotation.committee, rotation.priorities)
    return Rotation(
        certifiers=rotation.committee,
        committee=next_committee,
        priorities=carry_priorities(rotation.committee, priorities, next_committee),
    )


def elect_leader(
    committee: Committee, priorities: tuple[Priority, ...]
) -> tuple[ValidatorId, tuple[Priority, ...]]:
    """One election: its winner, and the priorities after it."""
    raised = [
        priority + delegate.voting_power
        for priority, delegate in zip(
            center_priorities(committee, priorities), committee.delegates, strict=True
        )
    ]
    # max() keeps the first of equals, and delegates stand in order of their keys.
    winner = max(range(len(raised)), key=lambda index: raised[index])
    raised[winner] -= committee.total_power
    return committee.delegates[winner].validator, tuple(Priority(value) for value in raised)


def center_priorities(
    committee: Committee, priorities: tuple[Priority, ...]
) -> tuple[Priority, ...]:
    """Priorities within the window, their mean in [0, 1)."""
    spread = max(priorities) - min(priorities)
    window = PRIORITY_WINDOW * committee.total_power
    values: list[int] = list(priorities)
    if spread > window:
        ratio = -(-spread // window)
        values = [_divide_towards_zero(value, ratio) for value in values]
    mean = sum(values) // len(values)
    return tuple(Priority(value - mean) for value in values)


def carry_priorities(
    committee: Committee, priorities: tuple[Priority, ...], next_committee: Committee
) -> tuple[Priority, ...]:
    """The priorities of `next_committee`, given those of the committee before it."""
    if next_committee == committee:
        return priorities
    known = {
        delegate.validator: priority
        for delegate, priority in zip(committee.delegates, priorities, strict=True)
    }
    staying = {delegate.validator for delegate in next_committee.delegates}
    # As in CometBFT, newcomers are measured before the leavers' power is gone.
    total = next_committee.total_power + sum(
        delegate.voting_power
        for delegate in committee.delegates
        if delegate.validator not in staying
    )
    newcomer = Priority(-(total + (total >> 3)))
    return center_priorities(
        next_committee,
        tuple(known.get(delegate.validator, newcomer) for delegate in next_committee.delegates),
    )


class Leaders:
    """The leaders of one height, elected as far as they were asked for."""

    __slots__ = ("_committee", "_leaders", "_priorities")

    def __init__(self, rotation: Rotation) -> None:
        self._committee = rotation.committee
        self._priorities = rotation.priorities
        self._leaders: list[ValidatorId] = []

    def leader(self, view: int) -> ValidatorId:
        """The leader of `view`; costs one election for each view not asked for before."""
        while len(self._leaders) <= view:
            leader, self._priorities = elect_leader(self._committee, self._priorities)
            self._leaders.append(leader)
        return self._leaders[view]


def _divide_towards_zero(value: int, divisor: int) -> int:
    return value // divisor if value >= 0 else -(-value // divisor)
