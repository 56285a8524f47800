"""A gateway machine on ledgers in memory: every effect is performed at once, time is a number."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from headwater_gateway.machine.effects import (
    ClearBlob,
    ComputeMerge,
    ComputeRoundModel,
    Effect,
    Publish,
    PublishBlob,
    ScoreBatch,
    Scored,
    Submit,
    TakeIn,
)
from headwater_gateway.machine.gateway import Desk, GatewayMachine
from headwater_gateway.machine.metrics import Metrics
from headwater_gateway.machine.publisher import FinalizedTip
from headwater_gateway.worker import check_updates, compute_merge, compute_model
from headwater_protocol.chain.claim import Commit, update_message
from headwater_protocol.chain.genesis import Parameters
from headwater_protocol.chain.round import Round
from headwater_protocol.chain.task import Task
from headwater_protocol.chain.transaction import Body, SignedTransaction, decode_transaction
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.crypto.signing import DirectVerifier, SecretKey
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.identifiers import (
    MAIN_CHAIN,
    ChainId,
    DeviceId,
    Digest,
    NumExamples,
    Signature,
)
from headwater_protocol.light.update import EpochUpdate
from headwater_protocol.messages.receipt import Receipt, Stage, decode_receipt, verify_receipt
from headwater_protocol.messages.topics import Topics, parse_topic
from headwater_protocol.messages.update import Update, update_claim
from headwater_protocol.model.fixed_point import encode_model, from_float32
from headwater_protocol.model.payload import encode_payload
from headwater_protocol.model.quantize import quantize
from headwater_protocol.reasons import ReasonCode
from headwater_shard.blobs import BlobStore
from headwater_shard.mainchain.staking.handover import is_handover, make_epoch_update
from headwater_shard.shardchain.records import SHARD, SHARD_KEY, Shard
from tests.support.network import Cast, Chain, key, make_cast, make_task

SHARD_0 = ChainId("shard-0")
TENSOR_SIZES = (6, 4)
BASE = encode_model(from_float32(np.linspace(-1, 1, 10, dtype=np.float32)))
PROGRAM = b"no trainer runs here"
LINGER = 50
"""Milliseconds after which a batch has left."""


def gateway_task(**changes: object) -> Task:
    """A task over 10 parameters whose base is a real model; rounds are long unless said."""
    plain: dict[str, object] = {
        "initial_model": blob_digest(BASE),
        "program": blob_digest(PROGRAM),
        "collect_ms": 60_000,
        "score_ms": 60_000,
        "attest_ms": 60_000,
    }
    return make_task(**{**plain, **changes})


def make_payload(
    seed: int = 1, *, tensor_sizes: tuple[int, ...] = TENSOR_SIZES, scale: float = 0.1
) -> bytes:
    """An encoded delta."""
    rng = np.random.default_rng(seed)
    delta = (rng.normal(size=sum(tensor_sizes)) * scale).astype(np.float32)
    return encode_payload(quantize(delta, tensor_sizes=tensor_sizes, bits=8, rng=rng))


def own_seed(sender: SecretKey, round_: Round) -> int:
    """Of a payload that no other device sends, and this one in no other round."""
    return int.from_bytes(sender.device[:6], "big") * 1_000 + round_.number


def make_scored(scores: tuple[int, ...]) -> Scored:
    """A delegate's scores; nobody recomputes them here."""
    return Scored(scores=scores, reference=blob_digest(BASE))


def device_keys(count: int) -> tuple[SecretKey, ...]:
    return tuple(key(f"device-{number}") for number in range(count))


