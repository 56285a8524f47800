"""Publishing: the open round with its proofs, the blobs that it needs, and verdicts at its end."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from headwater_gateway.machine.effects import ClearBlob, Effect, Publish, PublishBlob
from headwater_gateway.machine.metrics import Metrics
from headwater_gateway.machine.speaker import pick_speaker
from headwater_protocol.chain.block import Block, Certificate
from headwater_protocol.chain.round import Round, RoundPhase
from headwater_protocol.chain.task import Task
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.identifiers import (
    ChainId,
    Digest,
    EpochNumber,
    Network,
    RoundNumber,
    TimeMs,
)
from headwater_protocol.light.update import EpochUpdate
from headwater_protocol.messages.announcement import Announcement, round_key, task_key
from headwater_protocol.messages.receipt import Receipt, Stage, sign_receipt
from headwater_protocol.messages.topics import Topics
from headwater_protocol.model.fixed_point import MAX_MODEL_OVERHEAD_BYTES
from headwater_shard.shardchain.adoption import get_committee
from headwater_shard.shardchain.records import (
    BATCHES,
    DEVICES,
    ROUNDS,
    SHARD,
    SHARD_KEY,
    TASKS,
    UPDATES,
    batch_key,
    update_key,
)
from headwater_shard.state.state import State

MAX_PUBLISHED_EPOCHS: Final = 512
"""Proofs of epochs that stay retained; a device that is further behind pins anew."""

REFRESHES_PER_PERIOD: Final = 8
"""Of the trust period; a device needs one of them."""

KEPT_BASES: Final = 2
"""Models whose pieces stay retained: the open round's base and the one before."""

