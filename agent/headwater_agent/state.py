"""What a device keeps across restarts, and the changes that a store applies.

The key is kept apart: it is made once and never written again. `last_signed_round` and the signed
update change in one step, which is what keeps a device from ever signing two for a round.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, ClassVar, Final

from headwater_agent.machine.limits import MAX_RECEIPTS
from headwater_protocol.chain.task import MAX_PARAMETERS, MAX_TENSORS
from headwater_protocol.encoding.record import Count, Length, Range
from headwater_protocol.identifiers import MAX_UNSIGNED, Digest, RoundNumber, TaskId, TimeMs
from headwater_protocol.light.shard import ShardTrust
from headwater_protocol.messages.receipt import SignedReceipt
from headwater_protocol.messages.update import MAX_UPDATE_BYTES
from headwater_protocol.reasons import ReasonCode

Counts = Mapping[ReasonCode, int]
NO_ROUND: Final = RoundNumber(0)
"""Rounds are counted from 1."""


_NO_COUNTS: Final[Counts] = MappingProxyType({})


def _no_counts() -> Counts:
    return _NO_COUNTS


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxEntry:
    """The one signed update that may still count."""

    KIND: ClassVar[str] = "outbox-entry/1"

    round: RoundNumber
    task: TaskId
    payload: Digest
    """Of the encoded delta, as receipts name it."""
    update: Annotated[bytes, Length(1, MAX_UPDATE_BYTES)]
    """The encoded `Update`; resent as it is."""
    deadline_ms: TimeMs
    """On the device's clock: later, the round takes no updates."""
    verdict_until_ms: TimeMs
    """On the device's clock: later, no verdict is waited for."""
    is_held: bool
    """Whether a gateway promised that the commit is on the ledger."""
    tensor_sizes: Annotated[
        tuple[Annotated[int, Range(1, MAX_PARAMETERS)], ...], Count(1, MAX_TENSORS)
    ]
    """With the next two, what decodes the payload again."""
    bits: Annotated[int, Range(1, 8)]
    fraction_bits: Annotated[int, Range(0, 30)]
    delta_norm_units: Annotated[int, Range(0, MAX_UNSIGNED)]
    """L2 norm of the round's own delta in units of `2**-fraction_bits`, rounded up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """The error-feedback memory: what earlier updates left out."""

    KIND: ClassVar[str] = "residual/1"

    task: TaskId
    """It means nothing in another task."""
    values: Annotated[bytes, Length(0, 4 * MAX_PARAMETERS)]
    """Little-endian float32, one a parameter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """Everything that a device knows when it starts; the defaults are a new device."""

    session: int = 0
    """Connections tried so far."""
    sequence: int = 0
    """Updates signed so far."""
    last_signed_round: RoundNumber = NO_ROUND
    """No update of this round or an earlier one is ever signed again."""
    outbox: OutboxEntry | None = None
    residual: Residual | None = None
    program: bytes | None = None
    """The last training program, so that a restart does not fetch it again."""
    trust: ShardTrust | None = None
    """Elections followed so far; None trusts the genesis."""
    receipts: tuple[SignedReceipt, ...] = ()
    """The last `MAX_RECEIPTS`, oldest first."""
    rejections: Counts = field(default_factory=_no_counts)
    """Inputs that the device refused, by reason."""
    answers: Counts = field(default_factory=_no_counts)
    """Receipts that the device took, by reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What becomes of a state in one atomic step; None leaves a field as it is."""

    session: int | None = None
    sequence: int | None = None
    last_signed_round: RoundNumber | None = None
    outbox: OutboxEntry | None = None
    clears_outbox: bool = False
    """The update needs no keeping any more; never together with `outbox`."""
    residual: Residual | None = None
    program: bytes | None = None
    trust: ShardTrust | None = None
    receipt: SignedReceipt | None = None
    """Appended; the oldest past the limit goes."""
    rejections: Counts | None = None
    answers: Counts | None = None


def apply_changes(state: DeviceState, changes: Changes) -> DeviceState:
    """`state` after `changes`."""
    receipts = state.receipts
    if changes.receipt is not None:
        receipts = (*receipts, changes.receipt)[-MAX_RECEIPTS:]
    return DeviceState(
        session=state.session if changes.session is None else changes.session,
        sequence=state.sequence if changes.sequence is None else changes.sequence,
        last_signed_round=(
            state.last_signed_round
            if changes.last_signed_round is None
            else changes.last_signed_round
        ),
        outbox=None if changes.clears_outbox else changes.outbox or state.outbox,
        residual=changes.residual or state.residual,
        program=changes.program or state.program,
        trust=changes.trust or state.trust,
        receipts=receipts,
        rejections=state.rejections if changes.rejections is None else changes.rejections,
        answers=state.answers if changes.answers is None else changes.answers,
    )
