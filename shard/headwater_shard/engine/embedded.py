"""All validators of one chain in one process, without I/O.

Each validator has a machine and a replica of its own and verifies everything, so what is decided
here is decided by the same rules as between machines; only the wires are missing. Messages go round
in waves: every validator takes what waits for it, then all that they want on disk is written in one
call, and only then is anything that they send delivered. So a wave costs the shell one durable
write, however many validators there are, and no message is ever ahead of the state behind it.

The order of delivery is fixed by the validators' keys: equal inputs give equal blocks.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from headwater_protocol.crypto.signing import SecretKey, Verifier
from headwater_protocol.errors import ConfigError, HeadwaterError
from headwater_protocol.identifiers import Height, ValidatorId
from headwater_protocol.reasons import ReasonCode
from headwater_shard.engine.bft.effects import (
    Broadcast,
    DurableEffect,
    Evidence,
    Finalized,
    Halted,
    Persist,
)
from headwater_shard.engine.bft.history import BlockSource, Tip
from headwater_shard.engine.bft.messages import Message
from headwater_shard.engine.bft.signer import SavedState
from headwater_shard.engine.bft.timeouts import Timeouts
from headwater_shard.engine.border import Application
from headwater_shard.engine.consensus import Consensus
from headwater_shard.engine.mempool import Mempool

MAX_WAVES_PER_CALL: Final = 256
"""Waves in one call, so that a shell gets its turn; about 60 blocks."""

MAX_INBOX_MESSAGES: Final = 10_000
"""Messages that wait for one validator; what comes on top is lost, as on a network."""

Write = Callable[[Sequence[DurableEffect]], None]
"""Puts effects on disk, in their order and together; durable when it returns."""


class ReplicaHalted(HeadwaterError):
    """A replica computes something else than what the others certified."""

    def __init__(self, validator: ValidatorId, halted: Halted) -> None:
        super().__init__(
            f"validator {validator.hex()[:16]} stopped at height {halted.height}: {halted.error}"
        )
        self.validator = validator
        self.height = halted.height
        self.error = halted.error


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSetup:
    """One validator of an embedded chain."""

    key: SecretKey
    application: Application
    """A replica of its own, at genesis or at the tip."""
    saved: SavedState | None = None
    """What the store holds of it."""


class EmbeddedEngine:
    """Orders and finalizes the transactions of one chain."""

    def __init__(
        self,
        *,
        replicas: Sequence[ReplicaSetup],
        verifier: Verifier,
        write: Write,
        clock_drift_ms: int,
        timeouts: Timeouts | None = None,
        mempool: Mempool | None = None,
        history: BlockSource | None = None,
        tip: Tip | None = None,
    ) -> None:
        """Start all replicas at one height.

        Args:
            replicas: At least one; keys are distinct.
            verifier: Checks signatures; shared by all.
            write: Called within `submit` and `on_timer` with what has to be durable.
            clock_drift_ms: As in `Consensus`; the validators share one clock here.
            timeouts: As in `Consensus`.
            mempool: Waiting transactions, shared by all; None makes one with the default limits.
            history: Where finalized blocks are found for a validator that comes back.
            tip: The last stored block; None at genesis.

        Raises:
            ConfigError: If there is no replica, a key comes twice, or a replica does not fit `tip`.
        """
        if not replicas:
            raise ConfigError("replicas", "is empty", fix="give at least one validator")
        self._mempool = Mempool() if mempool is None else mempool
        self._write = write
        self._machines: dict[ValidatorId, Consensus] = {}
        self._applications: dict[ValidatorId, Application] = {}
        for setup in sorted(replicas, key=lambda setup: setup.key.validator):
            validator = setup.key.validator
            if validator in self._machines:
                raise ConfigError("replicas", f"{validator.hex()[:16]} comes twice", fix="drop one")
            self._applications[validator] = setup.application
            self._machines[validator] = Consensus(
                key=setup.key,
                application=setup.application,
                mempool=self._mempool,
                verifier=verifier,
                clock_drift_ms=clock_drift_ms,
                timeouts=timeouts,
                history=history,
                tip=tip,
                saved=setup.saved,
            )
        self._inboxes: dict[ValidatorId, deque[Message]] = {
            validator: deque() for validator in self._machines
        }
        self._down: set[ValidatorId] = set()
        self._height = next(iter(self._applications.values())).height
        self._effects: deque[Finalized | Evidence] = deque()

    @property
    def height(self) -> Height:
        """The last finalized block."""
        return self._height

    @property
    def mempool(self) -> Mempool:
        """What waits for a block."""
        return self._mempool

    @property
    def validators(self) -> tuple[ValidatorId, ...]:
        """All validators of this process, in order of their keys."""
        return tuple(self._machines)

    @property
    def application(self) -> Application:
        """The replica that is furthest, for queries."""
        return max(self._applications.values(), key=lambda application: application.height)

    def machine(self, validator: ValidatorId) -> Consensus:
        """One validator's machine, to look at.

        Raises:
            KeyError: If it is not of this process.
        """
        return self._machines[validator]

    def is_up(self, validator: ValidatorId) -> bool:
        """Whether a validator takes part."""
        return validator not in self._down

    def set_down(self, validator: ValidatorId) -> None:
        """Take a validator off the net; it neither hears nor says anything.

        Raises:
            KeyError: If it is not of this process.
        """
        self._inboxes[validator].clear()
        self._down.add(validator)

    def set_up(self, validator: ValidatorId, now_ms: int) -> None:
        """Put a validator back on the net; it fetches the blocks that it missed.

        Raises:
            KeyError: If it is not of this process.
        """
        machine = self._machines[validator]
        if validator not in self._down:
            return
        self._down.discard(validator)
        machine.probe(now_ms)
        self._run(now_ms)

    def submit(self, transaction: bytes, now_ms: int) -> ReasonCode:
        """Queue a transaction; `OK` where it waits for a block, or is in one already."""
        reason = self._mempool.add(transaction, self.application.check_tx)
        if reason is ReasonCode.OK:
            self.on_timer(now_ms)
        return reason

    def next_timer(self) -> int | None:
        """When `on_timer` is due, in ms; a time that is past means now, None means never."""
        if any(self._inboxes[validator] for validator in self._up()):
            return 0
        times = [self._machines[validator].next_timer() for validator in self._up()]
        return min((at for at in times if at is not None), default=None)

    def on_timer(self, now_ms: int) -> None:
        """Do what is due at `now_ms`; harmless where nothing is.

        Raises:
            ReplicaHalted: If a replica disagrees with what was certified.
        """
        for validator in self._up():
            at = self._machines[validator].next_timer()
            if at is not None and at <= now_ms:
                self._machines[validator].on_timer(now_ms)
        self._run(now_ms)

    def effects(self) -> Iterator[Finalized | Evidence]:
        """What has come about, each once and in order; all of it was written before."""
        while self._effects:
            yield self._effects.popleft()

    def _up(self) -> list[ValidatorId]:
        return [validator for validator in self._machines if validator not in self._down]

    def _run(self, now_ms: int) -> None:
        for _ in range(MAX_WAVES_PER_CALL):
            if not self._deliver(now_ms):
                return

    def _deliver(self, now_ms: int) -> bool:
        """One wave; False where there was nothing to do."""
        durable: list[DurableEffect] = []
        outgoing: list[tuple[ValidatorId, Message]] = []
        events: list[Finalized | Evidence] = []
        is_busy = False
        for validator in self._up():
            machine, inbox = self._machines[validator], self._inboxes[validator]
            is_busy = is_busy or bool(inbox)
            while inbox:
                machine.receive(inbox.popleft(), now_ms)
            self._collect(validator, durable, outgoing, events)
            at = machine.next_timer()
            if at is not None and at <= now_ms and not inbox:
                machine.on_timer(now_ms)
                self._collect(validator, durable, outgoing, events)
        if durable:
            self._write(durable)
        self._effects.extend(events)
        for receiver, message in outgoing:
            if receiver not in self._down and len(self._inboxes[receiver]) < MAX_INBOX_MESSAGES:
                self._inboxes[receiver].append(message)
        return is_busy or bool(durable or outgoing)

    def _collect(
        self,
        validator: ValidatorId,
        durable: list[DurableEffect],
        outgoing: list[tuple[ValidatorId, Message]],
        events: list[Finalized | Evidence],
    ) -> None:
        for effect in self._machines[validator].effects():
            if isinstance(effect, Persist):
                durable.append(effect)
            elif isinstance(effect, Finalized):
                # Every replica finalizes every block; the first to do so tells.
                if effect.block.header.height > self._height:
                    self._height = effect.block.header.height
                    durable.append(effect)
                    events.append(effect)
            elif isinstance(effect, Evidence):
                events.append(effect)
            elif isinstance(effect, Halted):
                raise ReplicaHalted(validator, effect)
            elif isinstance(effect, Broadcast):
                outgoing.extend(
                    (other, effect.message) for other in self._machines if other != validator
                )
            elif effect.to in self._machines:
                outgoing.append((effect.to, effect.message))
