"""Builders: keys, a genesis and ledgers that tests drive block by block."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from headwater_protocol.chain.block import (
    NO_DIGEST,
    Block,
    BlockHeader,
    Certificate,
    Vote,
    VoteKind,
    VoteSignature,
    certificate_digest,
    header_digest,
    transactions_root,
    vote_message,
)
from headwater_protocol.chain.claim import Commit, UpdateClaim, update_message
from headwater_protocol.chain.committee import committee_digest
from headwater_protocol.chain.genesis import (
    Genesis,
    GenesisAccount,
    GenesisValidator,
    Parameters,
    genesis_network,
)
from headwater_protocol.chain.round import Round
from headwater_protocol.chain.task import Codec, OptimizerKind, Task, Training
from headwater_protocol.chain.transaction import (
    Body,
    EnrolDevice,
    Enrolment,
    Transaction,
    sign_transaction,
)
from headwater_protocol.crypto.hashing import Domain, blob_digest, hash_bytes
from headwater_protocol.crypto.signing import DirectVerifier, SecretKey
from headwater_protocol.identifiers import (
    AccountId,
    ChainId,
    Digest,
    Height,
    Network,
    Nonce,
    NumExamples,
    RoundNumber,
    Score,
    Signature,
    TaskId,
    TimeMs,
    Units,
    ValidatorId,
    View,
    VotingPower,
)
from headwater_protocol.messages.announcement import round_key
from headwater_protocol.model.rule import AggregationRule
from headwater_shard.application import LedgerApplication, make_ledger
from headwater_shard.engine.bft.validation import outcomes_root
from headwater_shard.engine.border import BlockContext, Execution
from headwater_shard.shardchain.records import ROUNDS, SHARD, SHARD_KEY
from headwater_shard.state.state import State
from tests.support.abci_chain import ENGINES, VARIABLE, AbciLedger

GENESIS_MS = TimeMs(1_700_000_000_000)


def key(name: str) -> SecretKey:
    """The key of a named test person."""
    return SecretKey(hash_bytes(Domain.SEED, name.encode()))


def make_task(**changes: object) -> Task:
    """A task over 10 parameters in 2 tensors."""
    task = Task(
        task=TaskId("test"),
        program=blob_digest(b"program"),
        tensor_sizes=(6, 4),
        fraction_bits=20,
        initial_model=blob_digest(b"model"),
        training=Training(
            optimizer=OptimizerKind.SGD,
            learning_rate_millionths=100_000,
            momentum_thousandths=0,
            proximal_millionths=0,
            clip_norm_thousandths=0,
            local_epochs=1,
            max_steps=10,
            batch_size=16,
        ),
        codec=Codec(bits=8, keep_thousandths=1_000),
        rule=AggregationRule(),
        max_examples=NumExamples(1_000),
        score_threshold=Score(0),
        reputation_thousandths=0,
        rounds=4,
        cohort_size=1_000,
        min_updates=1,
        collect_ms=1_000,
        score_ms=1_000,
        attest_ms=1_000,
        round_budget=Units(1_000),
        delegate_thousandths=200,
    )
    return replace(task, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Cast:
    """A genesis and the keys behind it."""

    genesis: Genesis
    validators: dict[ChainId, tuple[SecretKey, ...]]
    registrar: SecretKey
    sponsor: SecretKey
    candidates: tuple[SecretKey, ...] = ()
    """Who may be elected besides the genesis' validators."""

    @property
    def keys(self) -> dict[ValidatorId, SecretKey]:
        return {entry.validator: entry for entry in (*self.all_validators, *self.candidates)}

    @property
    def network(self) -> Network:
        return genesis_network(self.genesis)

    @property
    def all_validators(self) -> tuple[SecretKey, ...]:
        return tuple(entry for shard in sorted(self.validators) for entry in self.validators[shard])


def make_cast(
    *,
    shards: Sequence[str] = ("shard-0",),
    validators_per_shard: int = 4,
    stakes: Sequence[int] = (),
    task: Task | None = None,
    parameters: Parameters | None = None,
    balances: Iterable[tuple[str, int]] = (),
    candidates: Sequence[str] = (),
) -> Cast:
    """A network of named keys; each validator has stake 100 unless `stakes` says otherwise."""
    task = task or make_task()
    keys = {
        ChainId(shard): tuple(key(f"{shard}/{index}") for index in range(validators_per_shard))
        for shard in shards
    }
    sponsor, registrar = key("sponsor"), key("registrar")
    budget = task.round_budget * task.rounds * len(shards)
    accounts = {sponsor.account: budget + 1_000}
    for name, balance in balances:
        accounts[key(name).account] = balance
    entries = [
        GenesisValidator(
            validator=entry.validator,
            stake=VotingPower(stakes[index] if stakes else 100),
            shard=shard,
        )
        for shard, row in keys.items()
        for index, entry in enumerate(row)
    ]
    genesis = Genesis(
        name="test",
        time_ms=GENESIS_MS,
        parameters=parameters
        or Parameters(
            checkpoint_interval=2,
            checkpoints_per_epoch=1,
            merge_wait_ms=500,
            epoch_timeout_ms=60_000,
            retention_rounds=3,
            clock_drift_ms=1_000,
        ),
        accounts=tuple(
            GenesisAccount(account=AccountId(account), balance=Units(balance))
            for account, balance in sorted(accounts.items())
        ),
        validators=tuple(sorted(entries, key=lambda entry: entry.validator)),
        shards=tuple(sorted(keys)),
        registrars=(registrar.account,),
        sponsor=sponsor.account,
        task=task,
    )
    genesis.require_consistent()
    return Cast(
        genesis=genesis,
        validators=keys,
        registrar=registrar,
        sponsor=sponsor,
        candidates=tuple(key(name) for name in candidates),
    )


