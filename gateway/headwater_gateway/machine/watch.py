"""Watching the delegates: what convicts one is submitted to the main chain.

The watch reads the blocks of the chains that its gateway hosts, what the engines saw signed twice,
and transactions that a ledger refused. It judges evidence as the main chain does before it submits
any, so that it never pays for what would be refused, and it forgets what was punished.

It remembers the last rounds only. After a restart it knows nothing of the blocks before: some other
gateway will have seen them, and the audit finds what nobody saw.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from headwater_gateway.machine.effects import CheckScores, Refutation
from headwater_gateway.machine.publisher import FinalizedTip
from headwater_protocol.chain.evidence import (
    CometEquivocation,
    DoubleAttestation,
    Equivocation,
    Evidence,
    ProvenEntry,
    RefutedScore,
    WithheldPayload,
    WrongAttestation,
)
from headwater_protocol.chain.genesis import Genesis, genesis_network
from headwater_protocol.chain.justice import SubmitEvidence
from headwater_protocol.chain.round import RoundPhase
from headwater_protocol.chain.transaction import (
    AttestMerge,
    AttestModel,
    PostScores,
    Transaction,
    decode_transaction,
)
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.errors import InvalidMessage
from headwater_protocol.identifiers import (
    AccountId,
    ChainId,
    Digest,
    Height,
    RoundNumber,
    ValidatorId,
)
from headwater_protocol.messages.announcement import round_key, task_key
from headwater_protocol.reasons import ReasonCode
from headwater_shard.mainchain.justice.conviction import Court
from headwater_shard.mainchain.justice.records import EVIDENCE, charge_key
from headwater_shard.mainchain.justice.submit import require_punishable
from headwater_shard.shardchain.records import BATCHES, ROUNDS, TASKS, batch_key
from headwater_shard.state.draft import Draft
from headwater_shard.state.state import State

MAX_WATCHED_PLACES: Final = 64
"""Rounds, and merges, of which attestations are remembered."""

MAX_PENDING: Final = 256
"""Pieces of evidence that wait to be punished; the oldest makes room."""

TICKET: Final = "main/evidence/"

Place = tuple[ChainId, str, int, int]
"""A chain, the kind of attestation, the round or epoch that it is about, and for a merge the
attempt."""


class Watch:
    """One gateway's eye on the delegates of its chains."""

    def __init__(self, *, genesis: Genesis, main: State, verifier: Verifier) -> None:
        self._network = genesis_network(genesis)
        self._parameters = genesis.parameters
        self._verifier = verifier
        self._main = main
        self._main_height = Height(0)
        self._attestations: dict[Place, dict[AccountId, bytes]] = {}
        self._pending: dict[Digest, Evidence] = {}
        self._unproven: dict[Place, list[bytes]] = {}
        self.num_found = 0
        """Pieces of evidence that convicted, each offence once."""

    def on_equivocation(self, equivocation: Equivocation | CometEquivocation) -> None:
        """An engine saw a validator sign twice."""
        self._accuse(equivocation)

    def on_withheld(self, evidence: WithheldPayload) -> None:
        """More than two thirds of a committee say that a payload is withheld."""
        self._accuse(evidence)

    def on_transactions(
        self, tip: FinalizedTip, transactions: Sequence[bytes]
    ) -> Iterator[CheckScores]:
        """Take the transactions of a chain's new blocks, `tip` being the last of them."""
        for data in transactions:
            try:
                transaction = decode_transaction(data).transaction
            except InvalidMessage:
                continue
            if isinstance(transaction.body, PostScores):
                yield from self._check_scores(tip.state, transaction, data, transaction.body)
            else:
                self.on_transaction(data, transaction)

    def on_transaction(self, data: bytes, transaction: Transaction | None = None) -> None:
        """Take a transaction that a delegate signed, even if its ledger refused it."""
        if transaction is None:
            try:
                transaction = decode_transaction(data).transaction
            except InvalidMessage:
                return
        body = transaction.body
        if isinstance(body, AttestModel):
            place = (transaction.chain, body.KIND, int(body.round), 0)
            self._unproven.setdefault(place, []).append(data)
        elif isinstance(body, AttestMerge):
            place = (transaction.chain, body.KIND, int(body.epoch), int(body.attempt))
        else:
            return
        known = self._attestations.setdefault(place, {})
        first = known.setdefault(transaction.sender, data)
        if first != data:
            self._accuse(DoubleAttestation(first=first, second=data))
        for remembered in (self._attestations, self._unproven):
            while len(remembered) > MAX_WATCHED_PLACES:
                del remembered[next(iter(remembered))]

    def on_shard(self, shard: ChainId, tip: FinalizedTip) -> None:
        """Compare what was attested with what the rounds closed on."""
        for place in [place for place in self._unproven if place[0] == shard]:
            number = RoundNumber(place[2])
            round_ = tip.state.get(ROUNDS, round_key(number))
            if round_ is None or round_.phase is not RoundPhase.CLOSED:
                continue
            attestations = self._unproven.pop(place)
            if round_.model == round_.base:
                continue
            entry = _prove(tip, ROUNDS.namespace, round_key(number))
            for data in attestations:
                body = decode_transaction(data).transaction.body
                is_wrong = isinstance(body, AttestModel) and body.model != round_.model
                if is_wrong and entry is not None:
                    self._accuse(WrongAttestation(attestation=data, round=entry))

    def on_main(self, tip: FinalizedTip) -> None:
        """Forget what the main chain has punished."""
        self._main, self._main_height = tip.state, tip.block.header.height
        for key in [key for key in self._pending if self._main.get(EVIDENCE, key) is not None]:
            del self._pending[key]

    def on_refused(self, ticket: str, reason: ReasonCode) -> None:
        """The main chain refused evidence; it does so for good unless it was busy."""
        if reason is not ReasonCode.BUSY and ticket.startswith(TICKET):
            self._pending.pop(Digest(bytes.fromhex(ticket.removeprefix(TICKET))), None)

    def on_checked(self, tip: FinalizedTip, work: CheckScores, refuted: Refutation | None) -> None:
        """A delegate's scores were recomputed; None where they hold."""
        if refuted is None:
            return
        entry = _prove(tip, BATCHES.namespace, batch_key(work.round, work.batch))
        if entry is None:
            return
        self._accuse(
            RefutedScore(
                scores=work.scores,
                batch=entry,
                position=refuted.position,
                reference=refuted.reference,
                payload=refuted.payload,
            )
        )

    def due(self) -> Iterator[tuple[str, SubmitEvidence]]:
        """Evidence that the main chain has not punished, each under a ticket that names it."""
        for key, evidence in self._pending.items():
            yield TICKET + key.hex(), SubmitEvidence(evidence=evidence)

    def _check_scores(
        self, state: State, transaction: Transaction, data: bytes, body: PostScores
    ) -> Iterator[CheckScores]:
        batch = state.get(BATCHES, batch_key(body.round, body.batch))
        task = state.get(TASKS, task_key(body.task))
        if batch is not None and task is not None:
            yield CheckScores(
                shard=transaction.chain,
                round=body.round,
                batch=body.batch,
                task=task,
                scores=data,
                validator=ValidatorId(transaction.sender),
                reference=body.reference,
                commits=batch.commits,
            )

    def _accuse(self, evidence: Evidence) -> None:
        """Keep what the main chain would punish now."""
        court = Court(
            draft=Draft(self._main),
            network=self._network,
            height=Height(self._main_height + 1),
            verifier=self._verifier,
        )
        try:
            charge = require_punishable(self._parameters, court, evidence).charge
        except InvalidMessage:
            return
        key = charge_key(charge)
        self.num_found += key not in self._pending
        self._pending.setdefault(key, evidence)
        while len(self._pending) > MAX_PENDING:
            del self._pending[next(iter(self._pending))]


def _prove(tip: FinalizedTip, namespace: str, key: bytes) -> ProvenEntry | None:
    value = tip.state.get_encoded(namespace, key)
    if value is None:
        return None
    return ProvenEntry(
        header=tip.block.header,
        certificate=tip.certificate,
        proof=tip.state.prove(namespace, key),
        value=value,
    )
