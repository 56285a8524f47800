"""The gateway as one machine: desks for its shards, duties of its delegates, the relay."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from headwater_gateway.machine.duties import MainDuties, ShardDuties
from headwater_gateway.machine.effects import (
    ComputeMerge,
    ComputeRoundModel,
    Effect,
    ScoreBatch,
    Submit,
    TakeIn,
)
from headwater_gateway.machine.intake import Intake
from headwater_gateway.machine.metrics import Metrics
from headwater_gateway.machine.publisher import FinalizedTip, Publisher
from headwater_gateway.machine.relay import due_checkpoint, due_merge
from headwater_protocol.chain.genesis import Genesis, genesis_network
from headwater_protocol.chain.transaction import (
    AttestMerge,
    AttestModel,
    Body,
    CommitUpdates,
    EnrolDevice,
    Enrolment,
    PostScores,
    Transaction,
    sign_transaction,
)
from headwater_protocol.crypto.hashing import Domain
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.errors import BadEncoding
from headwater_protocol.identifiers import (
    MAIN_CHAIN,
    ChainId,
    DeviceId,
    Digest,
    Nonce,
    TimeMs,
    ValidatorId,
)
from headwater_protocol.messages.topics import TopicKind, network_name, parse_topic
from headwater_protocol.reasons import ReasonCode
from headwater_shard.shardchain.records import DEVICES
from headwater_shard.state.state import State
from headwater_shard.transition import NONCES

RETRY_MS: Final = 500
"""After a duty failed, until it is looked at again."""

PATIENCE_MS: Final = 10_000
"""After which a duty that was submitted and is still owed is done again; work takes its time."""

MAX_ENROLMENTS_UNDER_WAY: Final = 1_000

ENROLMENT_VALID_MS: Final = 24 * 3_600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What a gateway is to one shard."""

    shard: ChainId
    keys: Sequence[SecretKey]
    """Of the delegates hosted here; the first signs receipts and batches."""
    devices: Sequence[DeviceId] = ()
    """To enrol, if this gateway is a registrar."""


