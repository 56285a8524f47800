"""Several gateways over the same ledgers, each with blobs of its own; time is a number.

Every block is certified by the whole committee but for those that are silent. What gateways fetch
from each other and store with each other happens at once, unless somebody withholds or a link is
cut; a cut link drops what goes over it, and a slow gateway answers only after a while.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from headwater_gateway.machine.effects import (
    CheckScores,
    ComputeMerge,
    ComputeRoundModel,
    Effect,
    FetchBlob,
    Publish,
    ScoreBatch,
    ShareStatement,
    Submit,
    TakeIn,
    TidyBlobs,
    Waiting,
)
from headwater_gateway.machine.fetches import list_needs
from headwater_gateway.machine.gateway import Desk, GatewayMachine
from headwater_gateway.machine.metrics import Metrics
from headwater_gateway.machine.publisher import FinalizedTip
from headwater_gateway.worker import check_updates, compute_merge, compute_model
from headwater_protocol.chain.claim import update_message
from headwater_protocol.chain.evidence import WithheldPayload
from headwater_protocol.chain.genesis import Parameters
from headwater_protocol.chain.task import Task
from headwater_protocol.chain.transaction import (
    UNAVAILABLE,
    Body,
    SignedTransaction,
    decode_transaction,
)
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.crypto.signing import DirectVerifier, SecretKey
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.identifiers import (
    MAIN_CHAIN,
    ChainId,
    Digest,
    NumExamples,
    Signature,
    ValidatorId,
)
from headwater_protocol.light.update import EpochUpdate
from headwater_protocol.messages.topics import Topics
from headwater_protocol.messages.update import Update, update_claim
from headwater_protocol.reasons import ReasonCode
from headwater_shard.mainchain.staking.handover import is_handover, make_epoch_update
from headwater_shard.placement import list_holders
from tests.support.gateway_support import (
    BASE,
    LINGER,
    PROGRAM,
    SHARD_0,
    device_keys,
    gateway_task,
    make_payload,
    make_scored,
    own_seed,
)
from tests.support.network import Cast, Chain, certify, make_cast
from tests.support.web import MemoryShelf


@dataclass
class Node:
    """One gateway."""

    index: int
    keys: Sequence[SecretKey]
    machine: GatewayMachine
    shelf: MemoryShelf
    withholds: bool = False
    """Serves no payload and stores none with others."""
    slow_ms: int = 0
    """Until what it is asked for arrives."""
    fetched: list[Digest] = field(default_factory=list)
    tidied: list[TidyBlobs] = field(default_factory=list)


class Gateways:
    """The gateways of one network, with one delegate each."""

    def __init__(
        self,
        *,
        num_gateways: int = 4,
        num_devices: int = 2,
        task: Task | None = None,
        parameters: Parameters | None = None,
        replicates: bool = True,
    ) -> None:
        self.cast: Cast = make_cast(
            validators_per_shard=num_gateways, task=task or gateway_task(), parameters=parameters
        )
        self.chains = {chain: Chain(self.cast, chain) for chain in (MAIN_CHAIN, SHARD_0)}
        self.now_ms = self.chains[MAIN_CHAIN].now_ms
        self.devices = device_keys(num_devices)
        self.chains[SHARD_0].enrol(*self.devices)
        self.now_ms = self.chains[SHARD_0].now_ms
        self.pool: dict[ChainId, list[bytes]] = {chain: [] for chain in self.chains}
        self.submitted: list[tuple[int, SignedTransaction, ReasonCode]] = []
        self.cut: set[frozenset[int]] = set()
        """Pairs of gateways that do not hear each other."""
        self.silent: set[ValidatorId] = set()
        """Who signs no certificate."""
        self.replicates = replicates
        self.updates: list[EpochUpdate] = []
        self.statements: list[tuple[int, WithheldPayload]] = []
        """Who said that something is withheld."""
        self._later: list[tuple[int, Node, FetchBlob, bool]] = []
        self.nodes = [
            Node(
                index=index,
                keys=[key],
                machine=self._make_machine([key]),
                shelf=MemoryShelf({blob_digest(data): data for data in (BASE, PROGRAM)}),
            )
            for index, key in enumerate(self.cast.validators[SHARD_0])
        ]
        for node in self.nodes:
            tips = {chain: tip for chain in self.chains if (tip := self.tip(chain)) is not None}
            node.machine.start(tips, self.now_ms)
        self.perform()

    def _make_machine(self, keys: Sequence[SecretKey]) -> GatewayMachine:
        return GatewayMachine(
            genesis=self.cast.genesis,
            desks=[Desk(shard=SHARD_0, keys=keys)],
            states={chain: self.chains[chain].app.state for chain in self.chains},
            metrics=Metrics(),
            keeps_blobs=True,
        )

    @property
    def shard(self) -> Chain:
        return self.chains[SHARD_0]

    @property
    def main(self) -> Chain:
        return self.chains[MAIN_CHAIN]

    def tip(self, chain: ChainId) -> FinalizedTip | None:
        driven = self.chains[chain]
        if not driven.blocks:
            return None
        block, certificate = driven.blocks[-1]
        if self.silent:
            keys = [
                self.cast.keys[entry.validator]
                for entry in certificate.signatures
                if entry.validator not in self.silent
            ]
            certificate = certify(block.header, keys)
        return FinalizedTip(block=block, certificate=certificate, state=driven.app.state)

    def bodies(self, kind: type, *, node: int | None = None) -> list[SignedTransaction]:
        """What was submitted and taken."""
        return [
            signed
            for index, signed, reason in self.submitted
            if isinstance(signed.transaction.body, kind)
            and node in {None, index}
            and reason is ReasonCode.OK
        ]

    # What shells do.

    def perform(self) -> None:
        busy = True
        while busy:
            busy = False
            for node in self.nodes:
                for effect in node.machine.effects():
                    busy = True
                    self._perform_one(node, effect)

    def _perform_one(self, node: Node, effect: Effect) -> None:
        machine, now_ms, shelf = node.machine, self.now_ms, node.shelf
        if isinstance(effect, Submit):
            self._submit(node, effect)
        elif isinstance(effect, TidyBlobs):
            node.tidied.append(effect)
        elif isinstance(effect, FetchBlob):
            self._fetch(node, effect)
        elif isinstance(effect, ShareStatement):
            self.statements.append((node.index, effect.evidence))
            for other in self.nodes:
                if other is not node and self.hears(node, other):
                    other.machine.on_statement(effect.evidence, now_ms)
        elif isinstance(effect, TakeIn):
            reasons = check_updates(effect, verifier=DirectVerifier(), blobs=shelf)
            if self.replicates and not node.withholds:
                self._replicate(node, effect)
            machine.on_taken_in(effect, reasons, now_ms)
        elif isinstance(effect, ScoreBatch | ComputeRoundModel | ComputeMerge | CheckScores):
            missing = tuple(blob for blob in list_needs(effect) if blob not in shelf)
            if missing:
                machine.on_missing(effect, missing, now_ms)
            else:
                self._work(node, effect)
        elif not isinstance(effect, Publish):
            self._other(node, effect)

    def _other(self, node: Node, effect: Effect) -> None:
        """What is nobody's business here, such as publishing models."""

    def _work(self, node: Node, work: Waiting) -> None:
        machine, now_ms, shelf = node.machine, self.now_ms, node.shelf
        if isinstance(work, ScoreBatch):
            scores = tuple(
                UNAVAILABLE if commit.payload in work.given_up else 5_000 for commit in work.commits
            )
            machine.on_scored(work, make_scored(scores), now_ms)
        elif isinstance(work, ComputeRoundModel):
            machine.on_round_model(work, compute_model(work, blobs=shelf), now_ms)
        elif isinstance(work, ComputeMerge):
            machine.on_merge_model(work, compute_merge(work, blobs=shelf), now_ms)

    def _node_of(self, validator: ValidatorId) -> Node:
        return next(n for n in self.nodes if any(k.validator == validator for k in n.keys))

    def hears(self, one: Node, other: Node) -> bool:
        return frozenset((one.index, other.index)) not in self.cut

    def _fetch(self, node: Node, effect: FetchBlob) -> None:
        node.fetched.append(effect.blob)
        if effect.blob in node.shelf:
            node.machine.on_fetched(effect.blob, self.now_ms, is_here=True)
            return
        sources = [self._node_of(holder) for holder in effect.holders]
        willing = [
            source
            for source in sources
            if self.hears(node, source)
            and effect.blob in source.shelf
            and not (source.withholds and effect.blob in self._payloads())
        ]
        wait_ms = min((source.slow_ms for source in willing), default=0)
        if wait_ms:
            self._later.append((self.now_ms + wait_ms, node, effect, True))
        else:
            self._arrive(node, effect, is_here=bool(willing))

    def _arrive(self, node: Node, effect: FetchBlob, *, is_here: bool) -> None:
        if is_here:
            data = next(n.shelf.blobs[effect.blob] for n in self.nodes if effect.blob in n.shelf)
            node.shelf.put(data)
        node.machine.on_fetched(effect.blob, self.now_ms, is_here=is_here)

    def _payloads(self) -> set[Digest]:
        return {blob for node in self.nodes for blob in node.shelf.blobs} - {
            blob_digest(BASE),
            blob_digest(PROGRAM),
        }

    def _replicate(self, node: Node, work: TakeIn) -> None:
        assert work.committee is not None
        for check in work.updates:
            for holder in list_holders(check.payload, work.committee):
                other = self._node_of(holder)
                if self.hears(node, other):
                    other.shelf.put(check.update.payload)

    def _submit(self, node: Node, submit: Submit) -> None:
        signed = decode_transaction(submit.transaction)
        reason = self.chains[submit.chain].app.check_tx(submit.transaction)
        self.submitted.append((node.index, signed, reason))
        if reason is ReasonCode.OK:
            self.pool[submit.chain].append(submit.transaction)
        node.machine.on_submitted(submit, reason, self.now_ms)

    def pass_ms(self, duration_ms: int) -> None:
        """Let time pass, calling each timer whenever it is due."""
        until_ms = self.now_ms + duration_ms
        for _ in range(10_000):
            times = [at for node in self.nodes if (at := node.machine.next_timer()) is not None]
            times += [at for at, *_ in self._later]
            at = min(times, default=None)
            if at is None or at > until_ms:
                self.now_ms = until_ms
                return
            self.now_ms = max(self.now_ms, at)
            due = [entry for entry in self._later if entry[0] <= self.now_ms]
            self._later = [entry for entry in self._later if entry[0] > self.now_ms]
            for _, node, effect, is_here in due:
                self._arrive(node, effect, is_here=is_here)
            for node in self.nodes:
                timer = node.machine.next_timer()
                if timer is not None and timer <= self.now_ms:
                    node.machine.on_timer(self.now_ms)
            self.perform()
        raise AssertionError("a timer stands still")

    def mine(self, chain: ChainId) -> None:
        """A block of what waits; every machine is told."""
        driven = self.chains[chain]
        transactions, self.pool[chain] = self.pool[chain], []
        driven.now_ms = self.now_ms
        taken = driven.app.prepare_proposal(
            transactions,
            time_ms=driven.now_ms + 10,  # type: ignore[arg-type]
            max_bytes=8_000_000,
        )
        driven.block(*taken)
        self.now_ms = driven.now_ms
        tip = self.tip(chain)
        assert tip is not None
        if chain == MAIN_CHAIN:
            update = make_epoch_update(tip.state, tip.block.header, tip.certificate)
            if update is not None and is_handover(update):
                self.updates.append(update)
                for node in self.nodes:
                    node.machine.on_epochs([update])
        for node in self.nodes:
            node.machine.on_transactions(tip, taken)
            node.machine.on_finalized(chain, tip, self.now_ms)
        self.perform()

    def settle(self, num_steps: int = 30, *, step_ms: int = LINGER) -> None:
        """Steps of time, with a block on each chain that has a reason for one."""
        for _ in range(num_steps):
            self.pass_ms(step_ms)
            for chain in sorted(self.chains):
                timer_ms = self.chains[chain].app.next_timer()
                if self.pool[chain] or (timer_ms is not None and timer_ms <= self.now_ms):
                    self.mine(chain)

    # What devices do.

    def publish_all(self, node: int = 0) -> list[Digest]:
        """An honest update of every device, which only one gateway hears; the payloads."""
        payloads: list[Digest] = []
        topics = Topics(self.cast.network, SHARD_0)
        for device in self.devices:
            round_ = self.shard.round
            payload = make_payload(own_seed(device, round_))
            update = Update(
                round=round_.number,
                base=round_.base,
                device=device.device,
                num_examples=NumExamples(10),
                signature=Signature(bytes(64)),
                payload=payload,
            )
            message = update_message(self.cast.network, update_claim(update, SHARD_0))
            data = encode_record(
                Update(
                    round=update.round,
                    base=update.base,
                    device=update.device,
                    num_examples=update.num_examples,
                    signature=device.sign(message),
                    payload=payload,
                )
            )
            self.nodes[node].machine.receive(topics.update(device.device), data, self.now_ms)
            payloads.append(blob_digest(payload))
        self.perform()
        return payloads


__all__ = ["Body", "Gateways", "Node"]
