"""What a network of processes is made of."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from string import Template
from typing import Final

from headwater_firmware_sim.machines.hosts import MAX_HOSTS
from headwater_protocol.errors import ConfigError

MAX_DEVICES: Final = 200
"""Each is a process of about 50 MB."""

TASK: Final = Template("""\
name = "digits"
rounds = $rounds
cohort_size = 1000
min_updates = $min_updates
collect_ms = $collect_ms
score_ms = 10000
attest_ms = 10000

[training]
learning_rate_millionths = 20000
local_epochs = 3
batch_size = 8

[network]
checkpoint_interval = 1
merge_wait_ms = 2000
epoch_timeout_ms = 60000
""")


class NetworkKind(StrEnum):
    """How processes reach each other."""

    AUTO = "auto"
    """Namespaces where the machine allows them."""
    NAMESPACES = "namespaces"
    LOOPBACK = "loopback"


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPlan:
    """What is asked for."""

    out: Path
    """A folder that is new, or a run's like this one that is replaced."""
    num_validators: int = 4
    """Gateways of each shard."""
    num_shards: int = 1
    num_devices: int = 20
    num_rounds: int = 5
    """Of each shard."""
    collect_ms: int = 8_000
    kind: NetworkKind = NetworkKind.AUTO
    snapshot_interval_blocks: int = 1_000

    @property
    def num_gateways(self) -> int:
        """One a validator."""
        return self.num_validators * self.num_shards

    @property
    def device_databases(self) -> list[Path]:
        """Where each device keeps what it signed and was promised."""
        return [self.out / f"device-{index}" / "device.db" for index in range(self.num_devices)]

    @property
    def task(self) -> str:
        """A `task.toml` of handwritten digits."""
        return TASK.substitute(
            rounds=self.num_rounds,
            # The first round waits until most devices have joined.
            min_updates=max(1, self.num_devices // self.num_shards * 3 // 4),
            collect_ms=self.collect_ms,
        )

    def require_consistent(self) -> None:
        """Refuse what cannot work.

        Raises:
            ConfigError: Names the option and the fix.
        """
        for option, value, highest in (
            ("--validators", self.num_validators, MAX_HOSTS // 4),
            ("--shards", self.num_shards, 4),
            ("--devices", self.num_devices, MAX_DEVICES),
            ("--rounds", self.num_rounds, 100_000),
        ):
            if not 1 <= value <= highest:
                raise ConfigError(option, f"is {value}", fix=f"give 1 to {highest}")


def chaos_plan(out: Path, *, devices: int, kind: NetworkKind) -> NetworkPlan:
    """A network that goes on for as long as faults are tried on it."""
    return NetworkPlan(
        out=out,
        num_devices=devices,
        num_rounds=100_000,
        collect_ms=3_000,
        kind=kind,
        snapshot_interval_blocks=10,
    )
