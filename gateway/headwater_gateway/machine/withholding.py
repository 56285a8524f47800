"""Payloads that their gateway put on the ledger and does not serve: asking again, and saying so.

Whoever commits a batch says that it stores the payloads. When a round closes and the committee's
verdict on an update is that nobody could get it, the delegates that lack the payload ask for it
again for `PATIENCE_MS`. If it still does not come while its gateway votes, so that it is not merely
cut off, they sign a statement and tell each other; with more than two thirds of the committee it is
evidence. A gateway that was slow, or away with its votes as well, is never accused.

Statements are sent again as long as the round is on the ledger: a peer may have been away.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from headwater_gateway.machine.effects import ShareStatement
from headwater_gateway.machine.publisher import FinalizedTip
from headwater_protocol.chain.block import VoteSignature
from headwater_protocol.chain.committee import Committee, committee_digest
from headwater_protocol.chain.evidence import PayloadWithheld, WithheldPayload, withheld_message
from headwater_protocol.chain.round import Round, RoundPhase
from headwater_protocol.crypto.signing import SecretKey, Verifier
from headwater_protocol.identifiers import (
    ChainId,
    Digest,
    Network,
    RoundNumber,
    Signature,
    ValidatorId,
)
from headwater_protocol.messages.announcement import round_key
from headwater_protocol.reasons import ReasonCode
from headwater_shard.shardchain.adoption import get_committee
from headwater_shard.shardchain.records import (
    BATCHES,
    ROUNDS,
    SHARD,
    SHARD_KEY,
    UPDATES,
    batch_key,
    update_key,
)
from headwater_shard.state.state import State

PATIENCE_MS: Final = 60_000
"""After a round closed, how long a payload may take that its gateway said to have."""

MIN_ASKED: Final = 5
"""Times, each at all holders, that nobody served it in that time."""

SHARE_AGAIN_MS: Final = 30_000

MAX_INQUIRIES: Final = 256
"""Payloads that are asked for at a time; what else is missing then is not inquired into."""

MAX_PAYLOADS_OF_A_BATCH: Final = 4
"""Inquired into: one of them convicts."""

MAX_STATEMENTS: Final = 1_024
"""About which signatures are kept; the oldest makes room."""


@dataclass(slots=True)
class _Inquiry:
    """A payload that could not be had, from the close of its round on."""

    statement: PayloadWithheld
    committee: Committee
    since_ms: int
    asked: int = 0
    """Times that nobody served it."""
    has_voted: bool = False
    """Whether its gateway's vote is in a block after the round's close."""
    share_ms: int | None = None
    """When the statement is sent again; None before it is signed."""


@dataclass(slots=True)
class _Case:
    committee: Committee
    signatures: dict[ValidatorId, Signature] = field(default_factory=dict)


class Withholding:
    """What one gateway knows of payloads that are withheld."""

    def __init__(self, *, network: Network, keys: Sequence[SecretKey], verifier: Verifier) -> None:
        """Start with no suspicion.

        Args:
            network: Part of what is signed.
            keys: Of the delegates hosted here; those of a round's committee sign.
            verifier: Checks what others say.
        """
        self._network = network
        self._keys = tuple(keys)
        self._own = {key.validator for key in keys}
        self._verifier = verifier
        self._inquiries: dict[Digest, _Inquiry] = {}
        self._cases: dict[PayloadWithheld, _Case] = {}
        self._looked: dict[ChainId, RoundNumber] = {}

    def on_shard(self, shard: ChainId, tip: FinalizedTip, now_ms: int) -> tuple[Digest, ...]:
        """Follow a shard; the payloads that are to be asked for from now on."""
        voters = {entry.validator for entry in tip.certificate.signatures}
        for payload, inquiry in list(self._inquiries.items()):
            statement = inquiry.statement
            if statement.shard != shard:
                continue
            if tip.state.get(BATCHES, batch_key(statement.round, statement.batch)) is None:
                del self._inquiries[payload]
                continue
            is_after = tip.block.header.height > statement.height
            inquiry.has_voted = is_after and statement.gateway in voters
        record = tip.state.get(SHARD, SHARD_KEY)
        if record is None:
            return ()
        started: list[Digest] = []
        # After a start nobody remembers what was asked before; the last round is looked at.
        looked = self._looked.setdefault(shard, RoundNumber(max(0, record.last_round - 1)))
        for number in range(looked + 1, record.last_round + 1):
            round_ = tip.state.get(ROUNDS, round_key(RoundNumber(number)))
            if round_ is None or round_.phase is not RoundPhase.CLOSED:
                break
            self._looked[shard] = round_.number
            for statement, committee in _list_unavailable(tip.state, shard, round_):
                is_full = len(self._inquiries) >= MAX_INQUIRIES
                if statement.gateway in self._own or is_full:
                    continue
                self._inquiries[statement.payload] = _Inquiry(statement, committee, now_ms)
                started.append(statement.payload)
        return tuple(started)

    def on_fetched(self, blob: Digest, *, is_here: bool) -> None:
        """A payload came after all, or once more nobody served it."""
        if is_here:
            self._inquiries.pop(blob, None)
        elif blob in self._inquiries:
            self._inquiries[blob].asked += 1

    def next_timer(self) -> int | None:
        """When a statement may be due."""
        times = [
            inquiry.since_ms + PATIENCE_MS if inquiry.share_ms is None else inquiry.share_ms
            for inquiry in self._inquiries.values()
            if inquiry.share_ms is not None or self._may_sign(inquiry)
        ]
        return min(times, default=None)

    def on_timer(self, now_ms: int) -> Iterator[ShareStatement]:
        """Sign what is due, and say again what was signed."""
        for inquiry in self._inquiries.values():
            if inquiry.share_ms is None:
                if now_ms < inquiry.since_ms + PATIENCE_MS or not self._may_sign(inquiry):
                    continue
            elif now_ms < inquiry.share_ms:
                continue
            inquiry.share_ms = now_ms + SHARE_AGAIN_MS
            message = withheld_message(self._network, inquiry.statement)
            for key in self._keys:
                if inquiry.committee.power_of(key.validator) == 0:
                    continue
                signature = VoteSignature(validator=key.validator, signature=key.sign(message))
                self._keep(inquiry.statement, inquiry.committee, signature)
                yield ShareStatement(
                    evidence=WithheldPayload(statement=inquiry.statement, signatures=(signature,))
                )

    def on_statement(self, said: WithheldPayload, states: dict[ChainId, State]) -> None:
        """Take what other delegates say; whatever it is, nothing is raised.

        It counts if it is about an update on a ledger here that closed as unavailable, so there
        are no more statements than such updates.
        """
        statement = said.statement
        state = states.get(statement.shard)
        round_ = None if state is None else state.get(ROUNDS, round_key(statement.round))
        if state is None or round_ is None or round_.phase is not RoundPhase.CLOSED:
            return
        committee = next(
            (
                committee
                for known, committee in _list_unavailable(state, statement.shard, round_)
                if known == statement
            ),
            None,
        )
        if committee is None:
            return
        message = withheld_message(self._network, statement)
        for entry in said.signatures:
            case = self._cases.get(statement)
            if committee.power_of(entry.validator) == 0 or (
                case is not None and entry.validator in case.signatures
            ):
                continue
            if self._verifier.verify(entry.validator, message, entry.signature):
                self._keep(statement, committee, entry)

    def evidence(self) -> Iterator[WithheldPayload]:
        """What more than two thirds of a committee have said."""
        for statement, case in self._cases.items():
            if case.committee.is_quorum(case.committee.power_of_all(case.signatures)):
                yield WithheldPayload(
                    statement=statement,
                    signatures=tuple(
                        VoteSignature(validator=validator, signature=case.signatures[validator])
                        for validator in sorted(case.signatures)
                    ),
                )

    def forget(self, statement: PayloadWithheld) -> None:
        """It is in the hands of the watch."""
        self._cases.pop(statement, None)

    def _may_sign(self, inquiry: _Inquiry) -> bool:
        return inquiry.asked >= MIN_ASKED and inquiry.has_voted

    def _keep(
        self, statement: PayloadWithheld, committee: Committee, signature: VoteSignature
    ) -> None:
        case = self._cases.setdefault(statement, _Case(committee))
        case.signatures[signature.validator] = signature.signature
        while len(self._cases) > MAX_STATEMENTS:
            del self._cases[next(iter(self._cases))]


def _list_unavailable(
    state: State, shard: ChainId, round_: Round
) -> Iterator[tuple[PayloadWithheld, Committee]]:
    """What there is to say about a closed round, and the committee that may say it."""
    committee = get_committee(state, shard, round_.epoch)
    for index in range(round_.num_batches):
        batch = state.get(BATCHES, batch_key(round_.number, index))
        num_found = 0
        for commit in () if batch is None else batch.commits:
            entry = state.get(UPDATES, update_key(round_.number, commit.device))
            if batch is None or entry is None or entry.reason is not ReasonCode.UNAVAILABLE:
                continue
            if num_found == MAX_PAYLOADS_OF_A_BATCH:
                break
            num_found += 1
            statement = PayloadWithheld(
                shard=shard,
                committee=committee_digest(committee),
                height=round_.closed_height,
                round=round_.number,
                batch=index,
                payload=commit.payload,
                gateway=batch.gateway,
            )
            yield statement, committee
