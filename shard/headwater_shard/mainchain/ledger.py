"""The main chain's ledger: which transition a transaction is, and what frames a block."""

from headwater_protocol.chain.account import Account
from headwater_protocol.chain.block import NO_DIGEST
from headwater_protocol.chain.committee import Committee
from headwater_protocol.chain.epoch import epoch_key
from headwater_protocol.chain.genesis import Genesis, genesis_network
from headwater_protocol.chain.justice import SubmitEvidence, Unjail
from headwater_protocol.chain.market import MarketBody
from headwater_protocol.chain.stake import StakeBody
from headwater_protocol.chain.transaction import (
    AttestMerge,
    PostCheckpoint,
    SignedTransaction,
    Transfer,
)
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.identifiers import (
    MAIN_CHAIN,
    AccountId,
    ChainId,
    EpochNumber,
    Height,
    Network,
    TimeMs,
    Units,
    ValidatorId,
)
from headwater_protocol.messages.announcement import task_key
from headwater_protocol.reasons import ReasonCode
from headwater_shard.engine.border import BlockContext
from headwater_shard.mainchain.justice.conviction import Court
from headwater_shard.mainchain.justice.downtime import count_downtime
from headwater_shard.mainchain.justice.jail import process_unjail
from headwater_shard.mainchain.justice.submit import process_evidence
from headwater_shard.mainchain.market.dispatch import process_market
from headwater_shard.mainchain.market.records import POTS, TASKS
from headwater_shard.mainchain.market.tasks import make_first_task, make_pot
from headwater_shard.mainchain.merging import (
    advance_merge,
    next_merge_timer,
    process_merge_attestation,
)
from headwater_shard.mainchain.records import (
    ACCOUNTS,
    CANDIDATES,
    DELEGATIONS,
    EPOCHS,
    MAIN,
    MAIN_KEY,
    MAIN_TABLES,
    SHARDS,
    Candidate,
    Delegation,
    MainChain,
    ShardEntry,
    shard_key,
    stake_key,
)
from headwater_shard.mainchain.settlement import process_checkpoint
from headwater_shard.mainchain.staking.election import enter_office, get_elected
from headwater_shard.mainchain.staking.transactions import process_stake
from headwater_shard.mainchain.transfer import process_transfer
from headwater_shard.state.draft import Draft
from headwater_shard.state.state import State
from headwater_shard.transition import InvalidTransaction


class MainLedger:
    """The rules of the main chain."""

    def __init__(self, genesis: Genesis) -> None:
        self._genesis = genesis
        self._network = genesis_network(genesis)

    @property
    def chain(self) -> ChainId:
        """`main`."""
        return MAIN_CHAIN

    @property
    def network(self) -> Network:
        """The digest of the genesis."""
        return self._network

    def genesis_state(self) -> State:
        """The state at height 0: balances less the task's escrow, candidates, shards."""
        genesis, task = self._genesis, self._genesis.task
        balances = {entry.account: entry.balance for entry in genesis.accounts}
        balances[genesis.sponsor] = Units(balances[genesis.sponsor] - genesis.task_budget)
        main = MainChain(
            committee=genesis.committee(MAIN_CHAIN),
            epoch=EpochNumber(0),
            epoch_started_ms=TimeMs(0),
            is_merging=False,
            merge_attempt=0,
            merge_opened_ms=TimeMs(0),
            burned=Units(0),
        )
        return State(MAIN_TABLES).updated(
            {
                MAIN.namespace: {MAIN_KEY: main},
                ACCOUNTS.namespace: {
                    account: Account(balance=balance) for account, balance in balances.items()
                },
                CANDIDATES.namespace: {
                    entry.validator: Candidate(
                        commission_thousandths=genesis.parameters.genesis_commission_thousandths,
                        bonded=entry.stake,
                        shares=entry.stake,
                        jailed_until=Height(0),
                        is_tombstoned=False,
                    )
                    for entry in genesis.validators
                },
                DELEGATIONS.namespace: {
                    stake_key(AccountId(entry.validator), entry.validator): Delegation(
                        shares=entry.stake
                    )
                    for entry in genesis.validators
                },
                EPOCHS.namespace: {epoch_key(EpochNumber(0)): genesis.epoch()},
                SHARDS.namespace: {
                    shard_key(shard): ShardEntry(
                        number=0,
                        last_checkpoint=NO_DIGEST,
                        height=Height(0),
                        epoch=EpochNumber(0),
                        merged=EpochNumber(0),
                        model=task.initial_model,
                        epoch_checkpoints=0,
                        epoch_examples=0,
                        is_final=False,
                    )
                    for shard in genesis.shards
                },
                POTS.namespace: {shard_key(shard): make_pot(task) for shard in genesis.shards},
                TASKS.namespace: {
                    task_key(task.task): make_first_task(task, genesis.sponsor, genesis.shards)
                },
            }
        )

    def begin_block(self, draft: Draft, state: State, context: BlockContext) -> None:
        """Put the delegates in office that the block before elected."""
        enter_office(draft)

    def process_body(
        self, draft: Draft, signed: SignedTransaction, context: BlockContext, verifier: Verifier
    ) -> None:
        """Execute one transaction.

        Raises:
            InvalidMessage: If it breaks a rule.
        """
        body = signed.transaction.body
        sender = signed.transaction.sender
        if isinstance(body, Transfer):
            process_transfer(draft, body, sender)
        elif isinstance(body, PostCheckpoint):
            process_checkpoint(draft, self._network, body, context, verifier)
        elif isinstance(body, AttestMerge):
            process_merge_attestation(draft, body, ValidatorId(sender))
        elif isinstance(body, StakeBody):
            process_stake(draft, self._genesis.parameters, body, sender, context.height)
        elif isinstance(body, MarketBody):
            process_market(draft, body, sender, context)
        elif isinstance(body, SubmitEvidence):
            court = Court(
                draft=draft, network=self._network, height=context.height, verifier=verifier
            )
            process_evidence(draft, self._genesis.parameters, court, body, sender)
        elif isinstance(body, Unjail):
            process_unjail(draft, sender, context)
        else:
            raise InvalidTransaction(
                ReasonCode.WRONG_CHAIN, f"the main chain does not take {type(body).KIND}"
            )

    def end_block(self, draft: Draft, context: BlockContext) -> None:
        """Count missed signatures, then open or complete the merge that ends an epoch."""
        count_downtime(draft, self._genesis.parameters, context)
        advance_merge(draft, self._genesis.parameters, context)

    def committee(self, state: State) -> Committee:
        """Who certifies the block after `state`."""
        return Draft(state).get_existing(MAIN, MAIN_KEY).committee

    def elected_committee(self, state: State) -> Committee | None:
        """Who certifies the block after the next one, where the next one hands over to them."""
        elected = get_elected(state)
        return None if elected is None else elected.committee

    def next_timer(self, state: State) -> int | None:
        """The block time from which an empty block would change `state`."""
        if get_elected(state) is not None:
            return 0
        return next_merge_timer(state, self._genesis.parameters)
