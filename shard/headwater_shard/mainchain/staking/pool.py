"""The pool of stake behind one candidate, divided into shares.

A delegation holds shares; rewards and penalties change what all of them are worth at once, whoever
and however many the delegators are. What a division leaves stays in the pool, so no unit is lost.

Cosmos SDK, `x/staking`, "Delegator shares".
"""

from dataclasses import replace

from headwater_protocol.chain.stake import MAX_BONDED
from headwater_protocol.identifiers import MAX_UNSIGNED, AccountId, Units, ValidatorId
from headwater_protocol.reasons import ReasonCode
from headwater_shard.mainchain.records import (
    CANDIDATES,
    DELEGATIONS,
    MAIN,
    MAIN_KEY,
    Candidate,
    Delegation,
    stake_key,
)
from headwater_shard.mainchain.transfer import credit
from headwater_shard.state.draft import Draft
from headwater_shard.state.state import State
from headwater_shard.transition import InvalidTransaction


def compute_worth(candidate: Candidate, shares: int) -> int:
    """Units that `shares` of the pool stand for, rounded down."""
    return shares * candidate.bonded // candidate.shares if candidate.shares else 0


def get_worth(state: Draft | State, delegator: AccountId, validator: ValidatorId) -> int:
    """Units that an account has with a candidate; 0 where it has none."""
    candidate = state.get(CANDIDATES, validator)
    delegation = state.get(DELEGATIONS, stake_key(delegator, validator))
    if candidate is None or delegation is None:
        return 0
    return compute_worth(candidate, delegation.shares)


def require_candidate(draft: Draft, validator: ValidatorId) -> Candidate:
    """The candidate, for whatever may be done with it even after a fault.

    Raises:
        InvalidTransaction: If there is none.
    """
    candidate = draft.get(CANDIDATES, validator)
    if candidate is None:
        raise InvalidTransaction(
            ReasonCode.UNKNOWN_CANDIDATE, f"{validator.hex()[:16]} is no candidate"
        )
    return candidate


def require_open_pool(draft: Draft, validator: ValidatorId) -> Candidate:
    """The candidate, if it may be given stake.

    Raises:
        InvalidTransaction: If there is none, or it is never elected again.
    """
    candidate = require_candidate(draft, validator)
    if candidate.is_tombstoned:
        raise InvalidTransaction(
            ReasonCode.TOMBSTONED, f"{validator.hex()[:16]} is never elected again"
        )
    return candidate


def add_stake(draft: Draft, delegator: AccountId, validator: ValidatorId, units: int) -> None:
    """Buy shares of a pool with units that the caller has taken from elsewhere.

    Raises:
        InvalidTransaction: If the pool takes no stake or no more, or `units` do not buy shares of
            about their worth.
    """
    candidate = require_open_pool(draft, validator)
    if candidate.shares and not candidate.bonded:
        raise InvalidTransaction(ReasonCode.OUT_OF_BOUNDS, "the pool was slashed to nothing")
    bought = units * candidate.shares // candidate.bonded if candidate.shares else units
    grown = replace(candidate, bonded=candidate.bonded + units, shares=candidate.shares + bought)
    if grown.bonded > MAX_BONDED or grown.shares > MAX_UNSIGNED:
        raise InvalidTransaction(
            ReasonCode.OUT_OF_BOUNDS, f"the pool holds {candidate.bonded} of {MAX_BONDED} units"
        )
    # Where a share is worth many units, a small amount would mostly go to the others.
    if bought == 0 or units - compute_worth(grown, bought) > units // 100 + 1:
        raise InvalidTransaction(
            ReasonCode.OUT_OF_BOUNDS, f"{units} units buy {bought} shares, which are worth less"
        )
    key = stake_key(delegator, validator)
    delegation = draft.get(DELEGATIONS, key)
    held = 0 if delegation is None else delegation.shares
    draft.put(CANDIDATES, validator, grown)
    draft.put(DELEGATIONS, key, Delegation(shares=held + bought))


