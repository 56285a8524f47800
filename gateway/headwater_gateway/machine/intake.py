"""Taking updates in: everything a gateway can refuse without asking anyone, then the ledger.

A device is answered once its commit is final and its payload on disk, so a receipt is a promise
that no crash of this gateway can break. What has no receipt yet is the device's to send again.

Who publishes on a device's topic is the broker's question, so until a signature is checked nothing
that came for a device stands in the way of anything else that came for it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from headwater_gateway.machine.effects import CheckUpdate, Effect, Publish, TakeIn
from headwater_gateway.machine.metrics import Metrics
from headwater_gateway.machine.speaker import pick_speaker
from headwater_protocol.chain.claim import Commit, UpdateClaim, update_message
from headwater_protocol.chain.round import Round, RoundPhase
from headwater_protocol.chain.task import Task
from headwater_protocol.chain.transaction import MAX_BATCH_COMMITS, CommitUpdates
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
from headwater_shard.shardchain.cohort import is_drawn, is_quarantined
from headwater_shard.shardchain.records import (
    DEVICES,
    PAYLOADS,
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

PATIENCE_MS: Final = 10_000
"""After which a commit that was submitted and is not on the ledger is submitted again."""

NO_PAYLOAD: Final = Digest(bytes(32))
"""In a receipt for what could not be decoded."""

UPDATE_REASONS: Final = frozenset(
    {
        ReasonCode.BAD_SIGNATURE,
        ReasonCode.NOT_ENROLLED,
        ReasonCode.NOT_IN_COHORT,
        ReasonCode.QUARANTINED,
        ReasonCode.REVOKED,
        ReasonCode.STALE_ROUND,
        ReasonCode.BAD_ENCODING,
        ReasonCode.OUT_OF_BOUNDS,
        ReasonCode.TOO_LARGE,
    }
)
"""A ledger's refusals that are the update's own fault; others are this gateway's."""


@dataclass(slots=True)
class _Waiting:
    """An update on its way to the ledger."""

    message_bytes: int
    submitted_ms: int | None = None
    """When its checks were passed and its commit went to the engine; None before."""


