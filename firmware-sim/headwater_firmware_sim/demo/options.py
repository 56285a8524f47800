"""What a demo is asked for."""

from dataclasses import dataclass
from pathlib import Path

from headwater_protocol.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """All knobs of the demo."""

    out: Path
    broker_url: str | None = None
    """None embeds a broker."""
    bits: int = 8
    devices: int = 60
    shards: int = 2
    delegates: int = 4
    """Of each shard."""
    rounds: int = 20
    checkpoint_interval: int = 4
    byzantine_delegates: int = 0
    """Of each shard's; they cheat in votes, scores and models."""
    attackers: int = 6
    alpha_thousandths: int = 500
    """Of the Dirichlet split."""
    absent_thousandths: int = 50
    """Chance that a device is off the net in a round."""
    collect_ms: int = 2_000
    seed: int = 1

    def __post_init__(self) -> None:
        for name, value, lowest, highest in (
            ("bits", self.bits, 1, 8),
            ("devices", self.devices, 1, 1_000),
            ("shards", self.shards, 1, 16),
            ("delegates", self.delegates, 1, 32),
            ("rounds", self.rounds, 1, 1_000),
            ("attackers", self.attackers, 0, self.devices),
            ("byzantine-delegates", self.byzantine_delegates, 0, (self.delegates - 1) // 3),
            ("seed", self.seed, 0, 2**63 - 1),
        ):
            if not lowest <= value <= highest:
                raise ConfigError(name, f"is {value}", fix=f"give {lowest} to {highest}")
        if self.devices < self.shards:
            raise ConfigError(
                "devices", f"{self.devices} for {self.shards} shards", fix="give one a shard"
            )
