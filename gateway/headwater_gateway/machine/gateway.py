"""The gateway as one machine: desks for its shards, duties of its delegates, the relay."""

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from headwater_gateway.machine.duties import MainDuties, ShardDuties
from headwater_gateway.machine.effects import (
    CheckScores,
    ComputeMerge,
    ComputeRoundModel,
    Effect,
    Refutation,
    ScoreBatch,
    Scored,
    Submit,
    TakeIn,
    Waiting,
)
from headwater_gateway.machine.fetches import ticket_of
from headwater_gateway.machine.fleet import Fleet
from headwater_gateway.machine.intake import Intake
from headwater_gateway.machine.keeping import Keeping
from headwater_gateway.machine.metrics import Metrics
from headwater_gateway.machine.publisher import MAX_PUBLISHED_EPOCHS, FinalizedTip, Publisher
from headwater_gateway.machine.relay import due_checkpoint, due_epoch, due_payouts, due_task
from headwater_gateway.machine.speaker import pick_speaker
from headwater_gateway.machine.watch import Watch
from headwater_gateway.machine.withholding import Withholding
from headwater_protocol.chain.evidence import CometEquivocation, Equivocation, WithheldPayload
from headwater_protocol.chain.genesis import Genesis, genesis_network
from headwater_protocol.chain.transaction import (
    AttestMerge,
    AttestModel,
    Body,
    CommitUpdates,
    EnrolDevice,
    Enrolment,
    PostScores,
    Revocation,
    RevokeDevice,
    Transaction,
    sign_transaction,
)
from headwater_protocol.crypto.hashing import Domain
from headwater_protocol.crypto.signing import DirectVerifier, SecretKey, Verifier
from headwater_protocol.errors import BadEncoding
from headwater_protocol.identifiers import (
    MAIN_CHAIN,
    NOTHING,
    ChainId,
    DeviceId,
    Digest,
    EpochNumber,
    Nonce,
    TimeMs,
    ValidatorId,
)
from headwater_protocol.light.update import EpochUpdate
from headwater_protocol.messages.credential import DeviceProof
from headwater_protocol.messages.topics import TopicKind, network_name, parse_topic
from headwater_protocol.reasons import ReasonCode
from headwater_shard.claiming import ClaimProgress
from headwater_shard.mainchain.market.records import DEPOSITS, Deposit
from headwater_shard.mainchain.staking.handover import is_handover, make_epoch_update
from headwater_shard.shardchain.records import DEVICES, SHARD, SHARD_KEY
from headwater_shard.state.state import State
from headwater_shard.transition import NONCES

RETRY_MS: Final = 500
"""After a duty failed, until it is looked at again."""

PATIENCE_MS: Final = 10_000
"""After which a duty that was submitted and is still owed is done again; work takes its time."""

MAX_ENROLMENTS_UNDER_WAY: Final = 1_000

ENROLMENT_VALID_MS: Final = 24 * 3_600_000