def remove_stake(draft: Draft, delegator: AccountId, validator: ValidatorId, units: int) -> None:
    """Take units out of a pool; the caller puts them elsewhere.

    Raises:
        InvalidTransaction: If there is no such candidate or delegation, it is worth less, or what
            would be left of it is less than a share.
    """
    candidate = require_candidate(draft, validator)
    key = stake_key(delegator, validator)
    delegation = draft.get(DELEGATIONS, key)
    if delegation is None:
        raise InvalidTransaction(
            ReasonCode.UNKNOWN_DELEGATION,
            f"{delegator.hex()[:16]} has nothing with {validator.hex()[:16]}",
        )
    worth = compute_worth(candidate, delegation.shares)
    if units > worth:
        raise InvalidTransaction(
            ReasonCode.INSUFFICIENT_STAKE, f"the delegation is worth {worth} units, not {units}"
        )
    sold = _shares_for(candidate, units)
    if units == worth:
        sold = delegation.shares
    elif sold >= delegation.shares:
        raise InvalidTransaction(
            ReasonCode.INSUFFICIENT_STAKE,
            f"{units} units leave less than a share: take all {worth}",
        )
    _sell(draft, key, validator, candidate, delegation, sold=sold, units=units)


def seize_stake(draft: Draft, delegator: AccountId, validator: ValidatorId, units: int) -> int:
    """Take up to `units` of one delegation, for a fault of another candidate.

    Returns:
        Units taken; the caller puts them elsewhere.
    """
    candidate = draft.get(CANDIDATES, validator)
    key = stake_key(delegator, validator)
    delegation = draft.get(DELEGATIONS, key)
    if candidate is None or delegation is None:
        return 0
    worth = compute_worth(candidate, delegation.shares)
    taken = min(units, worth)
    if taken == 0:
        return 0
    sold = delegation.shares
    if taken < worth:
        sold = min(sold, _shares_for(candidate, taken))
    if sold == candidate.shares:
        taken = candidate.bonded  # Without shares nobody could ever claim the rest.
    _sell(draft, key, validator, candidate, delegation, sold=sold, units=taken)
    return taken


def credit_delegate(draft: Draft, validator: ValidatorId, units: int) -> None:
    """Pay a delegate's reward: the commission to its account, the rest to its pool.

    All delegators earn by it, because a share is worth more afterwards. Where there is no pool, or
    it is full, the account gets everything.
    """
    candidate = draft.get(CANDIDATES, validator)
    for_pool = 0
    if candidate is not None and candidate.shares:
        commission = units * candidate.commission_thousandths // 1_000
        for_pool = min(units - commission, MAX_BONDED - candidate.bonded)
        draft.put(CANDIDATES, validator, replace(candidate, bonded=candidate.bonded + for_pool))
    if units > for_pool:
        credit(draft, AccountId(validator), units - for_pool)


def burn(draft: Draft, units: int) -> None:
    """Count units that were taken and go to nobody."""
    main = draft.get_existing(MAIN, MAIN_KEY)
    draft.put(MAIN, MAIN_KEY, replace(main, burned=Units(main.burned + units)))


def _shares_for(candidate: Candidate, units: int) -> int:
    """The fewest shares that are worth `units`."""
    return -(-units * candidate.shares // candidate.bonded)


def _sell(
    draft: Draft,
    key: bytes,
    validator: ValidatorId,
    candidate: Candidate,
    delegation: Delegation,
    *,
    sold: int,
    units: int,
) -> None:
    draft.put(
        CANDIDATES,
        validator,
        replace(candidate, bonded=candidate.bonded - units, shares=candidate.shares - sold),
    )
    if sold == delegation.shares:
        draft.delete(DELEGATIONS, key)
    else:
        draft.put(DELEGATIONS, key, Delegation(shares=delegation.shares - sold))
