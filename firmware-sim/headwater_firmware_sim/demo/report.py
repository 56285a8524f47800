"""What a demo has come to, as `result.json` and the closing table tell it."""

from collections import Counter
from dataclasses import dataclass, field

from headwater_firmware_sim.economy.account import EconomyReport
from headwater_firmware_sim.economy.epochs import count_committees, describe_epochs
from headwater_firmware_sim.economy.evidence import EvidenceReport
from headwater_firmware_sim.output.result_json import to_json
from headwater_firmware_sim.results import EconomyRow, JsonValue
from headwater_protocol.chain.epoch import Epoch
from headwater_protocol.identifiers import ChainId, DeviceId, Digest, RoundNumber
from headwater_protocol.reasons import ReasonCode


@dataclass(slots=True, kw_only=True)
class RoundReport:
    """One closed round of one shard."""

    shard: ChainId
    round: RoundNumber
    epoch: int
    accuracy: float
    """Of the round's model on the held-out examples."""
    received: int
    """Update messages at the gateway."""
    accepted: int
    rejected: Counter[ReasonCode]
    """At intake and by the committee."""
    bytes_up: int
    """Of all update messages."""
    bytes_per_update: int
    wall_ms: int

    def to_json(self) -> JsonValue:
        """For `result.json`."""
        return {
            "shard": self.shard,
            "round": self.round,
            "epoch": self.epoch,
            "accuracy": round(self.accuracy, 4),
            "received": self.received,
            "accepted": self.accepted,
            "rejected": {reason.value: self.rejected[reason] for reason in sorted(self.rejected)},
            "bytes_up": self.bytes_up,
            "bytes_up_per_update": self.bytes_per_update,
            "wall_ms": self.wall_ms,
        }


@dataclass(slots=True, kw_only=True)
class DemoReport:
    """The whole run."""

    num_devices: int
    shards: tuple[ChainId, ...]
    attackers: frozenset[DeviceId]
    bits: int
    seed: int
    rounds: list[RoundReport] = field(default_factory=list)
    checkpoints: Counter[ChainId] = field(default_factory=Counter)
    """Settled on the main chain."""
    judged: Counter[tuple[bool, bool]] = field(default_factory=Counter)
    """Verdicts by (is an attacker, was accepted)."""
    absences: int = 0
    merges: int = 0
    heights: dict[ChainId, int] = field(default_factory=dict)
    rewards: dict[DeviceId, int] = field(default_factory=dict)
    evidence: list[EvidenceReport] = field(default_factory=list)
    """Offences of delegates that the main chain punished."""
    economy: EconomyReport = field(default_factory=EconomyReport)
    """Where the units went."""
    epochs: tuple[Epoch, ...] = ()
    """In order, each with its committees."""
    accuracy: float = 0.0
    """Of the last merged model on the held-out examples."""
    model: Digest | None = None
    audit: str = "not run"
    wall_ms: int = 0

    def rejected(self, shard: ChainId | None = None) -> Counter[ReasonCode]:
        """Refused updates by reason, of one shard or of all."""
        total: Counter[ReasonCode] = Counter()
        for entry in self.rounds:
            if shard in {None, entry.shard}:
                total.update(entry.rejected)
        return total

    def share_refused(self, *, attackers: bool) -> float:
        """Of the judged updates of attackers, or of the others, the share that was refused."""
        refused = self.judged[(attackers, False)]
        total = refused + self.judged[(attackers, True)]
        return refused / total if total else 0.0

    def to_json(self) -> JsonValue:
        """`result.json`."""
        return {
            "devices": self.num_devices,
            "shards": len(self.shards),
            "bits": self.bits,
            "seed": self.seed,
            "checkpoints": {shard: self.checkpoints[shard] for shard in self.shards},
            "rejected": _by_reason(self.rejected()),
            "per_shard": [
                {
                    "shard": shard,
                    "checkpoints": self.checkpoints[shard],
                    "rejected": _by_reason(self.rejected(shard)),
                    "height": self.heights.get(shard, 0),
                    "accepted": sum(e.accepted for e in self.rounds if e.shard == shard),
                }
                for shard in self.shards
            ],
            "attackers": {
                "devices": len(self.attackers),
                "judged": self.judged[(True, True)] + self.judged[(True, False)],
                "refused": self.judged[(True, False)],
                "refused_share": round(self.share_refused(attackers=True), 4),
                "rewards": sum(self.rewards.get(device, 0) for device in self.attackers),
            },
            "honest": {
                "devices": self.num_devices - len(self.attackers),
                "judged": self.judged[(False, True)] + self.judged[(False, False)],
                "refused": self.judged[(False, False)],
                "refused_share": round(self.share_refused(attackers=False), 4),
                "rewards": sum(
                    amount
                    for device, amount in sorted(self.rewards.items())
                    if device not in self.attackers
                ),
            },
            "economy": {
                **_plain(self.economy.summarize(self.attackers)),
                "evidence": [entry.to_json() for entry in self.evidence],
                "epochs": describe_epochs(self.epochs),
                "different_committees": count_committees(self.epochs),
            },
            "absences": self.absences,
            "rounds": [entry.to_json() for entry in self.rounds],
            "final": {
                "accuracy": round(self.accuracy, 4),
                "audit": self.audit,
                "global_model_digest": None if self.model is None else self.model.hex(),
                "main_chain_height": self.heights.get(ChainId("main"), 0),
                "merges": self.merges,
            },
            "wall_ms": self.wall_ms,
        }


def _plain(row: EconomyRow) -> dict[str, JsonValue]:
    value = to_json(row)
    return value if isinstance(value, dict) else {}


def _by_reason(counts: Counter[ReasonCode]) -> JsonValue:
    return {reason.value: counts[reason] for reason in sorted(counts)}