class Intake:
    """The intake of one shard."""

    def __init__(
        self,
        *,
        network: Network,
        shard: ChainId,
        keys: Sequence[SecretKey],
        state: State,
        metrics: Metrics,
    ) -> None:
        """Start from a committed state.

        Args:
            network: Part of what devices sign.
            shard: Which one.
            keys: Of the delegates here; one that is in office signs receipts.
            state: The shard's.
            metrics: Counted into.
        """
        self._network = network
        self._shard = shard
        self._keys = keys
        self._topics = Topics(network, shard)
        self._metrics = metrics
        self._state = state
        self._height = Height(0)
        self._waiting: dict[DeviceId, dict[Commit, _Waiting]] = {}
        """All of the open round. Unchecked ones of a device wait side by side; of those that
        passed, only one does."""
        self._num_waiting = 0
        self._submitted: dict[Digest, DeviceId] = {}
        """Who sent a payload that waits for the ledger, which takes it of one device only."""
        self._queue: list[CheckUpdate] = []
        self._queued_ms = 0
        self._patience_ms: int | None = None
        self._round: Round | None = None
        self._task: Task | None = None
        self._read_state()

    @property
    def num_waiting(self) -> int:
        """Updates between arrival and receipt."""
        return self._num_waiting

    def next_timer(self) -> int | None:
        """When the waiting batch leaves, or commits that got lost are looked for."""
        linger_ms = self._queued_ms + LINGER_MS if self._queue else None
        return min((at for at in (linger_ms, self._patience_ms) if at is not None), default=None)

    def receive(self, sender: DeviceId, payload: bytes, now_ms: int) -> Iterator[Effect]:
        """Take a message from a device's update topic; a refusal is answered at once."""
        round_, task = self._round, self._task
        current = RoundNumber(0) if round_ is None else round_.number
        metrics = self._metrics.round(self._shard, current)
        metrics.bytes_up += len(payload)
        limit = UPDATE_OVERHEAD_BYTES + (0 if task is None else payload_limit(task))
        try:
            update = decode_update(payload, max_bytes=limit)
        except InvalidMessage as error:
            metrics.received += 1
            yield self._refuse(current, sender, NO_PAYLOAD, error.reason, now_ms)
            return
        digest = blob_digest(update.payload)
        if update.device == sender and self._is_on_ledger(update.round, sender, digest):
            # A repeat of what is on the ledger: the receipt was lost, not the update.
            yield self._receipt(update.round, sender, digest, ReasonCode.OK, now_ms)
            return
        commit = _commit_of(update, digest)
        if commit in self._waiting.get(sender, {}):
            # Sent again, or heard of by another broker.
            return
        metrics.received += 1
        reason = self._judge(sender, update, digest)
        if reason is not ReasonCode.OK:
            yield self._refuse(update.round, sender, digest, reason, now_ms)
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
        message = update_message(self._network, claim)
        self._queue.append(CheckUpdate(update=update, payload=digest, message=message))
        waiting = _Waiting(message_bytes=len(payload))
        self._waiting.setdefault(sender, {})[commit] = waiting
        self._num_waiting += 1
        if len(self._queue) >= MAX_BATCH_COMMITS:
            yield from self.flush()

    def on_timer(self, now_ms: int) -> Iterator[Effect | CommitUpdates]:
        """Send the batch that has lingered, and submit again what got lost on the way."""
        if self._queue and self._queued_ms + LINGER_MS <= now_ms:
            yield from self.flush()
        if self._patience_ms is not None and self._patience_ms <= now_ms:
            self._patience_ms = None
            yield from self._submit_again(now_ms)

    def flush(self) -> Iterator[TakeIn]:
        """Send the batch that waits."""
        shard = self._state.get(SHARD, SHARD_KEY)
        if self._queue and self._round is not None and self._task is not None:
            yield TakeIn(
                shard=self._shard,
                round=self._round.number,
                task=self._task,
                updates=tuple(self._queue),
                committee=None if shard is None else shard.committee,
            )
        self._queue = []

    def on_taken_in(
        self, work: TakeIn, reasons: tuple[ReasonCode, ...], now_ms: int
    ) -> Iterator[Effect | CommitUpdates]:
        """The checks are done and what passed is on disk: refuse the bad, commit the good."""
        good: list[Commit] = []
        for check, found in zip(work.updates, reasons, strict=True):
            device = check.update.device
            commit = _commit_of(check.update, check.payload)
            others = self._waiting.get(device, {})
            waiting = others.get(commit)
            if waiting is None:
                continue
            if found is ReasonCode.OK:
                if self._is_taken(work.round, commit):
                    yield self._answer(work.round, commit, now_ms)
                    continue
                is_first = all(other.submitted_ms is None for other in others.values())
                if is_first and not self._is_copy(device, check.payload):
                    waiting.submitted_ms = now_ms
                    self._submitted[check.payload] = device
                    good.append(commit)
                    continue
            reason = ReasonCode.DUPLICATE if found is ReasonCode.OK else found
            self._forget(commit)
            refusal = self._refuse(work.round, device, check.payload, reason, now_ms)
            # A forger's copy of an honest update must not be answered in its name.
            is_copy = any(other.payload == check.payload for other in others)
            is_copy = is_copy or self._is_on_ledger(work.round, device, check.payload)
            if reason is not ReasonCode.BAD_SIGNATURE or not is_copy:
                yield refusal
        if good:
            self._wait_patiently(now_ms)
            yield _make_batch(work.round, good)

    def on_refused(
        self, body: CommitUpdates, reason: ReasonCode, now_ms: int
    ) -> Iterator[Effect | CommitUpdates]:
        """The ledger refused a batch, which it does whole: part the good from the bad.

        What another gateway has committed is answered; the rest is tried again in two halves, down
        to single commits, so that nobody is refused for another's fault.
        """
        if self._round is None or body.round != self._round.number:
            return
        left: list[Commit] = []
        for commit in body.commits:
            if commit not in self._waiting.get(commit.device, {}):
                continue
            if self._is_taken(body.round, commit):
                yield self._answer(body.round, commit, now_ms)
            elif reason is ReasonCode.WRONG_PHASE or len(body.commits) == 1:
                self._forget(commit)
                code = ReasonCode.STALE_ROUND if reason is ReasonCode.WRONG_PHASE else reason
                # Whatever is not the update's own fault may pass if it is sent again.
                code = code if code in UPDATE_REASONS else ReasonCode.BUSY
                yield self._refuse(body.round, commit.device, commit.payload, code, now_ms)
            elif reason is ReasonCode.BUSY:
                self._forget(commit)
                yield self._refuse(body.round, commit.device, commit.payload, reason, now_ms)
            else:
                left.append(commit)
        middle = len(left) // 2 if len(left) == len(body.commits) else len(left)
        for part in (left[:middle], left[middle:]):
            if part:
                yield _make_batch(body.round, part)

    def on_finalized(self, state: State, height: Height, now_ms: int) -> Iterator[Effect]:
        """A block is final: answer what it took, and what it took no more."""
        before = self._round
        self._state, self._height = state, height
        self._read_state()
        if before is not None:
            yield from self._answer_final(before, now_ms)
        current = self._round
        if current is not None and (before is None or current.number != before.number):
            self._metrics.round(self._shard, current.number).opened_ms = now_ms

    def _answer_final(self, before: Round, now_ms: int) -> Iterator[Effect]:
        is_over = (
            self._round is None
            or self._round.number != before.number
            or self._round.phase is not RoundPhase.COLLECT
        )
        for device in sorted(self._waiting):
            for commit, waiting in list(self._waiting[device].items()):
                # What is not checked yet may be anybody's; the round's end answers it.
                is_checked = waiting.submitted_ms is not None
                if is_over or (is_checked and self._is_taken(before.number, commit)):
                    yield self._answer(before.number, commit, now_ms)
        if is_over:
            self._queue = []
            self._patience_ms = None

    def _answer(self, round_: RoundNumber, commit: Commit, now_ms: int) -> Publish:
        """The answer to a waiting commit of a round that took its like, or is over."""
        waiting = self._forget(commit)
        entry = self._state.get(UPDATES, update_key(round_, commit.device))
        if entry is None:
            is_repeated = self._state.get(PAYLOADS, commit.payload) is not None
            reason = ReasonCode.DUPLICATE if is_repeated else ReasonCode.STALE_ROUND
        elif entry.payload != commit.payload:
            reason = ReasonCode.DUPLICATE
        else:
            self._metrics.round(self._shard, round_).taken_bytes += waiting.message_bytes
            return self._receipt(round_, commit.device, commit.payload, ReasonCode.OK, now_ms)
        return self._refuse(round_, commit.device, commit.payload, reason, now_ms)

    def _submit_again(self, now_ms: int) -> Iterator[CommitUpdates]:
        """A full pool of transactions drops some without a word; the device must not wait."""
        if self._round is None or self._round.phase is not RoundPhase.COLLECT:
            return
        lost: list[Commit] = []
        is_waiting = False
        for device in sorted(self._waiting):
            for commit, waiting in self._waiting[device].items():
                if waiting.submitted_ms is None:
                    continue
                is_waiting = True
                if waiting.submitted_ms + PATIENCE_MS <= now_ms:
                    waiting.submitted_ms = now_ms
                    lost.append(commit)
        if is_waiting:
            self._wait_patiently(now_ms)
        for start in range(0, len(lost), MAX_BATCH_COMMITS):
            yield _make_batch(self._round.number, lost[start : start + MAX_BATCH_COMMITS])

    def _wait_patiently(self, now_ms: int) -> None:
        if self._patience_ms is None:
            self._patience_ms = now_ms + PATIENCE_MS

    def _forget(self, commit: Commit) -> _Waiting:
        others = self._waiting[commit.device]
        waiting = others.pop(commit)
        if not others:
            del self._waiting[commit.device]
        if waiting.submitted_ms is not None:
            self._submitted.pop(commit.payload, None)
        self._num_waiting -= 1
        return waiting

    def _read_state(self) -> None:
        shard = self._state.get(SHARD, SHARD_KEY)
        if shard is not None:
            self._round = self._state.get(ROUNDS, round_key(shard.last_round))
            self._task = self._state.get(TASKS, task_key(shard.task))

    def _is_on_ledger(self, round_: RoundNumber, device: DeviceId, payload: Digest) -> bool:
        """Whether this update was taken, in the open round or one that is still remembered."""
        entry = self._state.get(UPDATES, update_key(round_, device))
        return entry is not None and entry.payload == payload

    def _is_taken(self, round_: RoundNumber, commit: Commit) -> bool:
        """Whether the ledger has an update of its device, or its payload of any device."""
        if self._state.get(UPDATES, update_key(round_, commit.device)) is not None:
            return True
        return self._state.get(PAYLOADS, commit.payload) is not None

    def _is_copy(self, device: DeviceId, payload: Digest) -> bool:
        """Whether another device's update with this payload was checked and waits."""
        return self._submitted.get(payload, device) != device

    def _judge(self, sender: DeviceId, update: Update, payload: Digest) -> ReasonCode:
        """Everything that can be said without cryptography, cheapest first."""
        round_ = self._round
        if update.device != sender:
            return ReasonCode.NOT_PERMITTED
        device = self._state.get(DEVICES, sender)
        if device is None:
            return ReasonCode.NOT_ENROLLED
        if device.is_revoked:
            return ReasonCode.REVOKED
        if round_ is None or update.round != round_.number:
            return ReasonCode.STALE_ROUND
        if update.base != round_.base:
            return ReasonCode.WRONG_BASE
        if is_quarantined(device, round_.number):
            return ReasonCode.QUARANTINED
        if not is_drawn(device, round_):
            return ReasonCode.NOT_IN_COHORT
        if self._state.get(UPDATES, update_key(round_.number, sender)) is not None:
            return ReasonCode.DUPLICATE
        if round_.phase is not RoundPhase.COLLECT:
            return ReasonCode.STALE_ROUND
        if self._state.get(PAYLOADS, payload) is not None or self._is_copy(sender, payload):
            return ReasonCode.DUPLICATE
        if self._num_waiting >= MAX_WAITING_UPDATES:
            return ReasonCode.BUSY
        return ReasonCode.OK

    def _refuse(
        self,
        round_: RoundNumber,
        device: DeviceId,
        payload: Digest,
        reason: ReasonCode,
        now_ms: int,
    ) -> Publish:
        """Count a refusal, under the open round, and answer it, under the update's own."""
        current = RoundNumber(0) if self._round is None else self._round.number
        self._metrics.refused[reason] += 1
        self._metrics.round(self._shard, current).refused[reason] += 1
        return self._receipt(round_, device, payload, reason, now_ms)

    def _receipt(
        self,
        round_: RoundNumber,
        device: DeviceId,
        payload: Digest,
        reason: ReasonCode,
        now_ms: int,
    ) -> Publish:
        shard = self._state.get(SHARD, SHARD_KEY)
        key = pick_speaker(self._keys, None if shard is None else shard.committee)
        record = self._state.get(DEVICES, device)
        receipt = Receipt(
            stage=Stage.INTAKE,
            shard=self._shard,
            round=round_,
            device=device,
            payload=payload,
            reason=reason,
            height=self._height if reason is ReasonCode.OK else Height(0),
            score=0,
            reward=Units(0),
            time_ms=TimeMs(now_ms),
            gateway=key.validator,
            standing=None if record is None else record.standing,
        )
        return Publish(
            topic=self._topics.receipt(device),
            payload=encode_record(sign_receipt(key, self._network, receipt)),
            retain=False,
        )


def _commit_of(update: Update, payload: Digest) -> Commit:
    """As `update_commit`, with the payload's digest at hand."""
    return Commit(
        device=update.device,
        payload=payload,
        num_examples=update.num_examples,
        signature=update.signature,
    )


def _make_batch(round_: RoundNumber, commits: Iterable[Commit]) -> CommitUpdates:
    ordered = sorted(commits, key=lambda commit: commit.device)
    return CommitUpdates(round=round_, commits=tuple(ordered))