MAX_REVOCATIONS_UNDER_WAY: Final = 1_000


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
        verifier: Verifier | None = None,
        keeps_blobs: bool = False,
    ) -> None:
        """Start from the ledgers' committed states.

        Args:
            genesis: The network's.
            desks: One a shard that is served here, at least one.
            states: Of the main chain and of each desk's shard.
            metrics: Counted into.
            registrar: Signs the enrolment of the desks' devices; None where others do.
            verifier: Checks evidence before it is submitted; None remembers no answers.
            keeps_blobs: Whether this gateway's store is its own, so that it fetches what it is to
                keep, drops what nobody needs, and says who withholds what.
        """
        self._genesis = genesis
        self._network = genesis_network(genesis)
        self._network_name = network_name(self._network)
        self._metrics = metrics
        self._registrar = registrar
        self._states = dict(states)
        self._desks = {desk.shard: desk for desk in desks}
        self._keys = {key.validator: key for desk in desks for key in desk.keys}
        # Elections move delegates between shards, so every key here may serve each of them.
        everybody = [self._keys[validator] for validator in sorted(self._keys)]
        self._intakes: dict[ChainId, Intake] = {}
        self._publishers: dict[ChainId, Publisher] = {}
        self._fleets: dict[ChainId, Fleet] = {}
        self._duties: dict[ChainId, list[ShardDuties]] = {}
        for desk in desks:
            self._intakes[desk.shard] = Intake(
                network=self._network,
                shard=desk.shard,
                keys=everybody,
                state=self._states[desk.shard],
                metrics=metrics,
            )
            self._fleets[desk.shard] = Fleet(
                network=self._network,
                state=self._states[desk.shard],
                verifier=verifier or DirectVerifier(),
                metrics=metrics,
            )
            self._publishers[desk.shard] = Publisher(
                network=self._network,
                shard=desk.shard,
                keys=everybody,
                trust_period_ms=genesis.parameters.trust_period_ms,
                metrics=metrics,
            )
            self._duties[desk.shard] = [
                ShardDuties(network=self._network, shard=desk.shard, key=key) for key in everybody
            ]
        self._main_duties = [MainDuties(key=key) for key in everybody]
        self._watch = Watch(
            genesis=genesis, main=self._states[MAIN_CHAIN], verifier=verifier or DirectVerifier()
        )
        self._keeps_blobs = keeps_blobs
        self._withholding = Withholding(
            network=self._network, keys=everybody, verifier=verifier or DirectVerifier()
        )
        self._keeping = Keeping(own=frozenset(self._keys), keeps=keeps_blobs)
        self._relay_key = desks[0].keys[0]
        self._everybody = everybody
        self._enrolments: dict[ChainId, dict[DeviceId, EnrolDevice]] = {}
        self._to_enrol = {desk.shard: deque(desk.devices) for desk in desks}
        self._asked_weights: dict[DeviceId, int] = {}
        """Of devices that were accepted with another weight than 1 and wait for the ledger."""
        self._to_revoke: dict[ChainId, dict[DeviceId, RevokeDevice | None]] = {
            desk.shard: {} for desk in desks
        }
        self._is_started = False
        self._updates: dict[EpochNumber, EpochUpdate] = {}
        self._serving = {desk.shard for desk in desks if self.serves(desk.shard)}
        self._claims: defaultdict[ChainId, ClaimProgress] = defaultdict(ClaimProgress)
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

    @property
    def states(self) -> Mapping[ChainId, State]:
        """The last finalized state of each chain."""
        return self._states

    def effects(self) -> Iterator[Effect]:
        """What to do, each once and in order."""
        while self._effects:
            yield self._effects.popleft()

    def next_timer(self) -> int | None:
        """When `on_timer` is due."""
        times = [intake.next_timer() for intake in self._intakes.values()]
        times += [self._retry_ms, self._patience_ms, self._keeping.fetches.next_timer()]
        times.append(self._withholding.next_timer())
        return min((at for at in times if at is not None), default=None)

    def serves(self, shard: ChainId) -> bool:
        """Whether a delegate here is in office on a shard, so that its devices are heard here."""
        record = self._states[shard].get(SHARD, SHARD_KEY)
        committee = self._genesis.committee(shard) if record is None else record.committee
        return any(committee.power_of(validator) > 0 for validator in self._keys)

    def on_timer(self, now_ms: int) -> None:
        """Send batches that lingered, and look again at duties that failed or got lost."""
        for shard in sorted(self._intakes):
            self._perform(shard, self._intakes[shard].on_timer(now_ms))
        self._effects.extend(self._keeping.fetches.on_timer(now_ms))
        self._effects.extend(self._withholding.on_timer(now_ms))
        self._accuse_withholders(now_ms)
        is_due = False
        if self._retry_ms is not None and self._retry_ms <= now_ms:
            self._retry_ms, is_due = None, True
        if self._patience_ms is not None and self._patience_ms <= now_ms:
            self._patience_ms, is_due = None, True
        if is_due:
            for chain in sorted(self._states):
                self._look(chain, now_ms)

    def start(
        self,
        tips: Mapping[ChainId, FinalizedTip],
        now_ms: int,
        *,
        updates: Sequence[EpochUpdate] = (),
    ) -> None:
        """Go on from the stored tips; a chain without a block has none.

        Args:
            tips: By chain.
            now_ms: The clock.
            updates: The proofs of all epochs so far.
        """
        self._tips.update(tips)
        self._is_started = True
        self.on_epochs(updates)
        for chain in sorted(self._states):
            if chain in self._tips:
                self.on_finalized(chain, self._tips[chain], now_ms)
            else:
                self._look(chain, now_ms)

    def fleet(self, shard: ChainId) -> "Fleet":
        """What the devices of a shard report of themselves."""
        return self._fleets[shard]

    def on_epochs(self, updates: Sequence[EpochUpdate]) -> None:
        """Take the proofs of epochs that began, before `on_finalized` for the blocks after."""
        for update in updates:
            self._updates[update.epoch.epoch] = update
            for shard in sorted(self._publishers):
                effects = self._publishers[shard].on_epoch(update)
                if shard in self._serving:
                    self._effects.extend(effects)
                else:
                    deque(effects, maxlen=0)
        while len(self._updates) > MAX_PUBLISHED_EPOCHS:
            del self._updates[min(self._updates)]

    def on_connected(self, now_ms: int) -> None:
        """A broker may have forgotten what was retained: publish it again."""
        for shard in sorted(self._serving):
            self._publishers[shard].forget()
            self._effects.extend(self._publishers[shard].publish_epochs())
            self._tell_latest(shard)
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
            parsed.kind is TopicKind.STATUS
            and parsed.network == self._network_name
            and parsed.device is not None
            and intake is not None
        ):
            if self._fleets[parsed.shard].receive(parsed.device, payload, now_ms):
                self._look(parsed.shard, now_ms)
            return
        if (
            parsed.kind is not TopicKind.UPDATE
            or parsed.network != self._network_name
            or parsed.device is None
            or intake is None
        ):
            self._metrics.garbage += 1
            return
        self._effects.extend(intake.receive(parsed.device, payload, now_ms))

    def enrol(self, shard: ChainId, device: DeviceId, *, weight: int, now_ms: int) -> None:
        """Put an accepted device on its shard's ledger; to ask again does no harm.

        Args:
            shard: One that is served here; of another one nothing comes.
            device: Its key was proven to be its own.
            weight: How often it is drawn, compared with others.
            now_ms: The clock.
        """
        waiting = self._to_enrol.get(shard)
        if waiting is None or device in self._to_revoke[shard]:
            return
        if self._states[shard].get(DEVICES, device) is None and device not in waiting:
            waiting.append(device)
            self._asked_weights[device] = weight
            if self._is_started:
                self._look(shard, now_ms)

    def revoke(self, shard: ChainId, device: DeviceId, now_ms: int) -> None:
        """Leave a device out of its shard from now on; one that is not enrolled yet never is."""
        waiting = self._to_enrol.get(shard)
        if waiting is None:
            return
        if device in waiting:
            waiting.remove(device)
        if device not in self._to_revoke[shard]:
            # It may still come onto the ledger: an enrolment that was submitted cannot be unsaid.
            self._to_revoke[shard][device] = None
            if self._is_started:
                self._look(shard, now_ms)

    def prove_device(self, shard: ChainId, device: DeviceId) -> DeviceProof | None:
        """A device's entry in the last finalized state, proven; None while there is none."""
        tip = self._tips.get(shard)
        entry = None if tip is None else tip.state.get(DEVICES, device)
        if tip is None or entry is None:
            return None
        return DeviceProof(
            device=entry,
            proof=tip.state.prove(DEVICES.namespace, device),
            header=tip.block.header,
            certificate=tip.certificate,
        )

    @property
    def last_epoch(self) -> EpochNumber:
        """The last one whose proof is at hand; 0 before the first election."""
        return max(self._updates, default=EpochNumber(0))

    def epoch_update(self, epoch: EpochNumber) -> EpochUpdate | None:
        """What leads to an epoch; None if it did not begin, or is beyond what is kept."""
        return self._updates.get(epoch)

    def on_finalized(self, chain: ChainId, tip: FinalizedTip, now_ms: int) -> None:
        """A chain has a new tip; blocks in between need not be told."""
        self._tips[chain] = tip
        self._states[chain] = tip.state
        if chain == MAIN_CHAIN:
            for shard in sorted(self._serving):
                self._tell_latest(shard)
            self._watch.on_main(tip)
        else:
            self._watch.on_shard(chain, tip)
            if self._keeps_blobs:
                missing = self._withholding.on_shard(chain, tip, now_ms)
                self._effects.extend(self._keeping.want(chain, missing, self._states))
        if chain in self._fleets:
            self._fleets[chain].on_finalized(tip.state)
        if chain in self._intakes:
            height = tip.block.header.height
            self._effects.extend(self._intakes[chain].on_finalized(tip.state, height, now_ms))
            self._note_office(chain)
            if chain in self._serving:
                self._effects.extend(self._publishers[chain].on_finalized(tip, now_ms))
        self._effects.extend(self._keeping.on_finalized(chain, self._states))
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
        self._watch.on_transaction(submit.transaction)
        self._watch.on_refused(submit.ticket, reason)
        self._drop(submit.chain, submit.ticket, now_ms)

    def on_taken_in(self, work: TakeIn, reasons: tuple[ReasonCode, ...], now_ms: int) -> None:
        """A batch is checked, and what passed is stored."""
        self._perform(work.shard, self._intakes[work.shard].on_taken_in(work, reasons, now_ms))

    def on_missing(self, work: Waiting, missing: tuple[Digest, ...], now_ms: int) -> None:
        """The store lacks blobs that a work needs: fetch them, then give the work out again."""
        is_duty = isinstance(work, ScoreBatch | ComputeRoundModel | ComputeMerge)
        chain = MAIN_CHAIN if isinstance(work, ComputeMerge) else work.shard
        if is_duty and ticket_of(work) not in self._under_way[chain]:
            return
        fetches = self._keeping.on_missing(work, missing, self._states, now_ms)
        if fetches is not None:
            self._effects.extend(fetches)
        elif is_duty:
            self._drop(chain, ticket_of(work), now_ms)

    def on_fetched(self, blob: Digest, now_ms: int, *, is_here: bool) -> None:
        """A `FetchBlob` is done, or no holder serves the blob."""
        self._withholding.on_fetched(blob, is_here=is_here)
        self._effects.extend(self._keeping.fetches.on_fetched(blob, now_ms, is_here=is_here))

    def on_statement(self, said: WithheldPayload, now_ms: int) -> None:
        """Another gateway's delegates say that a payload is withheld."""
        self._withholding.on_statement(said, self._states)
        self._accuse_withholders(now_ms)

    def on_scored(self, work: ScoreBatch, scored: Scored | None, now_ms: int) -> None:
        """Scores are there; None where the base could not be had."""
        if scored is None:
            self._drop(work.shard, work.ticket, now_ms)
            return
        body = PostScores(
            task=work.task.task,
            round=work.round,
            batch=work.batch,
            scores=scored.scores,
            reference=scored.reference,
        )
        self._submit_duty(work.shard, work.validator, body, work.ticket, now_ms)

    def on_checked(self, work: CheckScores, refuted: Refutation | None, now_ms: int) -> None:
        """Another delegate's scores were recomputed; None where they hold."""
        if work.shard in self._tips:
            self._watch.on_checked(self._tips[work.shard], work, refuted)
            self._look(MAIN_CHAIN, now_ms)

    def on_equivocation(self, equivocation: Equivocation | CometEquivocation, now_ms: int) -> None:
        """An engine saw a validator sign twice."""
        self._watch.on_equivocation(equivocation)
        self._look(MAIN_CHAIN, now_ms)

    def on_transactions(self, tip: FinalizedTip, transactions: Sequence[bytes]) -> None:
        """Take all transactions of a chain's new blocks, before `on_finalized` for the last one."""
        self._effects.extend(self._watch.on_transactions(tip, transactions))

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
        body = AttestMerge(epoch=work.epoch, model=model, attempt=work.attempt)
        self._submit_duty(MAIN_CHAIN, work.validator, body, work.ticket, now_ms)

    def _look(self, chain: ChainId, now_ms: int) -> None:
        """Start what is owed on `chain` and not under way."""
        under_way = self._under_way[chain]
        due = list(self._due(chain, now_ms))
        tickets = {ticket for ticket, _, _ in due}
        gone = [ticket for ticket in under_way if ticket not in tickets]
        self._keeping.fetches.forget(gone)
        for ticket in gone:
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
            for ticket, accusation in self._watch.due():
                yield ticket, self._relay_key, accusation
            for shard in sorted(self._serving):
                for ticket, post in due_checkpoint(shard, self._states[shard], state):
                    yield ticket, self._relay_key, post
                for ticket, payout in due_payouts(
                    shard, self._states[shard], state, self._claims[shard]
                ):
                    yield ticket, self._relay_key, payout
            return
        for ticket, enrolment in self._due_enrolments(chain, now_ms):
            yield ticket, self._relay_key, enrolment
        for ticket, declaration in self._fleets[chain].due(chain):
            yield ticket, self._relay_key, declaration
        for ticket, revocation in self._due_revocations(chain, now_ms):
            yield ticket, self._relay_key, revocation
        for duties in self._duties[chain]:
            for ticket, item in duties.due(state):
                yield ticket, duties.key, item
        if chain not in self._serving:
            return
        for ticket, adoption in due_epoch(
            chain, state, self._updates, self._latest(), self._genesis.parameters
        ):
            yield ticket, self._relay_key, adoption
        if MAIN_CHAIN in self._tips:
            for ticket, next_task in due_task(chain, state, self._tips[MAIN_CHAIN]):
                yield ticket, self._relay_key, next_task

    def _due_enrolments(self, shard: ChainId, now_ms: int) -> Iterator[tuple[str, EnrolDevice]]:
        if self._registrar is None:
            return
        state = self._states[shard]
        # Nobody leaves the ledger, so a device that was found on it is never looked for again.
        waiting = self._to_enrol[shard]
        front: list[DeviceId] = []
        penniless: list[DeviceId] = []
        while waiting and len(front) < MAX_ENROLMENTS_UNDER_WAY:
            device = waiting.popleft()
            if state.get(DEVICES, device) is not None:
                self._asked_weights.pop(device, None)
            else:
                (front if self._has_deposit(shard, device) else penniless).append(device)
        waiting.extendleft(reversed(front))
        waiting.extend(penniless)
        known = self._enrolments.get(shard, {})
        self._enrolments[shard] = {
            device: enrolment
            if (enrolment := known.get(device)) and now_ms < enrolment.enrolment.expires_ms
            else self._enrol(self._registrar, shard, device, now_ms)
            for device in front
        }
        for device, enrolment in self._enrolments[shard].items():
            yield f"{shard}/enrol/{device.hex()}", enrolment

    def _accuse_withholders(self, now_ms: int) -> None:
        convicted = list(self._withholding.evidence())
        for evidence in convicted:
            self._watch.on_withheld(evidence)
            self._withholding.forget(evidence.statement)
        if convicted:
            self._look(MAIN_CHAIN, now_ms)

    def _due_revocations(self, shard: ChainId, now_ms: int) -> Iterator[tuple[str, RevokeDevice]]:
        if self._registrar is None:
            return
        state, to_revoke = self._states[shard], self._to_revoke[shard]
        count = 0
        for device in sorted(to_revoke):
            entry = state.get(DEVICES, device)
            if entry is None or entry.is_revoked:
                continue
            count += 1
            if count > MAX_REVOCATIONS_UNDER_WAY:
                return
            known = to_revoke[device]
            if known is None or known.revocation.expires_ms <= now_ms:
                known = self._make_revocation(self._registrar, shard, device, now_ms)
                to_revoke[device] = known
            yield f"{shard}/revoke/{device.hex()}", known

    def _make_revocation(
        self, registrar: SecretKey, shard: ChainId, device: DeviceId, now_ms: int
    ) -> RevokeDevice:
        revocation = Revocation(
            shard=shard, device=device, expires_ms=TimeMs(now_ms + ENROLMENT_VALID_MS)
        )
        return RevokeDevice(
            revocation=revocation,
            registrar=registrar.account,
            signature=registrar.sign_record(Domain.REVOCATION, self._network, revocation),
        )

    def _deposit(self, shard: ChainId, device: DeviceId) -> Deposit | None:
        deposit = self._states[MAIN_CHAIN].get(DEPOSITS, device)
        return deposit if deposit is not None and deposit.shard == shard else None

    def _has_deposit(self, shard: ChainId, device: DeviceId) -> bool:
        least = self._genesis.parameters.incentives.device_deposit
        if not least:
            return True
        deposit = self._deposit(shard, device)
        return deposit is not None and deposit.units >= least

    def _enrol(
        self, registrar: SecretKey, shard: ChainId, device: DeviceId, now_ms: int
    ) -> EnrolDevice:
        deposit = self._deposit(shard, device)
        enrolment = Enrolment(
            shard=shard,
            device=device,
            weight=self._asked_weights.get(device, 1),
            expires_ms=TimeMs(now_ms + ENROLMENT_VALID_MS),
            owner=None if deposit is None else deposit.owner,
            deposit=NOTHING if deposit is None else deposit.units,
        )
        return EnrolDevice(
            enrolment=enrolment,
            registrar=registrar.account,
            signature=registrar.sign_record(Domain.ENROLMENT, self._network, enrolment),
        )

    def _note_office(self, shard: ChainId) -> None:
        """Begin or cease to speak to a shard's devices, as the last election has it."""
        is_serving = self.serves(shard)
        if is_serving and shard not in self._serving:
            self._serving.add(shard)
            self._publishers[shard].take_office(self._states[shard])
            self._effects.extend(self._publishers[shard].publish_epochs())
            self._tell_latest(shard)
        elif not is_serving:
            self._serving.discard(shard)

    def _latest(self) -> EpochUpdate | None:
        tip = self._tips.get(MAIN_CHAIN)
        if tip is None:
            return None
        return make_epoch_update(tip.state, tip.block.header, tip.certificate)

    def _tell_latest(self, shard: ChainId) -> None:
        latest = self._latest()
        # A block that hands over is certified by the committee before, and published for itself.
        if latest is not None and not is_handover(latest):
            self._effects.extend(self._publishers[shard].on_main(latest))

    def _drop(self, chain: ChainId, ticket: str, now_ms: int) -> None:
        """A duty failed; it is looked at again after a pause."""
        if ticket in self._under_way[chain]:
            del self._under_way[chain][ticket]
            if self._retry_ms is None:
                self._retry_ms = now_ms + RETRY_MS

    def _perform(self, shard: ChainId, effects: Iterator[Effect | CommitUpdates]) -> None:
        """Take an intake's effects; its batches become transactions of a delegate in office."""
        for effect in effects:
            if isinstance(effect, CommitUpdates):
                self._num_batches += 1
                ticket = f"{shard}/batch/{self._num_batches}"
                self._batches[ticket] = effect
                record = self._states[shard].get(SHARD, SHARD_KEY)
                committee = None if record is None else record.committee
                speaker = pick_speaker(self._everybody, committee)
                self._submit(shard, speaker, effect, ticket)
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
