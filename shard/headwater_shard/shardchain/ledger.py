"""A shard's ledger: which transition a transaction is, and what frames a block."""

from headwater_protocol.chain.block import NO_DIGEST
from headwater_protocol.chain.committee import Committee
from headwater_protocol.chain.epoch import epoch_key
from headwater_protocol.chain.genesis import Genesis
from headwater_protocol.chain.transaction import (
    AdoptEpoch,
    AdoptTask,
    AttestModel,
    CommitUpdates,
    DeclareCapability,
    EnrolDevice,
    PostScores,
    RevokeDevice,
    SignCheckpoint,
    SignedTransaction,
)
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.identifiers import (
    ChainId,
    EpochNumber,
    Network,
    RoundNumber,
    Units,
    ValidatorId,
)
from headwater_protocol.messages.announcement import task_key
from headwater_protocol.reasons import ReasonCode
from headwater_shard.engine.border import BlockContext
from headwater_shard.shardchain.adoption import (
    enter_office,
    get_elected_committee,
    process_adoption,
    start_trust,
)
from headwater_shard.shardchain.attest import process_attestation
from headwater_shard.shardchain.capability import process_capability
from headwater_shard.shardchain.checkpoints import (
    emit_due_checkpoint,
    process_checkpoint_signature,
)
from headwater_shard.shardchain.collect import process_commits
from headwater_shard.shardchain.enrolment import process_enrolment, process_revocation
from headwater_shard.shardchain.next_task import process_task
from headwater_shard.shardchain.records import (
    EPOCHS,
    SHARD,
    SHARD_KEY,
    SHARD_TABLES,
    TASKS,
    Shard,
)
from headwater_shard.shardchain.rounds import advance, next_timer
from headwater_shard.shardchain.rules import make_rules
from headwater_shard.shardchain.score import process_scores
from headwater_shard.state.draft import Draft
from headwater_shard.state.state import State
from headwater_shard.transition import InvalidTransaction


class ShardLedger:
    """The rules of one shard."""

    def __init__(self, genesis: Genesis, shard: ChainId) -> None:
        self._genesis = genesis
        self._rules = make_rules(genesis, shard)

    @property
    def chain(self) -> ChainId:
        """The shard's name."""
        return self._rules.shard

    @property
    def network(self) -> Network:
        """The digest of the genesis."""
        return self._rules.network

    def genesis_state(self) -> State:
        """The state at height 0: the task, the committees, no device."""
        genesis, task = self._genesis, self._genesis.task
        shard = Shard(
            shard=self.chain,
            task=task.task,
            task_number=1,
            rounds_before=RoundNumber(0),
            committee=genesis.committee(self.chain),
            epoch=EpochNumber(0),
            adopted=EpochNumber(0),
            adopted_ms=genesis.time_ms,
            merged=EpochNumber(0),
            model=task.initial_model,
            reference=task.initial_model,
            last_round=RoundNumber(0),
            last_closed_ms=genesis.time_ms,
            num_examples=0,
            budget_left=Units(task.round_budget * task.rounds),
            checkpoints=0,
            checkpoints_in_epoch=0,
            last_checkpoint=NO_DIGEST,
            due_checkpoint=None,
            correction=None,
            is_closing=False,
            is_finished=False,
            clock=0,
        )
        return State(SHARD_TABLES).updated(
            {
                SHARD.namespace: {SHARD_KEY: shard},
                EPOCHS.namespace: {epoch_key(EpochNumber(0)): genesis.epoch()},
                TASKS.namespace: {task_key(task.task): task},
            }
        )

    def begin_block(self, draft: Draft, state: State, context: BlockContext) -> None:
        """Put an adopted committee in office, emit the checkpoint that the last block made due."""
        start_trust(draft, context)
        enter_office(draft, state)
        emit_due_checkpoint(draft, state, context)

    def process_body(
        self, draft: Draft, signed: SignedTransaction, context: BlockContext, verifier: Verifier
    ) -> None:
        """Execute one transaction.

        Raises:
            InvalidMessage: If it breaks a rule.
        """
        body = signed.transaction.body
        sender = ValidatorId(signed.transaction.sender)
        if isinstance(body, EnrolDevice):
            process_enrolment(draft, self._rules, body, context, verifier)
        elif isinstance(body, DeclareCapability):
            process_capability(draft, self._rules, body, sender, verifier)
        elif isinstance(body, RevokeDevice):
            process_revocation(draft, self._rules, body, context, verifier)
        elif isinstance(body, CommitUpdates):
            process_commits(draft, self._rules, body, sender, verifier)
        elif isinstance(body, PostScores):
            process_scores(draft, body, sender)
        elif isinstance(body, AttestModel):
            process_attestation(draft, body, sender)
        elif isinstance(body, SignCheckpoint):
            process_checkpoint_signature(draft, self._rules, body, sender, verifier)
        elif isinstance(body, AdoptEpoch):
            process_adoption(draft, self._rules, body, context, verifier)
        elif isinstance(body, AdoptTask):
            process_task(draft, self._rules, body, context, verifier)
        else:
            raise InvalidTransaction(
                ReasonCode.WRONG_CHAIN, f"a shard does not take {type(body).KIND}"
            )

    def end_block(self, draft: Draft, context: BlockContext) -> None:
        """Move the round on."""
        advance(draft, self._rules, context)

    def committee(self, state: State) -> Committee:
        """Who certifies the block after `state`."""
        return Draft(state).get_existing(SHARD, SHARD_KEY).committee

    def elected_committee(self, state: State) -> Committee | None:
        """Who certifies the block after the next one, where the next one hands over to them."""
        return get_elected_committee(state)

    def next_timer(self, state: State) -> int | None:
        """The block time from which an empty block would change `state`."""
        return next_timer(state, self._rules)
