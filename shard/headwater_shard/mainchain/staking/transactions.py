"""What accounts do with stake: bond, delegate, move it, take it back.

A fault can come to light long after it was committed, so stake that leaves a candidate stays within
reach for the unbonding period: what is taken back waits as an unbonding, and what moved to another
candidate carries an entry by which the first one's faults still reach it. Such stake cannot move on
before its entry matures, or one could run faster than evidence.
"""

from dataclasses import replace

from headwater_protocol.chain.genesis import Parameters
from headwater_protocol.chain.stake import (
    Bond,
    DelegateStake,
    RedelegateStake,
    SetCommission,
    StakeBody,
    UndelegateStake,
    WithdrawStake,
)
from headwater_protocol.identifiers import AccountId, Height, Units, ValidatorId
from headwater_protocol.reasons import ReasonCode
from headwater_shard.mainchain.records import (
    CANDIDATES,
    MAX_ENTRIES,
    REDELEGATIONS,
    UNBONDINGS,
    Candidate,
    Redelegation,
    RedelegationEntry,
    Unbonding,
    UnbondingEntry,
    stake_key,
)
from headwater_shard.mainchain.staking.pool import (
    add_stake,
    remove_stake,
    require_candidate,
    require_open_pool,
)
from headwater_shard.mainchain.transfer import credit, debit
from headwater_shard.state.draft import Draft
from headwater_shard.transition import InvalidTransaction


def process_stake(
    draft: Draft, parameters: Parameters, body: StakeBody, sender: AccountId, height: Height
) -> None:
    """Execute one transaction about stake.

    Raises:
        InvalidTransaction: If it breaks a rule; each has a reason of its own.
    """
    if isinstance(body, Bond):
        process_bond(draft, parameters, body, sender)
    elif isinstance(body, SetCommission):
        process_commission(draft, body, ValidatorId(sender))
    elif isinstance(body, DelegateStake):
        process_delegation(draft, body, sender)
    elif isinstance(body, UndelegateStake):
        process_undelegation(draft, parameters, body, sender, height)
    elif isinstance(body, RedelegateStake):
        process_redelegation(draft, parameters, body, sender, height)
    else:
        process_withdrawal(draft, body, sender, height)


def process_bond(draft: Draft, parameters: Parameters, body: Bond, sender: AccountId) -> None:
    """Make the sender a candidate, or again one after all its stake has left.

    Raises:
        InvalidTransaction: If it is one, was excluded for good, or bonds too little or more than
            it has.
    """
    validator = ValidatorId(sender)
    known = draft.get(CANDIDATES, validator)
    if known is not None:
        require_open_pool(draft, validator)
        if known.shares:
            raise InvalidTransaction(
                ReasonCode.DUPLICATE, f"{sender.hex()[:16]} is a candidate already"
            )
    if body.amount < parameters.min_self_bond:
        raise InvalidTransaction(
            ReasonCode.LOW_BOND, f"{body.amount} units, at least {parameters.min_self_bond}"
        )
    debit(draft, sender, body.amount)
    draft.put(
        CANDIDATES,
        validator,
        Candidate(
            commission_thousandths=body.commission_thousandths,
            bonded=0,
            shares=0,
            jailed_until=Height(0),
            is_tombstoned=False,
        )
        if known is None
        else replace(known, commission_thousandths=body.commission_thousandths),
    )
    add_stake(draft, sender, validator, body.amount)


def process_commission(draft: Draft, body: SetCommission, sender: ValidatorId) -> None:
    """Change a candidate's commission.

    Raises:
        InvalidTransaction: If the sender is no candidate, was excluded for good, or has that
            commission.
    """
    candidate = require_open_pool(draft, sender)
    if candidate.commission_thousandths == body.commission_thousandths:
        raise InvalidTransaction(
            ReasonCode.DUPLICATE, f"the commission is {body.commission_thousandths} already"
        )
    draft.put(
        CANDIDATES,
        sender,
        replace(candidate, commission_thousandths=body.commission_thousandths),
    )


def process_delegation(draft: Draft, body: DelegateStake, sender: AccountId) -> None:
    """Move units from the sender's balance to a candidate's pool.

    Raises:
        InvalidTransaction: If the amount is 0, the sender does not hold it, or the pool does not
            take it.
    """
    _require_amount(body.amount)
    require_open_pool(draft, body.validator)
    debit(draft, sender, body.amount)
    add_stake(draft, sender, body.validator, body.amount)