@dataclass
class Chain:
    """One ledger that a test drives: every block is certified by the whole committee."""

    cast: Cast
    chain: ChainId
    now_ms: int = GENESIS_MS
    app: LedgerApplication = field(init=False)
    abci: AbciLedger | None = field(init=False)
    blocks: list[tuple[Block, Certificate]] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    """After each of the blocks."""
    nonce: int = 0

    def __post_init__(self) -> None:
        self.app = LedgerApplication(make_ledger(self.cast.genesis, self.chain), DirectVerifier())
        self.abci = (
            AbciLedger(self.cast.genesis, self.app)
            if os.environ.get(VARIABLE, ENGINES[0]) == ENGINES[1]
            else None
        )

    def sign(self, sender: SecretKey, body: Body, **changes: object) -> bytes:
        """A signed transaction with the next nonce; `changes` spoil it."""
        self.nonce += 1
        transaction = Transaction(
            network=self.cast.network,
            chain=self.chain,
            sender=sender.account,
            nonce=Nonce(self.nonce),
            body=body,
        )
        return sign_transaction(sender, replace(transaction, **changes))  # type: ignore[arg-type]

    def block(self, *transactions: bytes, after_ms: int = 10) -> Execution:
        """Execute, certify and commit a block."""
        self.now_ms += after_ms
        last = self.blocks[-1] if self.blocks else None
        committee = self.app.committee
        by_key = self.cast.keys
        proposer = committee.delegates[self.app.height % len(committee.delegates)].validator
        context = BlockContext(
            height=Height(self.app.height + 1),
            time_ms=TimeMs(self.now_ms),
            proposer=proposer,
            previous=header_digest(last[0].header) if last else NO_DIGEST,
            last_certificate=last[1] if last else None,
            transactions=transactions,
        )
        execution = self.app.finalize_block(context)
        header = BlockHeader(
            network=self.cast.network,
            chain=self.chain,
            height=context.height,
            time_ms=context.time_ms,
            previous=context.previous,
            last_certificate=certificate_digest(context.last_certificate),
            transactions_root=transactions_root(transactions),
            outcomes_root=outcomes_root(execution.outcomes),
            state_root=execution.state_root,
            committee=committee_digest(committee),
            next_committee=committee_digest(execution.next_committee),
            proposer=proposer,
        )
        certificate = certify(
            header, [by_key[delegate.validator] for delegate in committee.delegates]
        )
        if self.abci is None:
            self.app.commit(context)
        else:
            self.abci.finalize(context, execution)
        self.states.append(self.app.state)
        self.blocks.append(
            (
                Block(
                    header=header,
                    transactions=transactions,
                    last_certificate=context.last_certificate,
                ),
                certificate,
            )
        )
        return execution

    def enrol(self, *devices: SecretKey) -> Execution:
        """Put devices on the ledger."""
        return self.block(*(self.sign(self.cast.registrar, self.enrolment(d)) for d in devices))

    def enrolment(self, device: SecretKey) -> EnrolDevice:
        """A registrar's word for a device."""
        enrolment = Enrolment(
            shard=self.chain,
            device=device.device,
            weight=1,
            expires_ms=TimeMs(self.now_ms + 3_600_000),
        )
        return EnrolDevice(
            enrolment=enrolment,
            registrar=self.cast.registrar.account,
            signature=self.cast.registrar.sign_record(
                Domain.ENROLMENT, self.cast.network, enrolment
            ),
        )

    @property
    def round(self) -> Round:
        """The open round, or the last one."""
        shard = self.app.state.get(SHARD, SHARD_KEY)
        assert shard is not None
        round_ = self.app.state.get(ROUNDS, round_key(shard.last_round))
        assert round_ is not None
        return round_

    def commit(
        self, device: SecretKey, payload: bytes | Digest | None = None, num_examples: int = 10
    ) -> Commit:
        """A device's signed commit for the open round; by default of a payload of its own."""
        if payload is None:
            payload = b"payload of %s in round %d" % (device.device, self.round.number)
        digest = payload if len(payload) == 32 else blob_digest(payload)
        claim = UpdateClaim(
            shard=self.chain,
            round=self.round.number,
            base=self.round.base,
            device=device.device,
            payload=Digest(digest),
            num_examples=NumExamples(num_examples),
        )
        return Commit(
            device=device.device,
            payload=Digest(digest),
            num_examples=NumExamples(num_examples),
            signature=device.sign(update_message(self.cast.network, claim)),
        )


def certify(header: BlockHeader, keys: Iterable[SecretKey], *, view: int = 0) -> Certificate:
    """The certificate of these signers."""
    vote = Vote(
        kind=VoteKind.PRECOMMIT,
        chain=header.chain,
        height=header.height,
        view=View(view),
        block=header_digest(header),
    )
    message = vote_message(header.network, vote)
    signatures = [
        VoteSignature(validator=entry.validator, signature=entry.sign(message)) for entry in keys
    ]
    return Certificate(
        chain=header.chain,
        height=header.height,
        view=View(view),
        block=header_digest(header),
        signatures=tuple(sorted(signatures, key=lambda entry: entry.validator)),
    )


__all__ = [
    "Cast",
    "Chain",
    "RoundNumber",
    "Signature",
    "ValidatorId",
    "certify",
    "key",
    "make_cast",
    "make_task",
]
