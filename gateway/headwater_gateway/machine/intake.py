"""Taking updates in: everything a gateway can refuse without asking anyone, then the ledger.

A device is answered once its commit is final and its payload on disk, so a receipt is a promise
that no crash of this gateway can break. What has no receipt yet is the device's to send again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from headwater_gateway.machine.effects import CheckUpdate, Effect, Publish, TakeIn
from headwater_gateway.machine.metrics import Metrics
from headwater_protocol.chain.round import Round, RoundPhase, is_in_cohort
from headwater_protocol.chain.task import Task
from headwater_protocol.chain.transaction import (
    MAX_BATCH_COMMITS,
    Commit,
    CommitUpdates,
    UpdateClaim,
    update_message,
)
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.errors import InvalidMessage
from headwater_protocol.identifiers import (
    ChainId,
    DeviceId,
    Digest,
    Height,
    Network,
    RoundNumber,
    TimeMs,
    Units,
)
from headwater_protocol.messages.announcement import round_key, task_key
from headwater_protocol.messages.receipt import Receipt, Stage, sign_receipt
from headwater_protocol.messages.topics import Topics
from headwater_protocol.messages.update import Update, decode_update
from headwater_protocol.reasons import ReasonCode
from headwater_shard.round_model import payload_limit
from headwater_shard.shardchain.records import (
    DEVICES,
    ROUNDS,
    SHARD,
    SHARD_KEY,
    TASKS,
    UPDATES,
    update_key,
)
from headwater_shard.state.state import State

MAX_WAITING_UPDATES: Final = 10_000
"""Updates between arrival and receipt; more are answered `busy`."""

UPDATE_OVERHEAD_BYTES: Final = 512
"""Of an update message around its payload."""

LINGER_MS: Final = 40
"""How long a batch waits for company, so that a fleet's updates share blocks and scores."""

NO_PAYLOAD: Final = Digest(bytes(32))


@dataclass(slots=True)
class _Waiting:
    """An update on its way to the ledger."""

    commit: Commit
    message_bytes: int
    is_submitted: bool = False


