"""A device of the agent's own parts in an event loop: a thousand of them fit into one process.

Machine, state file, reservoir, trainer and MQTT session are what runs on a Pi; only the loop around
them is another one, because `select` and a process each would end at a few hundred. Its clock is
the caller's, so that a week passes in a second.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from headwater_agent.config import BrokerAddress, Tls
from headwater_agent.data.keep import Keeper
from headwater_agent.device import Device
from headwater_agent.machine.effects import (
    AskPermission,
    Effect,
    Event,
    Notice,
    OpenConnection,
    Persist,
    Publish,
    Rejected,
    Subscribe,
    Train,
    Unsubscribe,
)
from headwater_agent.machine.inputs import (
    Connecting,
    Disconnected,
    Input,
    Trained,
)
from headwater_agent.shell.connection import Connection
from headwater_agent.state import DeviceState
from headwater_agent.store import StateStore
from headwater_protocol.chain.genesis import Genesis, genesis_network
from headwater_protocol.crypto.hashing import Domain, blob_digest, hash_bytes
from headwater_protocol.crypto.signing import SecretKey, Verifier
from headwater_protocol.identifiers import ChainId, Digest
from headwater_protocol.messages.topics import Topics
from headwater_protocol.messages.update import decode_update
from tests.support.hourly_sensor import HourlySensor, Readings, SharedTraining

HOUR_MS = 3_600_000
NO_TLS = Tls(ca_file=None, cert_file=None, key_file=None)
MAX_UPDATE_BYTES = 1 << 20


@dataclass(kw_only=True)
class Fleet:
    """What all devices have in common."""

    genesis: Genesis
    shard: ChainId
    broker: BrokerAddress
    verifier: Verifier
    folder: Path
    now_ms: Callable[[], int]
    readings: Readings = field(default_factory=Readings)
    training: SharedTraining | None = None
    """None for a fleet that is offline."""
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    """Set whenever a device has something to tell."""
    refused: Counter[str] = field(default_factory=Counter)
    """Inputs that a machine refused, by reason."""


class HourlyDevice:
    """One device: on or off, on the net or not."""

    def __init__(self, fleet: Fleet, key: SecretKey, *, index: int) -> None:
        self.key = key
        self.index = index
        self.signed: dict[int, Digest] = {}
        """The payload of each update that was signed, by round."""
        self.sent_s: dict[int, float] = {}
        self.answered_s: dict[int, float] = {}
        """When an update left for the first time since the boot, and when its first receipt was on
        disk: of intake, or of the verdict where the round closed before."""
        self.num_returned = 0
        """Updates whose content went back into the memory of errors."""
        self.connecting_s = 0.0
        self.cuts_before_sending = False
        self.goes_deaf_after_sending = False
        self._fleet = fleet
        self._entropy = hash_bytes(Domain.SEED, b"entropy", key.seed)
        self._path = fleet.folder / f"device-{index}.db"
        self._topics = Topics(genesis_network(fleet.genesis), fleet.shard)
        self._connection: Connection | None = None
        self._fd = -1
        self._timer: asyncio.TimerHandle | None = None
        self._store: StateStore | None = None
        self._is_deaf = False
        self._tasks: set[asyncio.Task[None]] = set()

    def wait_s(self, round_: int) -> float | None:
        """From the first departure to the first receipt; None if a verdict came before it left."""
        sent_s = self.sent_s.get(round_)
        return None if sent_s is None else self.answered_s[round_] - sent_s

    def boot(self) -> None:
        """From what is on disk."""
        network = genesis_network(self._fleet.genesis)
        self._store = StateStore(self._path, device=self.key.device, network=network, creates=True)
        self.sensor = HourlySensor(self._fleet.folder, entropy=self._entropy)
        self._keeper = Keeper(
            self.sensor, self._store.examples, interval_ms=self.sensor.interval_ms
        )
        self._keeper.restore()
        self.machine = Device(
            key=self.key,
            genesis=self._fleet.genesis,
            network=network,
            shard=self._fleet.shard,
            entropy=self._entropy,
            state=self._store.load(),
            verifier=self._fleet.verifier,
        )
        self.sent_s.clear()
        self._is_deaf = False

    def live_offline(self, hours: range, *, began_ms: int) -> None:
        """Boot, spend hours without a network and with a power cut half-way, and lose power."""
        self.boot()
        for passed, hour in enumerate(hours, 1):
            if 2 * passed == len(hours):
                self.cut_power()
                self.boot()
            self.live_hour(hour, began_ms + passed * HOUR_MS)
        self.cut_power()

    def cut_power(self) -> None:
        """Whatever is not on disk is gone."""
        self._drop_connection()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._store is not None:
            self._store.close()
            self._store = None

    def load_state(self) -> DeviceState:
        """What is on disk."""
        return self._require_store().load()

    def hear(self, hour: int, now_ms: int) -> None:
        """A reading, and the writes that are due."""
        self.sensor.hear(self._fleet.readings.message(self.index, hour), now_ms)
        self._keeper.tick(now_ms)
        self._keeper.tick(now_ms + self.sensor.interval_ms)

    def live_hour(self, hour: int, now_ms: int) -> None:
        """An hour without a network: a reading, writes that are due, a broker out of reach."""
        self.hear(hour, now_ms)
        for message in (Connecting(), Disconnected()):
            self.machine.receive(message, now_ms)
            self._perform_offline()
        due_ms = self.machine.next_timer()
        if due_ms is not None and due_ms <= now_ms:
            self.machine.on_timer(now_ms)
            self._perform_offline()

    def _perform_offline(self) -> None:
        for effect in self.machine.effects():
            if isinstance(effect, Persist):
                self._require_store().apply(effect.changes)
            elif isinstance(effect, Notice):
                raise AssertionError(f"device {self.index}, without a network: {effect}")

    def connect(self) -> None:
        """Go on the net."""
        self.connecting_s = time.monotonic()
        self._tell(Connecting())

    def ping(self) -> None:
        """Let the session keep itself alive."""
        if self._connection is not None and not self._is_deaf:
            self._serve(can_read=False, can_write=False)

    # The loop

    def _tell(self, message: Input) -> None:
        self.machine.receive(message, self._fleet.now_ms())
        self._perform_all()

    def _perform_all(self) -> None:
        for effect in self.machine.effects():
            self._perform(effect)
        if self._store is not None:
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at_ms = self.machine.next_timer()
        if at_ms is not None and self._connection is not None:
            wait_s = max(0, at_ms - self._fleet.now_ms()) / 1_000
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.machine.on_timer(self._fleet.now_ms())
        self._perform_all()

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Persist():
                self._require_store().apply(effect.changes)
                if effect.changes.outbox is not None and not effect.changes.outbox.is_held:
                    self._on_signed(effect.changes.outbox.round, effect.changes.outbox.payload)
            case OpenConnection():
                self._open(effect)
            case Train():
                task = asyncio.get_running_loop().create_task(self._train(effect))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case Notice():
                if effect.event in {Event.HELD, Event.VERDICT}:
                    self.answered_s.setdefault(effect.round, time.monotonic())
                if effect.event is Event.RETURNED:
                    self.num_returned += 1
                self._fleet.moved.set()
            case Rejected():
                self._fleet.refused[effect.reason.value] += 1
            case Publish() | Subscribe() | Unsubscribe():
                self._send(effect)
            case AskPermission():
                raise AssertionError("this device was told that it may always train")

    def _on_signed(self, round_: int, payload: Digest) -> None:
        assert round_ not in self.signed, "two updates for one round"
        self.signed[round_] = payload
        if self.cuts_before_sending:
            self._drop_connection()
        self._fleet.moved.set()

    def _send(self, effect: Publish | Subscribe | Unsubscribe) -> None:
        connection = self._connection
        if connection is None or connection.is_closed:
            return
        match effect:
            case Publish():
                connection.publish(effect)
                if effect.topic == self._topics.update(self.key.device):
                    self._on_sent(effect.payload)
            case Subscribe():
                connection.subscribe(effect.topics)
            case Unsubscribe():
                connection.unsubscribe(effect.topics)
        self._watch_writes()

    def _on_sent(self, payload: bytes) -> None:
        update = decode_update(payload, max_bytes=MAX_UPDATE_BYTES)
        assert self.signed[update.round] == blob_digest(update.payload), "another update was sent"
        self.sent_s.setdefault(update.round, time.monotonic())
        if self.goes_deaf_after_sending:
            self._is_deaf = True
            asyncio.get_running_loop().remove_reader(self._fd)
        self._fleet.moved.set()

    def _open(self, opening: OpenConnection) -> None:
        self._connection = Connection(
            address=self._fleet.broker,
            opening=opening,
            client_id=self.key.device.hex(),
            login=None,
            tls=NO_TLS,
        )
        self._fd = self._connection.fileno()
        asyncio.get_running_loop().add_reader(self._fd, self._on_readable)
        self._watch_writes()

    def _watch_writes(self) -> None:
        if self._connection is not None and not self._connection.is_closed:
            loop = asyncio.get_running_loop()
            if self._connection.wants_write:
                loop.add_writer(self._fd, self._on_writable)
            else:
                loop.remove_writer(self._fd)

    def _on_readable(self) -> None:
        self._serve(can_read=True, can_write=False)

    def _on_writable(self) -> None:
        self._serve(can_read=False, can_write=True)

    def _serve(self, *, can_read: bool, can_write: bool) -> None:
        connection = self._connection
        if connection is None:
            return
        for message in connection.handle(can_read=can_read, can_write=can_write):
            self._tell(message)
            if self._connection is not connection or self._is_deaf:
                return
        self._watch_writes()
        if connection.is_closed:
            raise AssertionError(f"device {self.index} lost its session: {connection.problem}")

    def _drop_connection(self) -> None:
        if self._connection is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._fd)
            loop.remove_writer(self._fd)
            self._connection.abort()
            self._connection = None

    async def _train(self, request: Train) -> None:
        loop = asyncio.get_running_loop()
        training = self._fleet.training
        assert training is not None
        outcome = await loop.run_in_executor(training.pool, training.run, self.sensor, request)
        assert isinstance(outcome, Trained), outcome
        self._tell(outcome)

    def _require_store(self) -> StateStore:
        assert self._store is not None, "the device is off"
        return self._store