MAX_ROUNDS_BACK: Final = 64
"""How far back a publisher that starts anew looks for bases to clear."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalizedTip:
    """The last block of a chain with its certificate and the state after it."""

    block: Block
    certificate: Certificate
    state: State


class Publisher:
    """What one shard's devices are told."""

    def __init__(
        self,
        *,
        network: Network,
        shard: ChainId,
        keys: Sequence[SecretKey],
        trust_period_ms: int,
        metrics: Metrics,
    ) -> None:
        self._network = network
        self._shard = shard
        self._keys = keys
        self._trust_period_ms = trust_period_ms
        self._updates: dict[EpochNumber, EpochUpdate] = {}
        self._latest_ms = TimeMs(0)
        self._topics = Topics(network, shard)
        self._metrics = metrics
        self._announced = RoundNumber(0)
        self._judged: RoundNumber | None = None
        self._bases: list[Digest] = []
        self._program: Digest | None = None

    def on_finalized(self, tip: FinalizedTip, now_ms: int) -> Iterator[Effect]:
        """Announce a round that opened, and answer the devices of one that closed."""
        shard = tip.state.get(SHARD, SHARD_KEY)
        if shard is None:
            return
        round_ = tip.state.get(ROUNDS, round_key(shard.last_round))
        if round_ is None:
            return
        yield from self._answer_closed(tip.state, round_, now_ms)
        if round_.phase is RoundPhase.COLLECT and round_.number != self._announced:
            yield from self._announce(tip, round_)

    def on_epoch(self, update: EpochUpdate) -> Iterator[Effect]:
        """Publish what leads to an epoch; the oldest one past the limit is taken back."""
        number = update.epoch.epoch
        self._updates[number] = update
        yield Publish(topic=self._topics.epoch(number), payload=encode_record(update), retain=True)
        while len(self._updates) > MAX_PUBLISHED_EPOCHS:
            oldest = min(self._updates)
            del self._updates[oldest]
            yield Publish(topic=self._topics.epoch(oldest), payload=b"", retain=True)

    def on_main(self, latest: EpochUpdate) -> Iterator[Effect]:
        """Publish at times that the epoch still lasts, so that devices' trust does not run out."""
        time_ms = latest.header.time_ms
        if (time_ms - self._latest_ms) * REFRESHES_PER_PERIOD < self._trust_period_ms:
            return
        self._latest_ms = time_ms
        yield Publish(topic=self._topics.latest_epoch, payload=encode_record(latest), retain=True)

    def publish_epochs(self) -> Iterator[Effect]:
        """Publish all of them, for a broker that has none."""
        for number in sorted(self._updates):
            yield Publish(
                topic=self._topics.epoch(number),
                payload=encode_record(self._updates[number]),
                retain=True,
            )

    def forget(self) -> None:
        """Take nothing for published: the broker is another one, or was restarted."""
        self._latest_ms = TimeMs(0)
        self._announced = RoundNumber(0)
        self._bases.clear()
        self._program = None

    def take_office(self, state: State) -> None:
        """Speak from here on: a delegate of this gateway was elected into the shard.

        The rounds that are closed were answered by those who were in office then.
        """
        self.forget()
        shard = state.get(SHARD, SHARD_KEY)
        round_ = None if shard is None else state.get(ROUNDS, round_key(shard.last_round))
        if round_ is not None:
            is_closed = round_.phase is RoundPhase.CLOSED
            self._judged = round_.number if is_closed else RoundNumber(round_.number - 1)

    def _announce(self, tip: FinalizedTip, round_: Round) -> Iterator[Effect]:
        task = tip.state.get(TASKS, task_key(round_.task))
        if task is None:
            return
        if self._program != task.program:
            self._program = task.program
            yield PublishBlob(shard=self._shard, blob=task.program)
        if not self._bases:
            # A broker that lived on while this process did not may still retain these.
            for base in self._earlier_bases(tip.state, round_):
                yield self._clear(base, task)
        if round_.base not in self._bases:
            self._bases.append(round_.base)
            yield PublishBlob(shard=self._shard, blob=round_.base)
            while len(self._bases) > KEPT_BASES:
                yield self._clear(self._bases.pop(0), task)
        announcement = Announcement(
            header=tip.block.header,
            certificate=tip.certificate,
            round=round_,
            round_proof=tip.state.prove(ROUNDS.namespace, round_key(round_.number)),
            task=task,
            task_proof=tip.state.prove(TASKS.namespace, task_key(task.task)),
        )
        self._announced = round_.number
        yield Publish(topic=self._topics.round, payload=encode_record(announcement), retain=True)

    def _clear(self, base: Digest, task: Task) -> ClearBlob:
        size = 4 * task.num_parameters + MAX_MODEL_OVERHEAD_BYTES
        return ClearBlob(shard=self._shard, blob=base, blob_bytes=size)

    def _earlier_bases(self, state: State, round_: Round) -> list[Digest]:
        """The last distinct bases before `round_`'s, as many as are ever retained."""
        bases: list[Digest] = []
        for number in range(round_.number - 1, max(0, round_.number - MAX_ROUNDS_BACK), -1):
            earlier = state.get(ROUNDS, round_key(RoundNumber(number)))
            if earlier is not None and earlier.base not in {round_.base, *bases}:
                bases.append(earlier.base)
            if len(bases) == KEPT_BASES:
                break
        return bases

    def _answer_closed(self, state: State, round_: Round, now_ms: int) -> Iterator[Effect]:
        """Verdicts of the last closed round; after a restart nobody waits for older ones."""
        is_closed = round_.phase is RoundPhase.CLOSED
        number = round_.number if is_closed else RoundNumber(round_.number - 1)
        if self._judged is None:
            self._judged = RoundNumber(max(0, number - 1))
        for closed in range(self._judged + 1, number + 1):
            self._judged = RoundNumber(closed)
            yield from self._answer_round(state, self._judged, now_ms)

    def _answer_round(self, state: State, number: RoundNumber, now_ms: int) -> Iterator[Publish]:
        closed = state.get(ROUNDS, round_key(number))
        if closed is None:
            return
        key = pick_speaker(self._keys, get_committee(state, self._shard, closed.epoch))
        metrics = self._metrics.round(self._shard, number)
        metrics.closed_ms = now_ms
        for index in range(closed.num_batches):
            batch = state.get(BATCHES, batch_key(number, index))
            if batch is None:
                continue
            for commit in batch.commits:
                entry = state.get(UPDATES, update_key(number, commit.device))
                if entry is None or not entry.is_judged:
                    continue
                metrics.judged[commit.device] = entry.reason
                device = state.get(DEVICES, commit.device)
                receipt = Receipt(
                    stage=Stage.VERDICT,
                    shard=self._shard,
                    round=number,
                    device=commit.device,
                    payload=commit.payload,
                    reason=entry.reason,
                    height=closed.closed_height,
                    score=entry.score,
                    reward=entry.reward,
                    time_ms=TimeMs(now_ms),
                    gateway=key.validator,
                    standing=None if device is None else device.standing,
                )
                yield Publish(
                    topic=self._topics.receipt(commit.device),
                    payload=encode_record(sign_receipt(key, self._network, receipt)),
                    retain=False,
                )
