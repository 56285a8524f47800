"""Deposits of devices: locked here, judged on the shard, settled with a proof of its penalties.

The main chain holds the units and the shard its cumulative penalties; neither has to ask the other
while a task runs. The registrar that enrols a device has looked here and signs what it found. A
deposit cannot be taken back before the shard has settled its final checkpoint, whose proof says
what it cost; penalties can be taken earlier, and are burned: nobody gains by judging harshly.
"""

from dataclasses import replace

from headwater_protocol.chain.account import PenaltyBalance
from headwater_protocol.chain.market import LockDeposit, SettleDeposit
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.identifiers import AccountId, Units
from headwater_protocol.reasons import ReasonCode
from headwater_shard.mainchain.market.claims import get_settled, verify_entry
from headwater_shard.mainchain.market.records import (
    CLAIMS,
    DEPOSITS,
    Claim,
    Deposit,
    penalty_claim_key,
)
from headwater_shard.mainchain.records import SHARDS, shard_key
from headwater_shard.mainchain.staking.pool import burn
from headwater_shard.mainchain.transfer import credit, debit
from headwater_shard.shardchain.records import PENALTIES
from headwater_shard.state.draft import Draft
from headwater_shard.transition import InvalidTransaction


def process_lock(draft: Draft, body: LockDeposit, sender: AccountId) -> None:
    """Lock units behind a device; more can be added by the same owner.

    Raises:
        InvalidTransaction: If the amount is 0, the shard is unknown or finished, the device has a
            deposit of another owner or shard, or the sender does not hold the amount.
    """
    if body.amount == 0:
        raise InvalidTransaction(ReasonCode.OUT_OF_BOUNDS, "a deposit of nothing")
    entry = draft.get(SHARDS, shard_key(body.shard))
    if entry is None:
        raise InvalidTransaction(ReasonCode.WRONG_SHARD, f"shard {body.shard} is not registered")
    if entry.is_final:
        raise InvalidTransaction(ReasonCode.WRONG_PHASE, f"the task of {body.shard} is finished")
    known = draft.get(DEPOSITS, body.device)
    if known is not None and known.owner != sender:
        raise InvalidTransaction(ReasonCode.NOT_PERMITTED, "the deposit is of another owner")
    if known is not None and known.shard != body.shard:
        raise InvalidTransaction(ReasonCode.NO_DEPOSIT, f"the deposit is locked for {known.shard}")
    debit(draft, sender, body.amount)
    units = body.amount + (0 if known is None else known.units)
    draft.put(DEPOSITS, body.device, Deposit(owner=sender, shard=body.shard, units=Units(units)))


def process_settle(draft: Draft, body: SettleDeposit) -> None:
    """Burn a device's proven penalties; after the shard's final checkpoint, return the rest.

    Raises:
        InvalidMessage: If there is no deposit, the checkpoint is not settled, the penalty is not
            proven, or there is nothing to take and nothing to return yet.
    """
    deposit = draft.get(DEPOSITS, body.device)
    if deposit is None:
        raise InvalidTransaction(ReasonCode.NO_DEPOSIT, f"{body.device.hex()[:16]} has no deposit")
    checkpoint = get_settled(draft, deposit.shard, body.checkpoint)
    verify_entry(
        checkpoint,
        namespace_roots=body.namespace_roots,
        namespace=PENALTIES.namespace,
        key=body.device,
        value=encode_record(PenaltyBalance(total=body.penalty)) if body.penalty else None,
        proof=body.proof,
    )
    entry = draft.get_existing(SHARDS, shard_key(deposit.shard))
    key = penalty_claim_key(deposit.shard, body.device)
    taken = draft.get(CLAIMS, key)
    fresh = max(0, body.penalty - (0 if taken is None else taken.total))
    ends = entry.is_final and checkpoint.number == entry.number
    if fresh == 0 and not ends:
        raise InvalidTransaction(ReasonCode.DUPLICATE, "all of it was taken before")
    due = min(fresh, deposit.units)
    if fresh:
        draft.put(CLAIMS, key, Claim(total=body.penalty))
        burn(draft, due)
    if ends:
        draft.delete(DEPOSITS, body.device)
        if deposit.units > due:
            credit(draft, deposit.owner, deposit.units - due)
    else:
        draft.put(DEPOSITS, body.device, replace(deposit, units=Units(deposit.units - due)))