def process_undelegation(
    draft: Draft, parameters: Parameters, body: UndelegateStake, sender: AccountId, height: Height
) -> None:
    """Take units out of a pool; they wait for the unbonding period.

    Raises:
        InvalidTransaction: If the amount is 0 or more than the delegation is worth, or too many
            unbondings wait.
    """
    _require_amount(body.amount)
    remove_stake(draft, sender, body.validator, body.amount)
    key = stake_key(sender, body.validator)
    unbonding = draft.get(UNBONDINGS, key)
    entries = () if unbonding is None else unbonding.entries
    if len(entries) == MAX_ENTRIES:
        raise InvalidTransaction(
            ReasonCode.BUSY, f"{MAX_ENTRIES} unbondings wait; withdraw those that matured"
        )
    entry = UnbondingEntry(
        units=body.amount,
        created_height=height,
        completes_height=Height(height + parameters.unbonding_blocks),
    )
    draft.put(UNBONDINGS, key, Unbonding(entries=(*entries, entry)))


def process_redelegation(
    draft: Draft, parameters: Parameters, body: RedelegateStake, sender: AccountId, height: Height
) -> None:
    """Move units from one pool to another, at once.

    Raises:
        InvalidTransaction: If the amount is 0 or more than the delegation is worth, the two are
            one, stake that came to the first still matures, the second does not take it, or too
            many entries mature.
    """
    _require_amount(body.amount)
    if body.source == body.destination:
        raise InvalidTransaction(ReasonCode.SAME_CANDIDATE, "from a candidate to itself")
    require_candidate(draft, body.source)
    require_open_pool(draft, body.destination)
    if _maturing(draft, sender, body.source, height):
        raise InvalidTransaction(
            ReasonCode.STILL_MATURING, "stake that was redelegated has to mature before it moves on"
        )
    entries = _maturing(draft, sender, body.destination, height)
    if len(entries) == MAX_ENTRIES:
        raise InvalidTransaction(ReasonCode.BUSY, f"{MAX_ENTRIES} redelegations mature")
    remove_stake(draft, sender, body.source, body.amount)
    add_stake(draft, sender, body.destination, body.amount)
    entry = RedelegationEntry(
        source=body.source,
        units=body.amount,
        created_height=height,
        completes_height=Height(height + parameters.unbonding_blocks),
    )
    draft.put(
        REDELEGATIONS,
        stake_key(sender, body.destination),
        Redelegation(entries=(*entries, entry)),
    )


def process_withdrawal(
    draft: Draft, body: WithdrawStake, sender: AccountId, height: Height
) -> None:
    """Pay out the unbondings that matured; at most `MAX_ENTRIES` of them.

    Each account does this for itself, so that no block ever has to walk all that wait.

    Raises:
        InvalidTransaction: If there are none.
    """
    key = stake_key(sender, body.validator)
    unbonding = draft.get(UNBONDINGS, key)
    entries = () if unbonding is None else unbonding.entries
    matured = [entry for entry in entries if entry.completes_height <= height]
    if not matured:
        raise InvalidTransaction(
            ReasonCode.NOTHING_MATURED,
            f"{len(entries)} unbondings from {body.validator.hex()[:16]}, none has matured",
        )
    waiting = tuple(entry for entry in entries if entry.completes_height > height)
    if waiting:
        draft.put(UNBONDINGS, key, Unbonding(entries=waiting))
    else:
        draft.delete(UNBONDINGS, key)
    credit(draft, sender, Units(sum(entry.units for entry in matured)))


def _maturing(
    draft: Draft, delegator: AccountId, destination: ValidatorId, height: Height
) -> tuple[RedelegationEntry, ...]:
    redelegation = draft.get(REDELEGATIONS, stake_key(delegator, destination))
    entries = () if redelegation is None else redelegation.entries
    return tuple(entry for entry in entries if entry.completes_height > height)


def _require_amount(amount: Units) -> None:
    if amount == 0:
        raise InvalidTransaction(ReasonCode.OUT_OF_BOUNDS, "an amount of nothing")
