"""What everything in a virtual run shares, and what it counts."""

import random
from collections import Counter
from dataclasses import dataclass, field

from headwater_firmware_sim.fault_log import FaultLog
from headwater_firmware_sim.results import FaultRow
from headwater_firmware_sim.stage import Stage
from headwater_firmware_sim.training import FleetTrainer
from headwater_firmware_sim.verifier import RememberingVerifier
from headwater_firmware_sim.virtual.broker import Broker
from headwater_firmware_sim.virtual.clock import Clock
from headwater_firmware_sim.virtual.conditions import Conditions
from headwater_firmware_sim.virtual.reader import RememberingReader
from headwater_firmware_sim.virtual.spill import FlashSpill, MessageSpill


@dataclass(slots=True, kw_only=True)
class Rates:
    """Chances of small faults to devices, which faults switch on and off."""

    torn_write: float = 0.0
    """Of each write to flash."""
    watchdog: float = 0.0
    """Of each training."""


@dataclass(slots=True, kw_only=True)
class World:
    """One run's clock, wires, chance and counters."""

    stage: Stage
    clock: Clock
    broker: Broker
    conditions: Conditions
    trainer: FleetTrainer
    rng: random.Random
    """Of wires and faults; keys, data and fleet have generators of their own."""
    start_ms: int
    rates: Rates = field(default_factory=Rates)
    verifier: RememberingVerifier = field(default_factory=RememberingVerifier)
    reader: RememberingReader = field(default_factory=RememberingReader)
    flash: FlashSpill | None = None
    """Where a large fleet keeps residuals and updates; None leaves them in memory."""
    air: MessageSpill | None = None
    """Where a large fleet's messages to the broker are while they are under way."""
    counts: Counter[str] = field(default_factory=Counter)
    faults_log: FaultLog = field(default_factory=FaultLog)

    @property
    def elapsed_ms(self) -> int:
        """Since the start."""
        return self.clock.now_ms - self.start_ms

    def note_fault(self, kind: str, target: str, *, for_ms: int = 0) -> None:
        """Remember a fault; those of one kind and second are one row."""
        self.counts[kind] += 1
        self.faults_log.note(kind, target, now_ms=self.elapsed_ms, for_ms=for_ms)

    @property
    def faults(self) -> tuple[FaultRow, ...]:
        """All of them, in order of their beginning."""
        return self.faults_log.rows