class Intake:
    """The intake of one shard."""

    def __init__(
        self, *, network: Network, shard: ChainId, key: SecretKey, state: State, metrics: Metrics
    ) -> None:
        self._network = network
        self._shard = shard
        self._key = key
        self._topics = Topics(network, shard)
        self._metrics = metrics
        self._state = state
        self._height = Height(0)
        self._waiting: dict[DeviceId, _Waiting] = {}
        self._queue: list[CheckUpdate] = []
        self._queued_ms = 0
        self._round: Round | None = None
        self._task: Task | None = None
        self._read_state()

    def next_timer(self) -> int | None:
        """When the waiting batch leaves."""
        return self._queued_ms + LINGER_MS if self._queue else None

    def receive(self, sender: DeviceId, payload: bytes, now_ms: int) -> Iterator[Effect]:
        """Take a message from a device's update topic; a refusal is answered at once."""
        round_ = self._round
        metrics = self._metrics.round(
            self._shard, RoundNumber(0) if round_ is None else round_.number
        )
        metrics.received += 1
        metrics.bytes_up += len(payload)
        task = self._task
        limit = UPDATE_OVERHEAD_BYTES + (0 if task is None else payload_limit(task))
        try:
            update = decode_update(payload, max_bytes=limit)
        except InvalidMessage as error:
            yield self._refuse(sender, NO_PAYLOAD, error.reason, now_ms)
            return
        digest = blob_digest(update.payload)
        reason = self._judge(sender, update, digest)
        if reason is ReasonCode.OK and round_ is not None:
            known = self._state.get(UPDATES, update_key(round_.number, sender))
            if known is not None:
                # A repeat of what is on the ledger: the receipt was lost, not the update.
                yield self._receipt(sender, digest, ReasonCode.OK, now_ms)
                return
            if sender in self._waiting:
                return
            claim = UpdateClaim(
                shard=self._shard,
                round=update.round,
                base=update.base,
                device=update.device,
                payload=digest,
                num_examples=update.num_examples,
            )
            if not self._queue:
                self._queued_ms = now_ms
            self._queue.append(
                CheckUpdate(
                    update=update, payload=digest, message=update_message(self._network, claim)
                )
            )
            self._waiting[sender] = _Waiting(
                commit=Commit(
                    device=sender,
                    payload=digest,
                    num_examples=update.num_examples,
                    signature=update.signature,
                ),
                message_bytes=len(payload),
            )
            if len(self._queue) >= MAX_BATCH_COMMITS:
                yield from self.flush()
            return
        yield self._refuse(sender, digest, reason, now_ms)

    def on_timer(self, now_ms: int) -> Iterator[Effect]:
        """Send the batch that has lingered."""
        at = self.next_timer()
        if at is not None and at <= now_ms:
            yield from self.flush()

    def flush(self) -> Iterator[Effect]:
        """Send the batch that waits."""
        if self._queue and self._round is not None and self._task is not None:
            yield TakeIn(
                shard=self._shard,
                round=self._round.number,
                task=self._task,
                updates=tuple(self._queue),
            )
        self._queue = []

    def on_taken_in(
        self, work: TakeIn, reasons: tuple[ReasonCode, ...], now_ms: int
    ) -> Iterator[Effect | CommitUpdates]:
        """The checks are done and what passed is on disk: refuse the bad, commit the good."""
        good: list[Commit] = []
        for check, reason in zip(work.updates, reasons, strict=True):
            device = check.update.device
            waiting = self._waiting.get(device)
            if waiting is None or waiting.commit.payload != check.payload:
                continue
            if reason is not ReasonCode.OK:
                del self._waiting[device]
                yield self._refuse(device, check.payload, reason, now_ms)
            else:
                waiting.is_submitted = True
                good.append(waiting.commit)
        if good:
            yield CommitUpdates(
                round=work.round, commits=tuple(sorted(good, key=lambda commit: commit.device))
            )

    def on_refused(self, body: CommitUpdates, reason: ReasonCode, now_ms: int) -> Iterator[Effect]:
        """The ledger refused a batch; every update in it is answered."""
        for commit in body.commits:
            waiting = self._waiting.pop(commit.device, None)
            if waiting is not None:
                code = ReasonCode.STALE_ROUND if reason is ReasonCode.WRONG_PHASE else reason
                yield self._refuse(commit.device, commit.payload, code, now_ms)

    def on_finalized(self, state: State, height: Height, now_ms: int) -> Iterator[Effect]:
        """A block is final: answer what it took, and what it took no more."""
        before = self._round
        self._state, self._height = state, height
        self._read_state()
        if before is not None:
            yield from self._answer_final(before, now_ms)
        current = self._round
        if current is None or current.phase is not RoundPhase.COLLECT or before is None:
            return
        if current.number != before.number:
            self._metrics.round(self._shard, current.number).opened_ms = now_ms

    def _answer_final(self, before: Round, now_ms: int) -> Iterator[Effect]:
        is_over = (
            self._round is None
            or self._round.number != before.number
            or self._round.phase is not RoundPhase.COLLECT
        )
        metrics = self._metrics.round(self._shard, before.number)
        for device in sorted(self._waiting):
            waiting = self._waiting[device]
            entry = self._state.get(UPDATES, update_key(before.number, device))
            if entry is not None:
                is_same = entry.payload == waiting.commit.payload
                if is_same:
                    metrics.taken_bytes += waiting.message_bytes
                    yield self._receipt(device, entry.payload, ReasonCode.OK, now_ms)
                else:
                    yield self._refuse(device, waiting.commit.payload, ReasonCode.DUPLICATE, now_ms)
                del self._waiting[device]
            elif is_over:
                del self._waiting[device]
                yield self._refuse(device, waiting.commit.payload, ReasonCode.STALE_ROUND, now_ms)
        if is_over:
            self._queue = []

    def _read_state(self) -> None:
        shard = self._state.get(SHARD, SHARD_KEY)
        if shard is not None:
            self._round = self._state.get(ROUNDS, round_key(shard.last_round))
            self._task = self._state.get(TASKS, task_key(shard.task))

    def _judge(self, sender: DeviceId, update: Update, digest: Digest) -> ReasonCode:
        """Everything that can be said without cryptography, cheapest first."""
        round_ = self._round
        if update.device != sender:
            return ReasonCode.NOT_PERMITTED
        device = self._state.get(DEVICES, sender)
        if device is None:
            return ReasonCode.NOT_ENROLLED
        if round_ is None or update.round != round_.number:
            return ReasonCode.STALE_ROUND
        if update.base != round_.base:
            return ReasonCode.WRONG_BASE
        if not is_in_cohort(round_, sender, device.weight):
            return ReasonCode.NOT_IN_COHORT
        known = self._state.get(UPDATES, update_key(round_.number, sender))
        if known is not None:
            return ReasonCode.OK if known.payload == digest else ReasonCode.DUPLICATE
        if round_.phase is not RoundPhase.COLLECT:
            return ReasonCode.STALE_ROUND
        waiting = self._waiting.get(sender)
        if waiting is not None and waiting.commit.payload != digest:
            return ReasonCode.DUPLICATE
        if waiting is None and len(self._waiting) >= MAX_WAITING_UPDATES:
            return ReasonCode.BUSY
        return ReasonCode.OK

    def _refuse(
        self, device: DeviceId, payload: Digest, reason: ReasonCode, now_ms: int
    ) -> Publish:
        number = RoundNumber(0) if self._round is None else self._round.number
        self._metrics.refused[reason] += 1
        self._metrics.round(self._shard, number).refused[reason] += 1
        return self._receipt(device, payload, reason, now_ms)

    def _receipt(
        self, device: DeviceId, payload: Digest, reason: ReasonCode, now_ms: int
    ) -> Publish:
        number = RoundNumber(0) if self._round is None else self._round.number
        receipt = Receipt(
            stage=Stage.INTAKE,
            shard=self._shard,
            round=number,
            device=device,
            payload=payload,
            reason=reason,
            height=self._height if reason is ReasonCode.OK else Height(0),
            score=0,
            reward=Units(0),
            time_ms=TimeMs(now_ms),
            gateway=self._key.validator,
        )
        return Publish(
            topic=self._topics.receipt(device),
            payload=encode_record(sign_receipt(self._key, self._network, receipt)),
            retain=False,
        )
