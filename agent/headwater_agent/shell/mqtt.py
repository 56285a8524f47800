"""The loop around a device: read, call the machine, perform its effects, wait.

One thread does it all; training alone has another, whose results come in through a queue and a
socket pair that ends the wait. The loop holds no rules: what is sent and when is the machine's
matter, and the only waits that are its own are those between attempts to reach a broker.
"""

import logging
import secrets
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from headwater_agent.config import AgentConfig
from headwater_agent.data.pool import ExampleSource
from headwater_agent.device import Device
from headwater_agent.errors import DiskFull, DiskReadOnly
from headwater_agent.guest.host import Host
from headwater_agent.machine.backoff import Jitter, compute_wait_ms
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
    ClockSet,
    Connected,
    Connecting,
    Disconnected,
    Input,
    Permission,
    Stopping,
    Trained,
    TrainingFailed,
)
from headwater_agent.shell.advice import advise_on_message, advise_on_refusal, advise_on_round
from headwater_agent.shell.clock import SteadyClock
from headwater_agent.shell.connection import CONNECT_TIMEOUT_S, Connection
from headwater_agent.shell.journal import tell
from headwater_agent.shell.notify import Notifier
from headwater_agent.shell.refusal import explain_refusal
from headwater_agent.shell.reporter import Reporter
from headwater_agent.store import StateStore
from headwater_agent.training import TrainingWorker, TrainsPrograms
from headwater_protocol.errors import TransportError

MAX_WAIT_MS: Final = 1_000
"""Longest wait in `select`: keepalives and a clock that was set are seen within this time."""
FIRST_RECONNECT_MS: Final = 1_000
MAX_RECONNECT_MS: Final = 60_000
STABLE_S: Final = 30.0
"""A connection that held so long starts the waits anew; a broker that drops it at once does not."""
FIRST_DISK_WAIT_S: Final = 1.0
MAX_DISK_WAIT_S: Final = 60.0
"""Between attempts to write to a disk that is full or read-only."""
RESUME_JITTER_MS: Final = 5_000
"""After sleep, the longest random wait before a new connection."""
FLUSH_TIMEOUT_S: Final = 2.0
"""How long a stopping device tries to get its farewell out."""


