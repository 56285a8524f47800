"""The life of a device whose power is cut again and again, on the agent's own store.

The machine, the store and SQLite are the real ones; disk, clock and network are simulated. After
every cut the state is read back and compared with what the store had promised.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from headwater_agent.device import Device
from headwater_agent.machine.effects import Effect, Persist, Publish
from headwater_agent.machine.inputs import Arrived, Connected, Connecting, Stopping, Trained
from headwater_agent.state import Changes, DeviceState, apply_changes
from headwater_agent.storage.proofs import load_totals
from headwater_agent.store import StateStore
from headwater_firmware_sim.verifier import RememberingVerifier
from headwater_protocol.identifiers import RoundNumber
from headwater_protocol.messages.receipt import Stage
from headwater_protocol.messages.update import decode_update
from headwater_protocol.reasons import ReasonCode
from tests.support.agent_support import (
    BASE,
    COLLECT_MS,
    DELTA,
    DEVICE_KEY,
    ENTROPY,
    PROGRAM,
    SHARD,
    START_MS,
    Net,
)
from tests.support.power_disk import PowerCut, PowerDisk

PATH = Path("/device.db")
KINDS = ("before", "torn", "after")
MAX_OPERATIONS_BETWEEN_CUTS = 90


@dataclass
class Fleet:
    """What lives share: messages that were built once, and a verifier that remembers."""

    net: Net = field(default_factory=lambda: Net(num_delegates=2))
    verifier: RememberingVerifier = field(default_factory=RememberingVerifier)
    announced: dict[int, Arrived] = field(default_factory=dict)
    pieces: list[Arrived] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.genesis, self.network = self.net.genesis, self.net.network
        self.pieces = [*self.net.pieces(BASE), *self.net.pieces(PROGRAM)]

    def announce(self, number: int) -> Arrived:
        if number not in self.announced:
            self.announced[number] = self.net.announced(number)
        return self.announced[number]


@dataclass
class Life:
    """One device, one disk, many cuts."""

    fleet: Fleet
    seed: int
    cuts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By what the disk was doing and where in it the power went."""
    reboots: int = 0
    recovered_ahead: int = 0
    """Times that the change under way at the cut was there afterwards."""
    resent: int = 0
    """Updates sent after a cut exactly as before it."""
    first_operations: int | None = None
    """Where the first cut falls, if not by chance, with `first_kind`."""
    first_kind: str = "before"

    def __post_init__(self) -> None:
        self.disk = PowerDisk(self.seed)
        self.now_ms = START_MS
        self.round = 1
        self.promised = DeviceState()
        """What the store said is durable."""
        self.under_way: Changes | None = None
        self.published: dict[int, bytes] = {}
        self.is_made = False
        self.trainings = 0

    def live(self, cuts: int) -> "Life":
        """Boot until the power was cut so often, then once more to the end of a round."""
        for _ in range(cuts):
            self._plan()
            try:
                self._boot_and_work()
            except PowerCut:
                pass
            else:
                raise AssertionError("a life ended without a cut")
            self.cuts[self.disk.cut_kind, self.disk._cut_kind] += 1
            self.disk.restart()
        self._boot_and_work(rounds=1)
        return self

    def _plan(self) -> None:
        rng = self.disk.rng
        if self.first_operations is not None:
            self.disk.plan_cut(self.first_operations, self.first_kind)
            self.first_operations = None
        else:
            self.disk.plan_cut(rng.randint(1, MAX_OPERATIONS_BETWEEN_CUTS), rng.choice(KINDS))

    def _boot_and_work(self, rounds: int = 1_000) -> None:
        self.reboots += 1
        store = StateStore(
            PATH,
            device=DEVICE_KEY.device,
            network=self.fleet.network,
            creates=not self.is_made,
            disk=self.disk,
        )
        self.is_made = True
        state = store.load()
        self._require_promise(state)
        totals = load_totals(store._database)
        assert totals["rounds_signed"] == state.sequence, "books and state differ"
        assert totals["updates_dropped"] <= state.sequence
        device = Device(
            key=DEVICE_KEY,
            genesis=self.fleet.genesis,
            network=self.fleet.network,
            shard=SHARD,
            entropy=ENTROPY,
            state=state,
            verifier=self.fleet.verifier,
        )
        for _ in range(rounds):
            self._work(device, store)
        store.close()

    def _require_promise(self, found: DeviceState) -> None:
        """What is there is what was promised, or that with the change that was under way."""
        if found == self.promised:
            pass
        elif self.under_way is not None and found == apply_changes(self.promised, self.under_way):
            self.recovered_ahead += 1
        else:
            raise AssertionError(f"found {found.last_signed_round}, {self.promised.sequence}")
        self.promised, self.under_way = found, None
        if found.outbox is not None:
            sent = self.published.get(found.outbox.round)
            assert sent in {None, found.outbox.update}, "another update than was sent"

    def _work(self, device: Device, store: StateStore) -> None:
        """A round with all that is ever persisted; by chance, not all of it."""
        rng = self.disk.rng
        self._tell(device, store, Connecting())
        self._tell(device, store, Connected(session=device.state.session))
        self._run_timers(device, store, 3_000)
        for message in (self.fleet.announce(self.round), *self.fleet.pieces):
            self._tell(device, store, message)
        # No two trainings give the same: another runtime, other data, another order.
        self.trainings += 1
        delta = (DELTA * np.float32(1 + self.trainings % 11)).astype(np.float32)
        trained = Trained(round=RoundNumber(self.round), delta=delta, num_examples=5)
        self._tell(device, store, trained)
        store.write_report(f'{{"trainings": {self.trainings}}}')
        self._run_timers(device, store, 3_000)
        entry = device.state.outbox
        if entry is not None and rng.random() < 0.8:
            update = decode_update(entry.update)
            self._tell(device, store, self.fleet.net.answered(update))
            if rng.random() < 0.7:
                reason = rng.choice((ReasonCode.OK, ReasonCode.LOW_SCORE))
                verdict = self.fleet.net.answered(update, reason, stage=Stage.VERDICT)
                self._tell(device, store, verdict)
        if rng.random() < 0.1:
            self._tell(device, store, Stopping())
        if rng.random() < 0.8:
            self.round += 1
            self.now_ms = max(self.now_ms, START_MS + (self.round - 1) * COLLECT_MS)

    def _tell(self, device: Device, store: StateStore, message: object) -> None:
        device.receive(message, self.now_ms)  # type: ignore[arg-type]
        self._perform(device, store)

    def _run_timers(self, device: Device, store: StateStore, wait_ms: int) -> None:
        end_ms = self.now_ms + wait_ms
        while (due_ms := device.next_timer()) is not None and due_ms <= end_ms:
            self.now_ms = max(self.now_ms, due_ms)
            device.on_timer(self.now_ms)
            self._perform(device, store)
        self.now_ms = end_ms

    def _perform(self, device: Device, store: StateStore) -> None:
        for effect in device.effects():
            self._perform_one(effect, store)

    def _perform_one(self, effect: Effect, store: StateStore) -> None:
        match effect:
            case Persist():
                self.under_way = effect.changes
                store.apply(effect.changes)
                self.promised = apply_changes(self.promised, effect.changes)
                self.under_way = None
            case Publish() if effect.topic.endswith("/update"):
                update = decode_update(effect.payload)
                known = self.published.setdefault(update.round, effect.payload)
                assert known == effect.payload, f"two updates for round {update.round}"
                self.resent += 1
            case _:
                pass
