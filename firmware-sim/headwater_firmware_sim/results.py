"""What a run came to, as plain rows: the one thing that reports, comparisons and tables read.

Times are virtual milliseconds since the start of the run (in live mode, real ones). Digests and ids
are hexadecimal, reasons are the codes of `headwater_protocol.reasons`, so that every row goes into
JSON, CSV or a data frame as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]

HONEST: str = "none"
"""The attack of a device that does not attack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRow:
    """One closed round of one shard."""

    shard: str
    round: int
    """From 1; goes on counting from task to task."""
    task: str
    """Its name on the ledger; the first one's is the scenario's."""
    epoch: int
    """Merges of the main chain that the base contains."""
    opened_ms: int
    closed_ms: int
    cohort: int
    """Devices drawn."""
    updates: int
    """Updates on the ledger."""
    accepted: int
    examples: int
    """Of the accepted updates, each capped by the task."""
    received: int
    """Update messages at the gateways, with repeats and refused ones."""
    bytes_up: int
    """Of all these messages."""
    bytes_per_update: int
    """Of the messages that went on the ledger, on average."""
    rejected: Mapping[str, int]
    """By reason, at intake and by the committee, in order of the names."""
    attackers_judged: int
    attackers_refused: int
    """Of those judged, by the committee."""
    honest_judged: int
    honest_refused: int
    paid: int
    """Units of the budget."""
    accuracy: float | None
    """Of the round's model on the held-out examples, 0 to 1; None where it was not evaluated."""
    loss: float | None
    """Mean cross-entropy of the same."""
    backdoor: float | None
    """Share of triggered examples that the model takes for the attackers' class; None without
    a backdoor in the scenario."""
    model: str
    """Digest of the round's model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRoundRow:
    """One device in one round that drew it."""

    shard: str
    round: int
    device: int
    """Index in the fleet."""
    device_class: str
    attack: str
    """`none` for an honest device."""
    outcome: str
    """`ok`, the reason it was refused for, or `absent` where no update reached the ledger."""
    score: int
    """Median cosine in ten-thousandths; 0 where it was not judged."""
    reward: int
    examples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRow:
    """One device over the whole run."""

    device: int
    """Index in the fleet."""
    id: str
    shard: str
    device_class: str
    attack: str
    examples: int
    """In its own data."""
    accepted: int
    rejected: int
    reputation: int
    """At the end, in ten-thousandths."""
    reward: int
    signed: int
    """Updates that it signed."""
    boots: int
    """Starts of the firmware, the first one included."""
    brownouts: int
    torn_writes: int
    battery_thousandths: int
    """Charge at the end; 1000 for a device on the mains."""
    deposit: int = 0
    """Units that it had locked when it was enrolled."""
    penalty: int = 0
    """Of these, what its shard took."""
    quarantines: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalRow:
    """One merged model of the main chain."""

    epoch: int
    at_ms: int
    accuracy: float | None
    loss: float | None
    backdoor: float | None
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRow:
    """One checkpoint that the main chain settled."""

    shard: str
    number: int
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ElectionRow:
    """One epoch: its number, and how its election differs from the one before."""

    epoch: int
    at_ms: int
    height: int
    """Of the main chain's block that began it."""
    delegates: int
    voting_power: int
    moved: int
    """Delegates that serve another shard than before."""
    left: int
    """Delegates of the epoch before that were not elected again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeatRow:
    """One delegate in one epoch."""

    epoch: int
    shard: str
    validator: str
    voting_power: int
    behaviour: str
    """`none` for an honest delegate, else the word of the scenario."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PenaltyRow:
    """One punished offence of a delegate."""

    at_ms: int
    validator: str
    behaviour: str
    """As in `SeatRow`."""
    offence: str
    chain: str
    place: int
    """The height, the round or the epoch that it was about."""
    height: int
    """Of the main chain's block that punished it."""
    slashed: int
    """Units, of all who had stake with it."""
    rewarded: int
    """Of these, to who reported it; the rest was burned."""
    tombstoned: bool
    """Whether it was out for good then; else it was jailed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldingsRow:
    """What a group of devices held, deposits included."""

    before: int = 0
    after: int = 0
    least_change: int = 0
    """Of one device."""
    most_change: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EconomyRow:
    """The units of the main chain at the end."""

    supply_before: int = 0
    supply_after: int = 0
    round_budgets_paid: int = 0
    """By all closed rounds."""
    rewards_paid: int = 0
    """Of these, claimed on the main chain."""
    returned_to_sponsor: int = 0
    unclaimed: int = 0
    deposits_left: int = 0
    burned: int = 0
    attackers: HoldingsRow = field(default_factory=HoldingsRow)
    honest: HoldingsRow = field(default_factory=HoldingsRow)


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRow:
    """Something that the scenario broke."""

    kind: str
    """`reboot`, `torn_write`, `brownout`, `partition`, `broker_loss`, `gateway_crash`, ..."""
    from_ms: int
    until_ms: int
    """The same as `from_ms` where it has no length."""
    target: str
    """Who was hit: a device's index, a shard, a gateway, or `all`."""
    count: int
    """How many were hit; frequent small faults are one row a second and kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalRow:
    """Where the run ended."""

    main_chain_digest: str
    """Header digest of the main chain's last block."""
    main_chain_height: int
    chain_digests: Mapping[str, str]
    """By shard, header digest of its last block."""
    chain_heights: Mapping[str, int]
    model: str
    """The last merged model, or the first shard's if there was no merge."""
    accuracy: float | None
    loss: float | None
    backdoor: float | None
    merges: int
    supply: int
    """Units on the main chain."""
    is_complete: bool
    """Whether every shard closed all its rounds and settled them."""
    audit: str
    """`ok`, `not run`, or what does not hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """A whole run."""

    scenario: str
    """Its name."""
    title: str
    """One line about it."""
    seed: int
    mode: str
    """`virtual` or `live`."""
    devices: int
    shards: int
    attackers: int
    virtual_ms: int
    """How long the run was in its own time."""
    wall_ms: int
    """How long it took; not part of what two runs have in common."""
    peak_memory_bytes: int
    """Of the process; as `wall_ms`."""
    counts: Mapping[str, int]
    """Totals by name, sorted: messages, losses, boots, trainings, blocks and so on."""
    rounds: tuple[RoundRow, ...]
    """In order of closing time, then shard."""
    globals: tuple[GlobalRow, ...]
    checkpoints: tuple[CheckpointRow, ...]
    elections: tuple[ElectionRow, ...] = ()
    """The genesis' committees first."""
    seats: tuple[SeatRow, ...] = ()
    penalties: tuple[PenaltyRow, ...] = ()
    """In order of their blocks."""
    economy: EconomyRow = field(default_factory=EconomyRow)
    faults: tuple[FaultRow, ...]
    fleet: tuple[DeviceRow, ...]
    device_rounds: tuple[DeviceRoundRow, ...]
    """Every device of every round; empty if the scenario says `output.device_rounds = false`."""
    final: FinalRow
    config: Mapping[str, JsonValue] = field(default_factory=dict)
    """The scenario with all its defaults filled in."""
