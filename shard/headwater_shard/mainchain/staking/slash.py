"""Slashing: a fault costs all stake that stood behind it the same share.

That is what is bonded, what has left since the fault and still waits, and what has moved to other
candidates since. Evidence must be younger than the unbonding period; then everything that left
after the fault is still within reach.

A penalty looks at the key of every unbonding and the sources of every redelegation, 0.2 s for
100,000 of each. Offences are rare and each is punished once, while an index by candidate would be a
second record to write and to prove for every delegator who moves.
"""

from dataclasses import replace

from headwater_protocol.identifiers import AccountId, Height, Units, ValidatorId
from headwater_shard.mainchain.records import (
    CANDIDATES,
    REDELEGATIONS,
    UNBONDINGS,
    Unbonding,
    UnbondingEntry,
    stake_key,
)
from headwater_shard.mainchain.staking.pool import get_worth, seize_stake
from headwater_shard.state.draft import Draft

ACCOUNT_BYTES = 32


def slash_pool(
    draft: Draft, validator: ValidatorId, thousandths: int, infraction_height: Height
) -> int:
    """Take a share of all stake that stood behind `validator` at a fault.

    Args:
        draft: Changed.
        validator: Whose fault it is.
        thousandths: The share, 0 to 1000.
        infraction_height: Of the main chain; stake that left before it is not touched.

    Returns:
        Units taken; the caller burns them or gives them to a reporter.
    """
    if not 0 <= thousandths <= 1_000:
        raise ValueError(f"a share of {thousandths} thousandths")
    taken = 0
    candidate = draft.get(CANDIDATES, validator)
    if candidate is not None:
        taken = candidate.bonded * thousandths // 1_000
        draft.put(CANDIDATES, validator, replace(candidate, bonded=candidate.bonded - taken))
    taken += _slash_redelegations(draft, validator, thousandths, infraction_height)
    return taken + _slash_unbondings(draft, validator, thousandths, infraction_height)


def get_own_stake(draft: Draft, validator: ValidatorId) -> int:
    """Units of a validator's own that a fault of its can reach, wherever they are."""
    account = AccountId(validator)
    places = {validator}
    for key, redelegation in draft.items(REDELEGATIONS):
        if key[:ACCOUNT_BYTES] == account and any(
            entry.source == validator for entry in redelegation.entries
        ):
            places.add(ValidatorId(key[ACCOUNT_BYTES:]))
    own = 0
    for place in sorted(places):
        unbonding = draft.get(UNBONDINGS, stake_key(account, place))
        own += get_worth(draft, account, place)
        own += 0 if unbonding is None else sum(entry.units for entry in unbonding.entries)
    return own


def _slash_redelegations(
    draft: Draft, source: ValidatorId, thousandths: int, infraction_height: Height
) -> int:
    taken = 0
    # What is left of a pool depends on who was asked first, so those concerned are put in order.
    concerned = {
        key: redelegation
        for key, redelegation in draft.items(REDELEGATIONS)
        if any(entry.source == source for entry in redelegation.entries)
    }
    for key in sorted(concerned):
        redelegation, delegator = concerned[key], AccountId(key[:ACCOUNT_BYTES])
        destination = ValidatorId(key[ACCOUNT_BYTES:])
        for entry in redelegation.entries:
            if entry.source != source or entry.created_height < infraction_height:
                continue
            due = entry.units * thousandths // 1_000
            seized = seize_stake(draft, delegator, destination, due)
            # What has left the destination since waits there, for it cannot have moved on.
            if seized < due:
                seized += _seize_unbonding(
                    draft, delegator, destination, due - seized, entry.created_height
                )
            taken += seized
    return taken


def _slash_unbondings(
    draft: Draft, validator: ValidatorId, thousandths: int, infraction_height: Height
) -> int:
    taken = 0
    behind = [entry for entry in draft.items(UNBONDINGS) if entry[0][ACCOUNT_BYTES:] == validator]
    for key, unbonding in behind:
        entries: list[UnbondingEntry] = []
        for entry in unbonding.entries:
            is_hit = entry.created_height >= infraction_height
            due = entry.units * thousandths // 1_000 if is_hit else 0
            entries.append(replace(entry, units=Units(entry.units - due)))
            taken += due
        draft.put(UNBONDINGS, key, Unbonding(entries=tuple(entries)))
    return taken


def _seize_unbonding(
    draft: Draft, delegator: AccountId, validator: ValidatorId, units: int, since: Height
) -> int:
    """Take up to `units` of what an account has waiting since a height."""
    key = stake_key(delegator, validator)
    unbonding = draft.get(UNBONDINGS, key)
    if unbonding is None:
        return 0
    taken = 0
    entries: list[UnbondingEntry] = []
    for entry in unbonding.entries:
        due = min(entry.units, units - taken) if entry.created_height >= since else 0
        entries.append(replace(entry, units=Units(entry.units - due)))
        taken += due
    draft.put(UNBONDINGS, key, Unbonding(entries=tuple(entries)))
    return taken
