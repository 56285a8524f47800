"""What a gateway counts: by shard and round, and over its whole life by reason."""

from collections import Counter
from dataclasses import dataclass, field

from headwater_protocol.identifiers import ChainId, DeviceId, RoundNumber
from headwater_protocol.reasons import ReasonCode

MAX_ROUNDS_KEPT: int = 10_000
"""Of one shard; the oldest are dropped."""


@dataclass(slots=True)
class RoundMetrics:
    """Of one round."""

    shard: ChainId
    round: RoundNumber
    received: int = 0
    """Update messages, with repeats and refused ones."""
    bytes_up: int = 0
    """Bytes of these messages."""
    taken_bytes: int = 0
    """Bytes of the update messages that went on the ledger."""
    refused: Counter[ReasonCode] = field(default_factory=Counter)
    """Refused at intake."""
    judged: dict[DeviceId, ReasonCode] = field(default_factory=dict)
    """The committee's verdicts, once closed."""
    opened_ms: int = 0
    closed_ms: int = 0


class Metrics:
    """All counters of a gateway."""

    def __init__(self) -> None:
        self._rounds: dict[tuple[ChainId, RoundNumber], RoundMetrics] = {}
        self.refused: Counter[ReasonCode] = Counter()
        """Messages refused, by reason, over the life of the process."""
        self.refused_transactions: Counter[ReasonCode] = Counter()
        """Transactions of this gateway that an engine refused, by reason."""
        self.garbage: int = 0
        """Messages on topics that the protocol does not know, and statuses that do not decode."""

    def round(self, shard: ChainId, number: RoundNumber) -> RoundMetrics:
        """The counters of a round, made where they are missing."""
        key = (shard, number)
        if key not in self._rounds:
            while len(self._rounds) >= MAX_ROUNDS_KEPT:
                del self._rounds[next(iter(self._rounds))]
            self._rounds[key] = RoundMetrics(shard=shard, round=number)
        return self._rounds[key]

    @property
    def rounds(self) -> list[RoundMetrics]:
        """All rounds, in order of shard and number."""
        return [self._rounds[key] for key in sorted(self._rounds)]