class Bench:
    """One gateway that hosts every delegate, and the chains that it works on."""

    def __init__(
        self,
        folder: Path,
        *,
        shards: Sequence[str] = (SHARD_0,),
        num_devices: int = 3,
        task: Task | None = None,
        parameters: Parameters | None = None,
        keys: Sequence[SecretKey] | None = None,
        enrols: bool = True,
    ) -> None:
        self.cast: Cast = make_cast(
            shards=shards, task=task or gateway_task(), parameters=parameters
        )
        self.chains = {
            chain: Chain(self.cast, chain) for chain in (MAIN_CHAIN, *map(ChainId, shards))
        }
        self.now_ms = self.chains[MAIN_CHAIN].now_ms
        self.blobs = BlobStore(folder / "blobs")
        self.blobs.put_all([BASE, PROGRAM])
        self.devices = device_keys(num_devices)
        self.keys = keys
        self.metrics = Metrics()
        self.updates: list[EpochUpdate] = []
        """What leads from epoch to epoch."""
        self.published: list[Publish] = []
        self.blob_effects: list[PublishBlob | ClearBlob] = []
        self.submitted: list[tuple[ChainId, SignedTransaction, ReasonCode]] = []
        self.pool: dict[ChainId, list[bytes]] = {chain: [] for chain in self.chains}
        self.worked: list[Effect] = []
        self.kept: tuple[type, ...] = ()
        """Kinds of effects that are only recorded in `worked`."""
        self.loses: Callable[[Body], bool] = lambda body: False
        """Transactions that are taken and then lost without a word."""
        self.score_of: Callable[[ScoreBatch, Commit], int] = lambda work, commit: 5_000
        self.model_of: Callable[[ComputeRoundModel, Digest], Digest] = lambda work, model: model
        self.away: set[ChainId] = set()
        """Chains whose engine takes nothing."""
        if enrols:
            for shard in map(ChainId, shards):
                self._advance(shard)
                self.chains[shard].enrol(*self.devices)
                self.now_ms = self.chains[shard].now_ms
        self.machine = self.boot()

    def boot(self) -> GatewayMachine:
        """The gateway as it starts, from what the ledgers hold."""
        self.machine = GatewayMachine(
            genesis=self.cast.genesis,
            desks=[
                Desk(shard=shard, keys=self.keys or keys, devices=self.device_ids)
                for shard, keys in sorted(self.cast.validators.items())
            ],
            states={chain: self.chains[chain].app.state for chain in self.chains},
            metrics=self.metrics,
            registrar=self.cast.registrar,
        )
        tips = {chain: tip for chain in self.chains if (tip := self.tip(chain)) is not None}
        self.machine.start(tips, self.now_ms, updates=self.updates)
        self.perform()
        return self.machine

    @property
    def device_ids(self) -> tuple[DeviceId, ...]:
        return tuple(device.device for device in self.devices)

    @property
    def topics(self) -> Topics:
        return Topics(self.cast.network, SHARD_0)

    @property
    def shard(self) -> Chain:
        return self.chains[SHARD_0]

    def record(self, chain: ChainId = SHARD_0) -> Shard:
        shard = self.chains[chain].app.state.get(SHARD, SHARD_KEY)
        assert shard is not None
        return shard

    def tip(self, chain: ChainId) -> FinalizedTip | None:
        driven = self.chains[chain]
        if not driven.blocks:
            return None
        block, certificate = driven.blocks[-1]
        return FinalizedTip(block=block, certificate=certificate, state=driven.app.state)

    # What a shell does.

    def perform(self) -> None:
        for effect in self.machine.effects():
            if isinstance(effect, self.kept):
                self.worked.append(effect)
            else:
                self._perform_one(effect)

    def _perform_one(self, effect: Effect) -> None:
        machine, now_ms = self.machine, self.now_ms
        if isinstance(effect, Publish):
            self.published.append(effect)
        elif isinstance(effect, Submit):
            self._submit(effect)
        elif isinstance(effect, PublishBlob | ClearBlob):
            self.blob_effects.append(effect)
        elif isinstance(effect, TakeIn):
            self.worked.append(effect)
            reasons = check_updates(effect, verifier=DirectVerifier(), blobs=self.blobs)
            machine.on_taken_in(effect, reasons, now_ms)
        elif isinstance(effect, ScoreBatch):
            self.worked.append(effect)
            scores = tuple(self.score_of(effect, commit) for commit in effect.commits)
            machine.on_scored(effect, make_scored(scores), now_ms)
        elif isinstance(effect, ComputeRoundModel):
            self.worked.append(effect)
            model = self.model_of(effect, compute_model(effect, blobs=self.blobs))
            machine.on_round_model(effect, model, now_ms)
        elif isinstance(effect, ComputeMerge):
            self.worked.append(effect)
            machine.on_merge_model(effect, compute_merge(effect, blobs=self.blobs), now_ms)

    def _submit(self, submit: Submit) -> None:
        signed = decode_transaction(submit.transaction)
        if submit.chain in self.away:
            reason = ReasonCode.BUSY
        else:
            reason = self.chains[submit.chain].app.check_tx(submit.transaction)
        self.submitted.append((submit.chain, signed, reason))
        if reason is ReasonCode.OK and not self.loses(signed.transaction.body):
            self.pool[submit.chain].append(submit.transaction)
        self.machine.on_submitted(submit, reason, self.now_ms)

    def send(self, topic: str, payload: bytes) -> None:
        self.machine.receive(topic, payload, self.now_ms)
        self.perform()

    def pass_ms(self, duration_ms: int) -> None:
        """Let time pass, calling the timer whenever it is due."""
        until_ms = self.now_ms + duration_ms
        for _ in range(10_000):
            at = self.machine.next_timer()
            if at is None or at > until_ms:
                self.now_ms = until_ms
                return
            self.now_ms = max(self.now_ms, at)
            self.machine.on_timer(self.now_ms)
            self.perform()
        raise AssertionError("the timer stands still")

    def mine(self, *chains: ChainId) -> None:
        """A block of what waits, on each of `chains`; the machine is told if there is one."""
        for chain in chains or tuple(self.chains):
            transactions, self.pool[chain] = self.pool[chain], []
            self._advance(chain)
            taken = self.chains[chain].app.prepare_proposal(
                transactions,
                time_ms=self.chains[chain].now_ms + 10,  # type: ignore[arg-type]
                max_bytes=8_000_000,
            )
            self.chains[chain].block(*taken)
            self.now_ms = self.chains[chain].now_ms
            tip = self.tip(chain)
            if tip is not None:
                if chain == MAIN_CHAIN:
                    self._follow(tip)
                self.machine.on_transactions(tip, taken)
                self.machine.on_finalized(chain, tip, self.now_ms)
                self.perform()

    def _follow(self, tip: FinalizedTip) -> None:
        update = make_epoch_update(tip.state, tip.block.header, tip.certificate)
        if update is not None and is_handover(update):
            self.updates.append(update)
            self.machine.on_epochs([update])

    def settle(self, num_steps: int = 30) -> None:
        """Steps of time, with a block on each chain that has a reason for one, as engines do."""
        for _ in range(num_steps):
            self.pass_ms(LINGER)
            for chain in sorted(set(self.chains) - self.away):
                timer_ms = self.chains[chain].app.next_timer()
                if self.pool[chain] or (timer_ms is not None and timer_ms <= self.now_ms):
                    self.mine(chain)

    def _advance(self, chain: ChainId) -> None:
        self.chains[chain].now_ms = self.now_ms

    # What devices and observers do.

    def update(
        self,
        sender: SecretKey,
        payload: bytes | None = None,
        *,
        signature: bytes | None = None,
        chain: ChainId = SHARD_0,
        **changes: object,
    ) -> Update:
        """A device's signed update for the open round; `changes` come before the signature."""
        round_ = self.chains[chain].round
        update = Update(
            round=round_.number,
            base=round_.base,
            device=sender.device,
            num_examples=NumExamples(10),
            signature=Signature(bytes(64)),
            payload=make_payload(own_seed(sender, round_)) if payload is None else payload,
        )
        update = replace(update, **changes)  # type: ignore[arg-type]
        claim = update_claim(update, chain)
        honest = sender.sign(update_message(self.cast.network, claim))
        return replace(update, signature=Signature(signature or honest))

    def publish(self, update: Update, *, topic: str | None = None) -> None:
        """An update as it arrives."""
        self.send(topic or self.topics.update(update.device), encode_record(update))

    def publish_all(self, devices: Sequence[SecretKey] | None = None) -> list[Update]:
        """An honest update of every device."""
        updates = [self.update(device) for device in devices or self.devices]
        for update in updates:
            self.publish(update)
        return updates

    def receipts(self, device: SecretKey, *, stage: Stage = Stage.INTAKE) -> list[Receipt]:
        """What a device was answered, in order."""
        found: list[Receipt] = []
        for publish in self.published:
            topic = parse_topic(publish.topic)
            if topic.kind != "receipt" or topic.device != device.device:
                continue
            signed = decode_receipt(publish.payload)
            verify_receipt(signed, network=self.cast.network, verifier=DirectVerifier())
            assert not publish.retain
            if signed.receipt.stage is stage:
                found.append(signed.receipt)
        return found

    def reasons(self, device: SecretKey, *, stage: Stage = Stage.INTAKE) -> list[ReasonCode]:
        return [receipt.reason for receipt in self.receipts(device, stage=stage)]

    def bodies(self, kind: type, *, chain: ChainId | None = None) -> list[SignedTransaction]:
        """The transactions of a kind that were submitted, whatever became of them."""
        return [
            signed
            for where, signed, _ in self.submitted
            if isinstance(signed.transaction.body, kind) and chain in {None, where}
        ]