class GatewayMachine:
    """All rules of a gateway; a shell performs the effects and brings their results back."""

    def __init__(
        self,
        *,
        genesis: Genesis,
        desks: Sequence[Desk],
        states: Mapping[ChainId, State],
        metrics: Metrics,
        registrar: SecretKey | None = None,
    ) -> None:
        """Start from the ledgers' committed states.

        Args:
            genesis: The network's.
            desks: One a shard that is served here, at least one.
            states: Of the main chain and of each desk's shard.
            metrics: Counted into.
            registrar: Signs the enrolment of the desks' devices; None where others do.
        """
        self._genesis = genesis
        self._network = genesis_network(genesis)
        self._network_name = network_name(self._network)
        self._metrics = metrics
        self._registrar = registrar
        self._states = dict(states)
        self._desks = {desk.shard: desk for desk in desks}
        self._intakes: dict[ChainId, Intake] = {}
        self._publishers: dict[ChainId, Publisher] = {}
        self._duties: dict[ChainId, list[ShardDuties]] = {}
        for desk in desks:
            self._intakes[desk.shard] = Intake(
                network=self._network,
                shard=desk.shard,
                key=desk.keys[0],
                state=self._states[desk.shard],
                metrics=metrics,
            )
            self._publishers[desk.shard] = Publisher(
                network=self._network, shard=desk.shard, key=desk.keys[0], metrics=metrics
            )
            self._duties[desk.shard] = [
                ShardDuties(network=self._network, shard=desk.shard, key=key) for key in desk.keys
            ]
        self._main_duties = [
            MainDuties(key=key, task=genesis.task) for desk in desks for key in desk.keys
        ]
        self._relay_key = desks[0].keys[0]
        self._enrolments: dict[ChainId, dict[DeviceId, EnrolDevice]] = {}
        self._to_enrol = {desk.shard: deque(desk.devices) for desk in desks}
        self._keys = {key.validator: key for desk in desks for key in desk.keys}
        self._tips: dict[ChainId, FinalizedTip] = {}
        self._under_way: dict[ChainId, dict[str, int | None]] = {
            chain: {} for chain in sorted(self._states)
        }
        """By ticket when it was submitted; None while it is computed."""
        self._batches: dict[str, CommitUpdates] = {}
        self._num_batches = 0
        self._nonces: dict[tuple[ChainId, bytes], int] = {}
        self._retry_ms: int | None = None
        self._patience_ms: int | None = None
        self._effects: deque[Effect] = deque()

    def effects(self) -> Iterator[Effect]:
        """What to do, each once and in order."""
        while self._effects:
            yield self._effects.popleft()

    def next_timer(self) -> int | None:
        """When `on_timer` is due."""
        times = [intake.next_timer() for intake in self._intakes.values()]
        times += [self._retry_ms, self._patience_ms]
        return min((at for at in times if at is not None), default=None)

    def on_timer(self, now_ms: int) -> None:
        """Send batches that lingered, and look again at duties that failed or got lost."""
        for shard in sorted(self._intakes):
            self._perform(shard, self._intakes[shard].on_timer(now_ms))
        is_due = False
        if self._retry_ms is not None and self._retry_ms <= now_ms:
            self._retry_ms, is_due = None, True
        if self._patience_ms is not None and self._patience_ms <= now_ms:
            self._patience_ms, is_due = None, True
        if is_due:
            for chain in sorted(self._states):
                self._look(chain, now_ms)

    def start(self, tips: Mapping[ChainId, FinalizedTip], now_ms: int) -> None:
        """Go on from the stored tips; a chain without a block has none."""
        self._tips.update(tips)
        for chain in sorted(self._states):
            if chain in self._tips:
                self.on_finalized(chain, self._tips[chain], now_ms)
            else:
                self._look(chain, now_ms)

    def on_connected(self, now_ms: int) -> None:
        """A broker may have forgotten what was retained: publish it again."""
        for shard in sorted(self._publishers):
            self._publishers[shard].forget()
            if shard in self._tips:
                self._effects.extend(
                    self._publishers[shard].on_finalized(self._tips[shard], now_ms)
                )

    def receive(self, topic: str, payload: bytes, now_ms: int) -> None:
        """Take an MQTT message; whatever it is, nothing is raised."""
        try:
            parsed = parse_topic(topic)
        except BadEncoding:
            self._metrics.garbage += 1
            return
        intake = self._intakes.get(parsed.shard)
        if (
            parsed.kind is not TopicKind.UPDATE
            or parsed.network != self._network_name
            or parsed.device is None
            or intake is None
        ):
            self._metrics.garbage += 1
            return
        self._effects.extend(intake.receive(parsed.device, payload, now_ms))

    def on_finalized(self, chain: ChainId, tip: FinalizedTip, now_ms: int) -> None:
        """A chain has a new tip; blocks in between need not be told."""
        self._tips[chain] = tip
        self._states[chain] = tip.state
        if chain in self._intakes:
            height = tip.block.header.height
            self._effects.extend(self._intakes[chain].on_finalized(tip.state, height, now_ms))
            self._effects.extend(self._publishers[chain].on_finalized(tip, now_ms))
        self._look(chain, now_ms)
        for other in sorted(self._desks) if chain == MAIN_CHAIN else (MAIN_CHAIN,):
            self._look(other, now_ms)

    def on_submitted(self, submit: Submit, reason: ReasonCode, now_ms: int) -> None:
        """What an engine said of a transaction."""
        body = self._batches.pop(submit.ticket, None)
        if reason is ReasonCode.OK:
            return
        self._metrics.refused_transactions[reason] += 1
        if body is not None:
            again = self._intakes[submit.chain].on_refused(body, reason, now_ms)
            self._perform(submit.chain, again)
        self._drop(submit.chain, submit.ticket, now_ms)

    def on_taken_in(self, work: TakeIn, reasons: tuple[ReasonCode, ...], now_ms: int) -> None:
        """A batch is checked, and what passed is stored."""
        self._perform(work.shard, self._intakes[work.shard].on_taken_in(work, reasons, now_ms))

    def on_scored(self, work: ScoreBatch, scores: tuple[int, ...] | None, now_ms: int) -> None:
        """Scores are there; None where the base could not be had."""
        if scores is None:
            self._drop(work.shard, work.ticket, now_ms)
            return
        body = PostScores(round=work.round, batch=work.batch, scores=scores)
        self._submit_duty(work.shard, work.validator, body, work.ticket, now_ms)

    def on_round_model(self, work: ComputeRoundModel, model: Digest | None, now_ms: int) -> None:
        """A round's model is computed and stored; None where a blob could not be had."""
        if model is None:
            self._drop(work.shard, work.ticket, now_ms)
            return
        body = AttestModel(round=work.round, model=model)
        self._submit_duty(work.shard, work.validator, body, work.ticket, now_ms)

    def on_merge_model(self, work: ComputeMerge, model: Digest | None, now_ms: int) -> None:
        """A merged model is computed and stored; None where a blob could not be had."""
        if model is None:
            self._drop(MAIN_CHAIN, work.ticket, now_ms)
            return
        body = AttestMerge(epoch=work.epoch, model=model)
        self._submit_duty(MAIN_CHAIN, work.validator, body, work.ticket, now_ms)

    def _look(self, chain: ChainId, now_ms: int) -> None:
        """Start what is owed on `chain` and not under way."""
        under_way = self._under_way[chain]
        due = list(self._due(chain, now_ms))
        tickets = {ticket for ticket, _, _ in due}
        for ticket in [ticket for ticket in under_way if ticket not in tickets]:
            del under_way[ticket]
        for ticket, key, item in due:
            if ticket in under_way:
                submitted_ms = under_way[ticket]
                if submitted_ms is None or now_ms < submitted_ms + PATIENCE_MS:
                    continue
            if isinstance(item, ScoreBatch | ComputeRoundModel | ComputeMerge):
                under_way[ticket] = None
                self._effects.append(item)
            else:
                under_way[ticket] = now_ms
                self._submit(chain, key, item, ticket)
        # Nothing else may happen on a chain whose transaction got lost, so a timer looks again.
        if self._patience_ms is None and any(at is not None for at in under_way.values()):
            self._patience_ms = now_ms + PATIENCE_MS

    def _due(
        self, chain: ChainId, now_ms: int
    ) -> Iterator[tuple[str, SecretKey, ScoreBatch | ComputeRoundModel | ComputeMerge | Body]]:
        state = self._states[chain]
        if chain == MAIN_CHAIN:
            for main_duties in self._main_duties:
                for ticket, work in main_duties.due(state):
                    yield ticket, main_duties.key, work
            for shard in sorted(self._desks):
                for ticket, post in due_checkpoint(shard, self._states[shard], state):
                    yield ticket, self._relay_key, post
            return
        for ticket, enrolment in self._due_enrolments(chain, now_ms):
            yield ticket, self._relay_key, enrolment
        for duties in self._duties[chain]:
            for ticket, item in duties.due(state):
                yield ticket, duties.key, item
        if MAIN_CHAIN in self._tips:
            for ticket, merge in due_merge(chain, state, self._tips[MAIN_CHAIN]):
                yield ticket, self._relay_key, merge

    def _due_enrolments(self, shard: ChainId, now_ms: int) -> Iterator[tuple[str, EnrolDevice]]:
        if self._registrar is None:
            return
        state = self._states[shard]
        # Nobody leaves the ledger, so a device that was found on it is never looked for again.
        waiting = self._to_enrol[shard]
        front: list[DeviceId] = []
        while waiting and len(front) < MAX_ENROLMENTS_UNDER_WAY:
            device = waiting.popleft()
            if state.get(DEVICES, device) is None:
                front.append(device)
        waiting.extendleft(reversed(front))
        known = self._enrolments.get(shard, {})
        self._enrolments[shard] = {
            device: enrolment
            if (enrolment := known.get(device)) and now_ms < enrolment.enrolment.expires_ms
            else self._enrol(self._registrar, shard, device, now_ms)
            for device in front
        }
        for device, enrolment in self._enrolments[shard].items():
            yield f"{shard}/enrol/{device.hex()}", enrolment

    def _enrol(
        self, registrar: SecretKey, shard: ChainId, device: DeviceId, now_ms: int
    ) -> EnrolDevice:
        enrolment = Enrolment(
            shard=shard,
            device=device,
            weight=1,
            expires_ms=TimeMs(now_ms + ENROLMENT_VALID_MS),
        )
        return EnrolDevice(
            enrolment=enrolment,
            registrar=registrar.account,
            signature=registrar.sign_record(Domain.ENROLMENT, self._network, enrolment),
        )

    def _drop(self, chain: ChainId, ticket: str, now_ms: int) -> None:
        """A duty failed; it is looked at again after a pause."""
        if ticket in self._under_way[chain]:
            del self._under_way[chain][ticket]
            if self._retry_ms is None:
                self._retry_ms = now_ms + RETRY_MS

    def _perform(self, shard: ChainId, effects: Iterator[Effect | CommitUpdates]) -> None:
        """Take an intake's effects; its batches become transactions of the first delegate."""
        for effect in effects:
            if isinstance(effect, CommitUpdates):
                self._num_batches += 1
                ticket = f"{shard}/batch/{self._num_batches}"
                self._batches[ticket] = effect
                self._submit(shard, self._desks[shard].keys[0], effect, ticket)
            else:
                self._effects.append(effect)

    def _submit_duty(
        self, chain: ChainId, validator: ValidatorId, body: Body, ticket: str, now_ms: int
    ) -> None:
        """Submit what a duty's work gave, if it is still owed."""
        if ticket not in self._under_way[chain]:
            return
        self._under_way[chain][ticket] = now_ms
        if self._patience_ms is None:
            self._patience_ms = now_ms + PATIENCE_MS
        self._submit(chain, self._keys[validator], body, ticket)

    def _submit(self, chain: ChainId, key: SecretKey, body: Body, ticket: str) -> None:
        entry = self._states[chain].get(NONCES, key.account)
        on_ledger = 0 if entry is None else entry.nonce
        nonce = max(on_ledger, self._nonces.get((chain, key.account), 0)) + 1
        self._nonces[(chain, key.account)] = nonce
        transaction = Transaction(
            network=self._network,
            chain=chain,
            sender=key.account,
            nonce=Nonce(nonce),
            body=body,
        )
        self._effects.append(
            Submit(chain=chain, transaction=sign_transaction(key, transaction), ticket=ticket)
        )
