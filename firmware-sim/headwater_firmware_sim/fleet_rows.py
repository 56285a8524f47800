"""The rows of a fleet at the end of a run, for both modes."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from headwater_agent.state import DeviceState
from headwater_firmware_sim.results import DeviceRow
from headwater_firmware_sim.stage import Stage
from headwater_protocol.identifiers import ChainId
from headwater_shard.shardchain.records import DEVICES, PENALTIES, REWARDS
from headwater_shard.state.state import State


class Tally(Protocol):
    """What a simulated device counted of itself."""

    @property
    def state(self) -> DeviceState:
        """Flash."""
        ...

    @property
    def boots(self) -> int:
        """Starts."""
        ...

    @property
    def brownouts(self) -> int:
        """Of an empty battery."""
        ...

    @property
    def torn_writes(self) -> int:
        """Power cuts within a write."""
        ...

    @property
    def battery_thousandths(self) -> int:
        """Charge; 1000 on the mains."""
        ...


def describe_fleet(
    stage: Stage, states: Mapping[ChainId, State], tallies: Sequence[Tally]
) -> tuple[DeviceRow, ...]:
    """A row for each device, from its own counts and its shard's last state."""
    plan = stage.plan
    rows: list[DeviceRow] = []
    for index, (tally, casting) in enumerate(zip(tallies, stage.fleet, strict=True)):
        key, shard = plan.devices[index], plan.shard_of(index)
        entry = states[shard].get(DEVICES, key.device)
        balance = states[shard].get(REWARDS, key.account)
        penalty = states[shard].get(PENALTIES, key.device)
        rows.append(
            DeviceRow(
                device=index,
                id=key.device.hex(),
                shard=shard,
                device_class=casting.device_class.name,
                attack=casting.attack_name,
                examples=stage.data.num_examples(index),
                accepted=0 if entry is None else entry.num_accepted,
                rejected=0 if entry is None else entry.num_rejected,
                reputation=0 if entry is None else entry.reputation,
                reward=0 if balance is None else balance.total,
                signed=tally.state.sequence,
                boots=tally.boots,
                brownouts=tally.brownouts,
                torn_writes=tally.torn_writes,
                battery_thousandths=tally.battery_thousandths,
                deposit=0 if entry is None else entry.deposit,
                penalty=0 if penalty is None else penalty.total,
                quarantines=0 if entry is None else entry.num_quarantines,
            )
        )
    return tuple(rows)
