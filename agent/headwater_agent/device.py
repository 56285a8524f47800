"""A device as a state machine without I/O: messages in, effects out, time as an argument.

The shell performs the effects in order, so a `Persist` in front of a `Publish` is on disk before
anything leaves the device. The machine neither reads a clock nor draws entropy: `now_ms` is UTC as
far as the shell knows, everything random follows from the entropy given at the start, and the same
inputs give the same effects.

Trust: a device knows the genesis that it pins, follows the elections from there, one certified
epoch after the other, and keeps what it came to. It trains only on a base and a program that more
than two thirds of its shard's power certified in that epoch, and believes receipts only of its
delegates. An announcement by delegates of whose election it has not heard waits, one at a time.
Whatever else arrives is counted under its reason code and dropped.

Two updates for one round: the signed update and `last_signed_round` change in one `Persist`, before
the update can be sent, and no round up to `last_signed_round` is ever signed again. After a restart
the stored update is sent as it is.

Left out: enrolment.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from headwater_agent.errors import StaleRound
from headwater_agent.machine.backoff import Jitter
from headwater_agent.machine.contribution import KEPT_OUT, Deadlines, give_back, make_contribution
from headwater_agent.machine.effects import (
    AskPermission,
    Effect,
    Event,
    Notice,
    OpenConnection,
    Persist,
    Publish,
    Subscribe,
    Unsubscribe,
)
from headwater_agent.machine.fetcher import BlobFetcher
from headwater_agent.machine.gate import Gate
from headwater_agent.machine.inputs import (
    Arrived,
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
from headwater_agent.machine.job import (
    Job,
    compute_deadlines,
    compute_needed_bytes,
    derive_seed,
    list_blobs,
    make_request,
)
from headwater_agent.machine.limits import DAY_MS, ENTROPY_BYTES, DeviceLimits
from headwater_agent.machine.outbox import HOLDING, TRANSIENT, Outbox
from headwater_agent.machine.reading import DirectReader, Reader
from headwater_agent.machine.speed import Speedometer
from headwater_agent.machine.tally import Tally
from headwater_agent.state import Changes, DeviceState, OutboxEntry, Residual, apply_changes
from headwater_protocol.chain.cohort import Standing, compute_draw_weight
from headwater_protocol.chain.genesis import Genesis
from headwater_protocol.chain.round import MAX_DEVICE_WEIGHT, RoundPhase, is_in_cohort
from headwater_protocol.crypto.hashing import Domain, hash_bytes
from headwater_protocol.crypto.signing import DirectVerifier, SecretKey, Verifier
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.errors import ConfigError, InvalidMessage, OutOfBounds
from headwater_protocol.identifiers import (
    ChainId,
    DeviceId,
    Digest,
    EpochNumber,
    Network,
    RoundNumber,
    TimeMs,
)
from headwater_protocol.light.client import Pin
from headwater_protocol.light.errors import WrongEpoch
from headwater_protocol.messages.announcement import Announcement
from headwater_protocol.messages.receipt import SignedReceipt, Stage
from headwater_protocol.messages.status import CapabilityReport, Status, sign_status
from headwater_protocol.messages.topics import Topic, TopicKind, Topics
from headwater_protocol.reasons import ReasonCode

QOS: Final = 1


class Device:
    """One participant of one shard.

    Args:
        key: Names the device and signs its updates.
        genesis: Of the network.
        network: The digest that the operator pinned.
        shard: Where the device is enrolled.
        entropy: `ENTROPY_BYTES` that nobody else knows; randomness for rounding, training order
            and waits.
        state: What was persisted; the defaults are a new device.
        weight: As enrolled; part of the draw of cohorts.
        limits: Bounds on sizes and waits.
        verifier: Checks signatures; thousands of devices in a process share one that remembers.
        reader: Decodes what the whole fleet is sent; shared in the same way.
        pin: An epoch that the operator vouches for; a network older than its trust period needs
            one.
        asks_permission: Ask the shell before each training; else the device may always train.
        memory_bytes: Of the machine, for the capability report; 0 where nobody knows.

    Raises:
        ConfigError: If the genesis is not the pinned one, or names no such shard.
    """

    def __init__(
        self,
        *,
        key: SecretKey,
        genesis: Genesis,
        network: Network,
        shard: ChainId,
        entropy: bytes,
        state: DeviceState,
        weight: int = 1,
        limits: DeviceLimits | None = None,
        verifier: Verifier | None = None,
        reader: Reader | None = None,
        pin: Pin | None = None,
        asks_permission: bool = False,
        memory_bytes: int = 0,
    ) -> None:
        if len(entropy) != ENTROPY_BYTES:
            raise ValueError(f"entropy has {ENTROPY_BYTES} bytes, not {len(entropy)}")
        if not 1 <= weight <= MAX_DEVICE_WEIGHT:
            raise ConfigError("weight", f"{weight} is no weight", fix=f"1 to {MAX_DEVICE_WEIGHT}")
        self._reader = reader or DirectReader()
        found = self._reader.network(genesis)
        if found != network:
            raise ConfigError(
                "network",
                f"the genesis has the digest {found.hex()}",
                fix="get the genesis of the network that you pinned, or correct the pin",
            )
        if shard not in genesis.shards:
            raise ConfigError(
                "shard", f"{shard} is not in the genesis", fix="one of " + ", ".join(genesis.shards)
            )
        self._key = key
        self._network = network
        self._shard = shard
        self._entropy = entropy
        # A mark of 0 takes the device to be owed all there is; the first receipt corrects it.
        self._standing = Standing(weight=weight, mark=0)
        self._limits = limits or DeviceLimits()
        trust = state.trust
        if trust is None or (trust.trusted.network, trust.shard) != (network, shard):
            trust = self._reader.trust(genesis, shard, pin)
        self._trust = trust
        self._gate = Gate(
            network=network,
            device=key.device,
            trust=trust,
            verifier=verifier or DirectVerifier(),
            reader=self._reader,
            pin=pin,
        )
        self._topics = Topics(network, shard)
        self._state = state
        self._tally = Tally(rejections=state.rejections, answers=state.answers)
        jitter = Jitter(
            hash_bytes(Domain.SEED, entropy, key.device, state.session.to_bytes(8, "big"))
        )
        self._outbox = Outbox(
            limits=self._limits,
            jitter=jitter,
            entry=state.outbox,
            receipts=state.receipts,
            committee=self._gate.committee,
        )
        self._waiting: bytes | None = None
        self._fetcher = BlobFetcher(
            limits=self._limits,
            jitter=jitter,
            kept=() if state.program is None else (state.program,),
        )
        self._is_connected = False
        self._job: Job | None = None
        self._base: Digest | None = None
        self._effects: list[Effect] = []
        self._asks_permission = asks_permission
        self._permission: Permission | None = None
        self._speedometer = Speedometer(memory_bytes=memory_bytes)
        self._sent_ms: int | None = None
        """When the update went out last; None once it is answered."""
        self._fetching_since_ms: int | None = None

    @property
    def permission(self) -> Permission | None:
        """The last answer to the question whether it may train; None before the first."""
        return self._permission

    @property
    def report(self) -> CapabilityReport | None:
        """What the device measured of itself; None before its first training."""
        return self._speedometer.report

    @property
    def id(self) -> DeviceId:
        """The device's public key."""
        return self._key.device

    @property
    def state(self) -> DeviceState:
        """What is persisted once the pending effects are performed."""
        return self._state

    @property
    def counters(self) -> Mapping[ReasonCode, int]:
        """Inputs refused so far, by reason; the persisted count lags behind."""
        return self._tally.rejections

    @property
    def answers(self) -> Mapping[ReasonCode, int]:
        """Receipts taken so far, by reason."""
        return self._tally.answers

    @property
    def announced_round(self) -> RoundNumber:
        """The newest round that was certified; 0 if none was heard of since the start."""
        return self._gate.announced_round

    @property
    def block_time_ms(self) -> int:
        """Of the newest certified block, of either chain: the time is not earlier."""
        return max(self._gate.block_time_ms, self._gate.trust.trusted.time_ms)

    @property
    def base(self) -> Digest | None:
        """The model that the newest round starts from; None if none was heard of."""
        return self._base

    @property
    def is_training(self) -> bool:
        """Whether the trainer has the round in work."""
        return self._job is not None and self._job.is_training

    @property
    def is_waiting(self) -> bool:
        """Whether the round in work waits for the machine to permit it."""
        return self._job is not None and self._job.look_again_ms is not None

    @property
    def round_in_work(self) -> RoundNumber | None:
        """The round that is fetched for or trained on."""
        return None if self._job is None else self._job.round.number

    def receive(self, message: Input, now_ms: int) -> None:
        """Take one input; whatever a peer sent, nothing is raised."""
        try:
            match message:
                case Arrived():
                    self._on_arrived(message, now_ms)
                case Trained():
                    self._on_trained(message, now_ms)
                case TrainingFailed():
                    self._on_training_failed(message)
                case Permission():
                    self._on_permission(message, now_ms)
                case Connecting():
                    self._on_connecting()
                case Connected():
                    self._on_connected(message, now_ms)
                case Disconnected():
                    self._is_connected = False
                case ClockSet():
                    self._outbox.shift(message.shift_ms)
                    self._fetcher.shift(message.shift_ms)
                    self._shift(message.shift_ms, now_ms)
                case Stopping():
                    if self._is_connected:
                        self._effects.append(self._status(is_online=False))
        except InvalidMessage as error:
            self._reject(error.reason, str(error))

    def share_residual(self, own: Residual, copy: Residual) -> None:
        """Refer to the shell's copy of a residual in place of the machine's own.

        A residual is as large as the model and read once or twice a round; a shell that can fetch
        it again need not have it in memory at all. If the machine has a newer one than `own`, which
        a `Persist` brought, nothing is replaced by `copy`, which is equal to it.
        """
        if self._state.residual is own:
            self._state = replace(self._state, residual=copy)

    def share_outbox(self, own: OutboxEntry, copy: OutboxEntry) -> None:
        """Refer to the shell's copy of the outbox's entry, as `share_residual` does."""
        if self._state.outbox is own:
            self._state = replace(self._state, outbox=copy)
        if self._outbox.entry is own:
            self._outbox.hold(copy)

    def share_state(self, copy: DeviceState) -> None:
        """Refer to the shell's copy of the state, unless the machine is ahead of it already."""
        if self._state == copy:
            self._state = copy

    def next_timer(self) -> int | None:
        """When `on_timer` is to be called at the latest; None if nothing waits."""
        job = self._job
        times = [
            self._outbox.next_timer(is_connected=self._is_connected),
            self._fetcher.next_timer() if self._is_connected else None,
            None if job is None else job.deadlines.collect_ms,
            None if job is None else job.look_again_ms,
        ]
        return min([time_ms for time_ms in times if time_ms is not None], default=None)

    def on_timer(self, now_ms: int) -> None:
        """Do what is due; early and repeated calls do no harm."""
        if self._job is not None and now_ms >= self._job.deadlines.collect_ms:
            self._abandon(ReasonCode.STALE_ROUND, "the round is over")
        job = self._job
        if job is not None and job.look_again_ms is not None and now_ms >= job.look_again_ms:
            self._ask(job)
        if self._outbox.is_over(now_ms):
            self._ask_or_close(now_ms)
        if not self._is_connected:
            return
        self._send_due(now_ms)
        due = self._chunk_filters(self._fetcher.take_due(now_ms))
        if due:
            # A broker sends retained messages anew only for a new subscription.
            self._effects.append(Unsubscribe(topics=due))
            self._effects.append(Subscribe(topics=due))

    def effects(self) -> Iterator[Effect]:
        """Hand out and forget what is to be done, in order."""
        pending, self._effects = self._effects, []
        return iter(pending)

    # Connection

    def _on_connecting(self) -> None:
        self._is_connected = False
        session = self._state.session + 1
        self._persist(Changes(session=session))
        self._effects.append(OpenConnection(session=session, will=self._status(is_online=False)))

    def _on_connected(self, message: Connected, now_ms: int) -> None:
        if message.session != self._state.session:
            raise OutOfBounds(f"session {message.session} is not the current one")
        self._is_connected = True
        self._effects.append(
            Subscribe(
                topics=(
                    self._topics.round,
                    self._topics.receipt(self.id),
                    self._topics.latest_epoch,
                    self._next_epoch_topic,
                    *self._chunk_filters(self._fetcher.missing),
                )
            )
        )
        self._effects.append(self._status(is_online=True))
        self._fetcher.resume(now_ms)
        self._outbox.resume(now_ms)

    def _status(self, *, is_online: bool) -> Publish:
        status = Status(
            device=self.id,
            session=self._state.session,
            is_online=is_online,
            report=self._speedometer.report,
        )
        return Publish(
            topic=self._topics.status(self.id),
            payload=encode_record(sign_status(self._key, self._network, status)),
            qos=QOS,
            is_retained=True,
        )

    # Messages

    def _on_arrived(self, message: Arrived, now_ms: int) -> None:
        topic = self._gate.open_topic(message.topic)
        if topic.kind is TopicKind.ROUND:
            self._on_announcement(message.payload, now_ms)
        elif topic.kind is TopicKind.EPOCH:
            self._on_epoch(message.payload, now_ms)
        elif topic.kind is TopicKind.CHUNK:
            self._on_chunk(topic, message.payload, now_ms)
        elif topic.kind is TopicKind.RECEIPT and topic.device == self.id:
            self._on_receipt(message.payload, now_ms)
        elif topic.kind is TopicKind.STATUS:
            # Retained, public and no concern of a device; the embedded broker sends them unasked.
            return
        else:
            raise OutOfBounds(f"this device does not listen to {message.topic}")

    def _on_announcement(self, payload: bytes, now_ms: int) -> None:
        try:
            announcement = self._gate.open_announcement(
                payload, last_signed_round=self._state.last_signed_round, now_ms=now_ms
            )
        except WrongEpoch:
            # The election may be under way; a forgery is found out when it has arrived.
            self._waiting = payload
            raise
        if announcement is not None:
            self._waiting = None
            self._outbox.judge_by(self._gate.committee)
            self._keep_trust()
            self._on_round(announcement, now_ms)

    def _on_epoch(self, payload: bytes, now_ms: int) -> None:
        before = self._next_epoch_topic
        if not self._gate.open_epoch(payload, now_ms):
            return
        self._keep_trust()
        after = self._next_epoch_topic
        if after != before and self._is_connected:
            self._effects.append(Unsubscribe(topics=(before,)))
            self._effects.append(Subscribe(topics=(after,)))
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            self._on_announcement(waiting, now_ms)

    def _keep_trust(self) -> None:
        if self._gate.trust != self._trust:
            self._trust = self._gate.trust
            self._persist(Changes(trust=self._trust))

    @property
    def _next_epoch_topic(self) -> str:
        """Retained there is what leads on from the epoch that is trusted."""
        return self._topics.epoch(EpochNumber(self._gate.trust.trusted.epoch.epoch + 1))

    def _on_round(self, announcement: Announcement, now_ms: int) -> None:
        """Act on what more than two thirds of the power say about the newest round."""
        round_, task = announcement.round, announcement.task
        self._base = round_.base
        is_open = round_.phase is RoundPhase.COLLECT
        entry = self._outbox.entry
        is_past = entry is not None and (round_.number > entry.round or not is_open)
        # A held one stays for its verdict, until that comes or the next update takes its place.
        if is_past and entry is not None and not entry.is_held:
            self._ask_or_close(now_ms)
        if self._job is not None and (round_.number > self._job.round.number or not is_open):
            self._abandon(ReasonCode.STALE_ROUND, "the ledger went on")
        if not is_open or self._job is not None or round_.number <= self._state.last_signed_round:
            return
        deadlines = compute_deadlines(
            round_, task, block_time_ms=announcement.header.time_ms, now_ms=now_ms
        )
        if deadlines.collect_ms <= now_ms:
            self._notice(Event.SKIPPED, round_.number, ReasonCode.STALE_ROUND)
        elif not is_in_cohort(round_, self.id, compute_draw_weight(self._standing, round_.clock)):
            self._notice(Event.SKIPPED, round_.number, ReasonCode.NOT_IN_COHORT)
        else:
            self._begin(Job(round=round_, task=task, deadlines=deadlines), now_ms)

    def _begin(self, job: Job, now_ms: int) -> None:
        blobs = list_blobs(job, self._limits)
        self._job = job
        if self._asks_permission:
            # Before anything is fetched: a device that may not train costs nobody anything.
            self._ask(job)
        else:
            self._fetch(job, blobs, now_ms)

    def _fetch(self, job: Job, blobs: dict[Digest, int], now_ms: int) -> None:
        self._fetcher.want(blobs, now_ms)
        missing = self._fetcher.missing
        if not missing:
            self._train(job, now_ms)
            return
        self._fetching_since_ms = now_ms
        self._notice(Event.FETCHING, job.round.number, ReasonCode.OK, f"{len(missing)} blobs")
        if self._is_connected:
            self._effects.append(Subscribe(topics=self._chunk_filters(missing)))

    def _on_chunk(self, topic: Topic, payload: bytes, now_ms: int) -> None:
        chunk = self._reader.chunk(payload)
        if (topic.blob, topic.index) != (chunk.blob, chunk.index):
            raise OutOfBounds("a piece on the topic of another one")
        if not self._fetcher.add(chunk, now_ms):
            return
        self._unsubscribe((chunk.blob,))
        if self._job is None:
            return
        if chunk.blob == self._job.task.program:
            self._persist(Changes(program=self._fetcher.get(chunk.blob)))
        if not self._fetcher.missing:
            self._measure_fetch(self._job, now_ms)
            if self._asks_permission:
                self._ask(self._job)
            else:
                self._train(self._job, now_ms)

    # Training

    def _ask(self, job: Job) -> None:
        job.look_again_ms, job.is_asked = None, True
        self._effects.append(
            AskPermission(round=job.round.number, needed_bytes=compute_needed_bytes(job))
        )

    def _on_permission(self, permission: Permission, now_ms: int) -> None:
        self._permission = permission
        job = self._job
        if job is None or not job.is_asked:
            return
        job.is_asked = False
        if permission.may_train:
            # What is there already is not fetched again, so a second yes goes on to train.
            self._fetch(job, list_blobs(job, self._limits), now_ms)
            return
        detail = f"{permission.reason}: {permission.detail}"
        # The time that the last training took decides whether waiting leaves room for this one.
        ready_ms = permission.look_again_ms + self._speedometer.last_ms
        if ready_ms >= job.deadlines.collect_ms:
            self._notice(Event.DECLINED, job.round.number, ReasonCode.BUSY, detail)
            self._job = None
            self._unsubscribe(self._fetcher.stop())
            return
        job.look_again_ms = max(now_ms + 1, permission.look_again_ms)
        if job.refusal != permission.reason:
            job.refusal = permission.reason
            self._notice(Event.WAITING, job.round.number, ReasonCode.BUSY, detail)

    def _train(self, job: Job, now_ms: int) -> None:
        try:
            request = make_request(
                job,
                base=self._fetcher.get(job.round.base),
                program=self._fetcher.get(job.task.program),
                entropy=self._entropy,
                reader=self._reader,
                now_ms=now_ms,
            )
        except InvalidMessage as error:
            self._abandon(error.reason, "the base is not the task's")
            raise
        job.is_training = True
        self._notice(Event.TRAINING, job.round.number, ReasonCode.OK)
        self._effects.append(request)

    def _on_trained(self, trained: Trained, now_ms: int) -> None:
        # Whatever became of the round, the time that it took is worth knowing.
        self._measure(trained)
        job = self._job
        if job is None or not job.is_training or job.round.number != trained.round:
            raise StaleRound(f"a training result for round {trained.round}, which is over")
        if now_ms >= job.deadlines.collect_ms:
            self._abandon(ReasonCode.STALE_ROUND, "training ended after the round")
            raise StaleRound(f"training ended after round {trained.round}")
        before = self._outbox.entry
        if before is not None and not before.is_held:
            # Nobody could be asked what became of it, and this one takes its place.
            self._close_outbox(None, now_ms)
        rounding = derive_seed(self._entropy, trained.round, b"quantize")
        latest_ms = now_ms + self._limits.max_outbox_days * DAY_MS
        try:
            made = make_contribution(
                trained,
                round_=job.round,
                task=job.task,
                deadlines=Deadlines(
                    collect_ms=TimeMs(min(job.deadlines.collect_ms, latest_ms)),
                    verdict_ms=job.deadlines.verdict_ms,
                ),
                residual=self._state.residual,
                key=self._key,
                network=self._network,
                shard=self._shard,
                rng=np.random.Generator(np.random.PCG64(int.from_bytes(rounding, "big"))),
                max_bytes=self._limits.max_outbox_bytes,
            )
        except InvalidMessage as error:
            self._abandon(error.reason, str(error))
            raise
        self._job = None
        entry = made.entry
        self._persist(
            Changes(
                sequence=self._state.sequence + 1,
                last_signed_round=entry.round,
                outbox=entry,
                residual=made.residual,
            )
        )
        self._notice(
            Event.SIGNED,
            entry.round,
            ReasonCode.OK,
            f"{len(entry.update)} bytes, {trained.num_examples} examples, "
            f"{trained.num_steps} steps{'' if trained.has_finished else ' until time ran out'}, "
            f"mean loss {trained.mean_loss:.4f}",
        )
        self._outbox.put(entry, now_ms)
        if self._is_connected:
            self._send_due(now_ms)

    def _shift(self, shift_ms: int, now_ms: int) -> None:
        """The clock was set: what is measured goes on, and a wait by the wrong clock is over."""
        if self._sent_ms is not None:
            self._sent_ms += shift_ms
        if self._fetching_since_ms is not None:
            self._fetching_since_ms += shift_ms
        if self._job is not None and self._job.look_again_ms is not None:
            # Until when to wait may have followed from the time of day.
            self._job.look_again_ms = now_ms

    def _measure_fetch(self, job: Job, now_ms: int) -> None:
        since_ms, self._fetching_since_ms = self._fetching_since_ms, None
        if since_ms is not None:
            # The program may have been here before; the base was not, or nothing was fetched.
            num_bytes = len(self._fetcher.get(job.round.base))
            self._speedometer.note_fetch(num_bytes, now_ms - since_ms)

    def _measure(self, trained: Trained) -> None:
        program = None if self._job is None else self._job.task.program
        is_news = self._speedometer.add(trained, program, session=self._state.session)
        if is_news and self._is_connected:
            self._effects.append(self._status(is_online=True))

    def _on_training_failed(self, failed: TrainingFailed) -> None:
        if self._job is None or self._job.round.number != failed.round:
            raise StaleRound(f"a training result for round {failed.round}, which is over")
        # Counted among the refusals, and told once, as the end of the round.
        self._tally.add_rejection(failed.reason, failed.detail)
        self._abandon(failed.reason, failed.detail)

    def _abandon(self, reason: ReasonCode, detail: str) -> None:
        """Give the round up; it is not begun again, because its announcement is known."""
        if self._job is not None:
            self._notice(Event.ABANDONED, self._job.round.number, reason, detail)
            self._job = None
        self._unsubscribe(self._fetcher.stop())

    # Sending and answers

    def _send_due(self, now_ms: int) -> None:
        update = self._outbox.take_due(now_ms)
        if update is not None:
            self._sent_ms = now_ms
            self._effects.append(
                Publish(
                    topic=self._topics.update(self.id), payload=update, qos=QOS, is_retained=False
                )
            )

    def _on_receipt(self, payload: bytes, now_ms: int) -> None:
        entry = self._outbox.entry
        signed = self._gate.open_receipt(
            payload,
            round_=self._state.last_signed_round,
            update_payload=None if entry is None else entry.payload,
            known=self._state.receipts,
        )
        if signed is None:
            return
        receipt = signed.receipt
        self._tally.add_answer(receipt.reason)
        if receipt.standing is not None:
            self._standing = receipt.standing
        if receipt.stage is Stage.VERDICT:
            self._on_verdict(signed, now_ms)
        else:
            self._on_intake(signed, now_ms)

    def _on_intake(self, signed: SignedReceipt, now_ms: int) -> None:
        receipt, entry = signed.receipt, self._outbox.entry
        if receipt.reason in HOLDING:
            if self._sent_ms is not None:
                self._speedometer.note_round_trip(now_ms - self._sent_ms)
                self._sent_ms = None
            if entry is not None and not entry.is_held and receipt.payload == entry.payload:
                held = replace(entry, is_held=True)
                self._outbox.hold(held)
                self._persist(Changes(receipt=signed, outbox=held))
                self._notice(Event.HELD, receipt.round, receipt.reason)
            return
        if entry is None or entry.is_held:
            return
        self._outbox.on_refusal(receipt, now_ms)
        if receipt.reason not in TRANSIENT:
            self._persist(Changes(receipt=signed))
        self._notice(Event.REFUSED, receipt.round, receipt.reason)
        if self._outbox.is_answered:
            self._close_outbox(None, now_ms)

    def _on_verdict(self, signed: SignedReceipt, now_ms: int) -> None:
        receipt = signed.receipt
        self._notice(
            Event.VERDICT,
            receipt.round,
            receipt.reason,
            f"score {receipt.score}, reward {receipt.reward}",
        )
        if self._outbox.entry is None:
            self._persist(Changes(receipt=signed))
        else:
            self._close_outbox(signed, now_ms)

    def _ask_or_close(self, now_ms: int) -> None:
        """The update's time is over: find out whether it counts, if there is anything to find."""
        if self._outbox.may_be_taken and not self._outbox.is_over(now_ms, asks=True):
            self._outbox.ask(now_ms)
        else:
            self._close_outbox(None, now_ms)

    def _close_outbox(self, verdict: SignedReceipt | None, now_ms: int) -> None:
        """Drop the update; where it never counted, its content returns to the residual."""
        entry = self._outbox.entry
        if entry is None:
            return
        if verdict is not None:
            reason = verdict.receipt.reason
            has_counted = reason is ReasonCode.OK or reason in KEPT_OUT
        else:
            reason = self._outbox.refusal or ReasonCode.STALE_ROUND
            has_counted = entry.is_held or reason in KEPT_OUT
        residual = None if has_counted else give_back(entry, self._state.residual)
        self._outbox.put(None, now_ms)
        self._persist(Changes(clears_outbox=True, residual=residual, receipt=verdict))
        if residual is not None:
            self._notice(Event.RETURNED, entry.round, reason)

    # Bookkeeping

    def _persist(self, changes: Changes) -> None:
        """Every write carries the counters along; none is made for them alone."""
        complete = self._tally.complete(changes, self._state)
        self._state = apply_changes(self._state, complete)
        self._effects.append(Persist(changes=complete))

    def _reject(self, reason: ReasonCode, detail: str) -> None:
        notice = self._tally.add_rejection(reason, detail)
        if notice is not None:
            self._effects.append(notice)

    def _notice(self, event: Event, round_: int, reason: ReasonCode, detail: str = "") -> None:
        self._effects.append(Notice(event=event, round=round_, reason=reason, detail=detail))

    def _unsubscribe(self, blobs: tuple[Digest, ...]) -> None:
        if blobs and self._is_connected:
            self._effects.append(Unsubscribe(topics=self._chunk_filters(blobs)))

    def _chunk_filters(self, blobs: tuple[Digest, ...]) -> tuple[str, ...]:
        return tuple(self._topics.chunks(blob) for blob in blobs)