class MqttShell:
    """Runs one device until it is told to stop.

    Args:
        device: The machine.
        store: Takes its `Persist` effects.
        training: Runs its `Train` effects.
        config: Brokers, login and TLS.
        clock: UTC and what happens to it.
        notifier: The service manager.
        host: Asked whether the device may train; None where it always may.
        upkeep: Called with the time at least once in `MAX_WAIT_MS`, in the thread of `run`; it may
            use the store, and is tried again where the disk takes no writes.
        source: Of the examples, for the report.
        on_certificate_refused: Told when a broker does not let the device in, and whether its
            certificate is certainly why.
    """

    def __init__(
        self,
        *,
        device: Device,
        store: StateStore,
        training: TrainsPrograms,
        config: AgentConfig,
        clock: SteadyClock | None = None,
        notifier: Notifier | None = None,
        host: Host | None = None,
        upkeep: Callable[[int], None] | None = None,
        source: ExampleSource | None = None,
        on_certificate_refused: Callable[[bool], None] | None = None,
    ) -> None:
        self._device = device
        self._store = store
        self._config = config
        self._clock = clock or SteadyClock()
        self._notifier = notifier or Notifier({})
        self.reporter = Reporter(
            device=device,
            store=store,
            notifier=self._notifier,
            started_ms=self._clock.now_ms(),
            source=source,
            host=host,
        )
        self._told_hang = False
        self._host = host
        self._upkeep = upkeep
        self._on_certificate_refused = on_certificate_refused
        self._jitter = Jitter(secrets.token_bytes(32))
        self._connection: Connection | None = None
        self._connect_by_s = 0.0
        self._connected_at_s = 0.0
        self._broker_index = 0
        self._attempt = 0
        self._attempt_at_s = 0.0
        self._is_stopping = False
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._results: deque[Trained | TrainingFailed] = deque(maxlen=2)
        """One run at work and one done; an older result is of an older round."""
        self._worker = TrainingWorker(training, deliver=self._on_result)

    def stop(self) -> None:
        """End `run` soon; may be called from a signal handler or another thread."""
        self._is_stopping = True
        self._wake()

    def run(self) -> None:
        """Serve the device until `stop`.

        A disk that is full or read-only is waited for: nothing is sent before its promise is on it.

        Raises:
            StorageError: If its state cannot be written; going on could break a promise.
            ConfigError: If certificates or the password cannot be read.
        """
        try:
            self._notifier.ready()
            while not self._is_stopping:
                self._step()
                self._feed_watchdog()
                self.reporter.update(now_ms=self._clock.now_ms())
            self._notifier.stopping()
            self._say_goodbye()
            self.reporter.link.is_connected = False
            self.reporter.update(now_ms=self._clock.now_ms(), is_last=True)
        finally:
            if self._connection is not None:
                self._connection.abort()
            self._worker.stop()
            self._wake_reader.close()
            self._wake_writer.close()

    def _step(self) -> None:
        self._follow_clock()
        if self._connection is None and time.monotonic() >= self._attempt_at_s:
            self._tell(Connecting())
        self._wait()
        while self._results:
            self._tell(self._results.popleft())
        due_ms = self._device.next_timer()
        if due_ms is not None and due_ms <= self._clock.now_ms():
            self._device.on_timer(self._clock.now_ms())
            self._perform_all()
        self._keep_up()

    def _keep_up(self) -> None:
        """Examples are worth no waiting: no promise depends on them, and they are kept in memory.

        Raises:
            StorageError: If the disk fails.
        """
        if self._upkeep is None:
            return
        try:
            self._upkeep(self._clock.now_ms())
        except (DiskFull, DiskReadOnly) as error:
            self._note(logging.ERROR, "disk-unavailable", str(error))

    def _follow_clock(self) -> None:
        jump_ms = self._clock.take_jump()
        if jump_ms:
            self.reporter.clock_jumps += 1
            tell(logging.WARNING, "clock-set", by_ms=jump_ms)
            self._tell(ClockSet(shift_ms=jump_ms))
        slept_ms = self._clock.take_sleep()
        if slept_ms:
            tell(logging.INFO, "woke", after_ms=slept_ms)
            if self._connection is not None:
                # The broker gave this session up long ago; waiting for that to be seen takes
                # minutes.
                self._connection.problem = "the machine slept"
                self._connection.abort()
            self._attempt = 0
            self._attempt_at_s = time.monotonic() + self._jitter.below(RESUME_JITTER_MS) / 1_000

    def _feed_watchdog(self) -> None:
        if self._worker.busy_s * 1_000 <= self._config.max_training_ms:
            self._told_hang = False
            self._notifier.feed()
        elif not self._told_hang:
            self._told_hang = True
            text = (
                f"training takes longer than max_training_ms ({self._config.max_training_ms}); "
                "raise it under [limits], or ask the sponsor for a smaller task"
            )
            self._note(logging.ERROR, "training-hangs", text)

    def _wait(self) -> None:
        connection = self._connection
        readers: list[socket.socket | Connection] = [self._wake_reader]
        writers: list[Connection] = []
        timeout_s = self._compute_timeout_s()
        if connection is not None and connection.fileno() >= 0:
            readers.append(connection)
            if connection.wants_write:
                writers.append(connection)
            if connection.has_buffered_bytes:
                timeout_s = 0.0
        elif connection is not None:
            timeout_s = 0.0  # it broke while something was sent
        readable, writable, _ = select.select(readers, writers, [], timeout_s)
        if self._wake_reader in readable:
            self._wake_reader.recv(4_096)
        if connection is not None:
            can_read = connection in readable or connection.has_buffered_bytes
            self._serve(connection, can_read=can_read, can_write=connection in writable)

    def _serve(self, connection: Connection, *, can_read: bool, can_write: bool) -> None:
        for message in connection.handle(can_read=can_read, can_write=can_write):
            if isinstance(message, Connected):
                self._connected_at_s = time.monotonic()
                self._set_link(is_connected=True)
                link = self.reporter.link
                tell(logging.INFO, "connected", session=message.session, broker=link.broker)
            self._tell(message)
        if not connection.is_connected and time.monotonic() > self._connect_by_s:
            connection.problem = connection.problem or "no answer to the connection request"
            connection.abort()
        if connection.is_closed:
            self._connection = None
            if not connection.is_connected:
                self._broker_index += 1
            elif time.monotonic() - self._connected_at_s > STABLE_S:
                self._attempt = 0
            self._plan_attempt(connection.problem, is_refused=not connection.is_connected)
            self._tell(Disconnected())

    def _compute_timeout_s(self) -> float:
        wait_ms = MAX_WAIT_MS
        due_ms = self._device.next_timer()
        if due_ms is not None:
            wait_ms = min(wait_ms, max(0, due_ms - self._clock.now_ms()))
        if self._connection is None:
            attempt_ms = int((self._attempt_at_s - time.monotonic()) * 1_000) + 1
            wait_ms = min(wait_ms, max(0, attempt_ms))
        return wait_ms / 1_000

    def _tell(self, message: Input) -> None:
        self._device.receive(message, self._clock.now_ms())
        self._perform_all()

    def _perform_all(self) -> None:
        for effect in self._device.effects():
            self._perform(effect)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Persist():
                self._persist(effect)
            case OpenConnection():
                self._open(effect)
            case AskPermission():
                self._answer(effect)
            case Train():
                self._worker.submit(effect)
            case Notice():
                self._tell_notice(effect)
            case Rejected():
                self._tell_rejected(effect)
            case Publish() | Subscribe() | Unsubscribe():
                self._send(effect)

    def _answer(self, question: AskPermission) -> None:
        now_ms = self._clock.now_ms()
        if self._host is None:
            answer = Permission(may_train=True, reason="ok", detail="", look_again_ms=now_ms)
        else:
            decision = self._host.ask(needed_bytes=question.needed_bytes)
            answer = Permission(
                may_train=decision.may_train,
                reason=decision.reason.value,
                detail=decision.detail,
                look_again_ms=now_ms + decision.look_again_ms,
            )
        self._tell(answer)

    def _persist(self, effect: Persist) -> None:
        """Make it durable, however long the disk takes no writes; nothing else happens meanwhile.

        Raises:
            StorageError: If the disk fails, or the process is to stop before the disk is back.
        """
        attempt = 0
        while True:
            try:
                self._store.apply(effect.changes)
            except (DiskFull, DiskReadOnly) as error:
                if self._is_stopping:
                    raise
                if not attempt:
                    self._note(logging.ERROR, "disk-unavailable", str(error))
                    self.reporter.activity = f"waiting for the disk: {error.problem}"
                    self._notifier.status(self.reporter.activity)
                self._pause(min(MAX_DISK_WAIT_S, FIRST_DISK_WAIT_S * 2**attempt))
                attempt = min(attempt + 1, 10)
            else:
                break
        if attempt:
            self.reporter.activity = ""
            tell(logging.INFO, "disk-available")

    def _pause(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while not self._is_stopping and (left_s := end_s - time.monotonic()) > 0:
            readable, _, _ = select.select([self._wake_reader], [], [], min(left_s, 1.0))
            if readable:
                self._wake_reader.recv(4_096)
            self._feed_watchdog()

    def _tell_notice(self, notice: Notice) -> None:
        level = logging.WARNING if notice.event is Event.ABANDONED else logging.INFO
        fix: str | None = None
        if notice.event is Event.ABANDONED:
            fix = advise_on_round(notice.reason, notice.detail)
        elif notice.event is Event.REFUSED:
            fix = advise_on_refusal(notice.reason)
        told = {"reason": notice.reason, "detail": notice.detail} | ({"fix": fix} if fix else {})
        tell(level, notice.event, round=notice.round, **told)
        if fix is not None:
            text = f"round {notice.round} {notice.event}: {notice.detail or notice.reason}"
            self._note_problem(text, fix)

    def _tell_rejected(self, effect: Rejected) -> None:
        fix = advise_on_message(effect.reason, effect.detail)
        told = {"detail": effect.detail} | ({"fix": fix} if fix else {})
        tell(logging.WARNING, "rejected", reason=effect.reason, count=effect.count, **told)
        self._note_problem(f"a message was refused: {effect.detail}", fix)

    def _note_problem(self, text: str, fix: str) -> None:
        self.reporter.note_error(f"{text}; {fix}" if fix else text, now_ms=self._clock.now_ms())

    def _note(self, level: int, event: str, text: str) -> None:
        tell(level, event, detail=text)
        self.reporter.note_error(text, now_ms=self._clock.now_ms())

    def _set_link(self, *, is_connected: bool, problem: str = "") -> None:
        link = self.reporter.link
        if link.is_connected != is_connected:
            link.since_ms = self._clock.now_ms()
        link.is_connected = is_connected
        link.failures = 0 if is_connected else link.failures + 1
        link.problem = problem

    def _send(self, effect: Publish | Subscribe | Unsubscribe) -> None:
        connection = self._connection
        if connection is None or connection.is_closed:
            # The machine hears of it next, and sends again once it is connected.
            return
        match effect:
            case Publish():
                connection.publish(effect)
            case Subscribe():
                connection.subscribe(effect.topics)
            case Unsubscribe():
                connection.unsubscribe(effect.topics)

    def _open(self, opening: OpenConnection) -> None:
        brokers = self._config.brokers
        address = brokers[self._broker_index % len(brokers)]
        self._connect_by_s = time.monotonic() + CONNECT_TIMEOUT_S
        self.reporter.link.broker = str(address)
        try:
            self._connection = Connection(
                address=address,
                opening=opening,
                client_id=self._device.id.hex(),
                login=self._config.login,
                tls=self._config.tls,
            )
        except TransportError as error:
            self._broker_index += 1
            self._plan_attempt(str(error), is_refused=True)

    def _plan_attempt(self, problem: str, *, is_refused: bool) -> None:
        if is_refused:
            found = explain_refusal(problem, self._config.tls, now_ms=self._clock.now_ms())
            problem = found.text
            if found.is_own_certificate is not None and self._on_certificate_refused is not None:
                self._on_certificate_refused(found.is_own_certificate)
        wait_ms = compute_wait_ms(
            attempt=self._attempt,
            first_ms=FIRST_RECONNECT_MS,
            max_ms=MAX_RECONNECT_MS,
            jitter=self._jitter,
        )
        self._attempt += 1
        self._attempt_at_s = time.monotonic() + wait_ms / 1_000
        self._set_link(is_connected=False, problem=problem)
        self._note(logging.WARNING, "disconnected", problem)

    def _say_goodbye(self) -> None:
        self._tell(Stopping())
        connection = self._connection
        if connection is None or not connection.is_connected:
            return
        connection.disconnect()
        end_s = time.monotonic() + FLUSH_TIMEOUT_S
        while not connection.is_closed and connection.wants_write and time.monotonic() < end_s:
            _, writable, _ = select.select([], [connection], [], 0.1)
            connection.handle(can_read=False, can_write=bool(writable))

    def _on_result(self, result: Trained | TrainingFailed) -> None:
        self._results.append(result)
        self._wake()

    def _wake(self) -> None:
        try:
            self._wake_writer.send(b"\0")
        except OSError:
            # Full means that a byte is there already; closed, that nobody waits.
            return
