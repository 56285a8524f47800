"""Punishing: the slash, the reporter's share, what is burned, and jail or tombstone."""

from dataclasses import replace

from headwater_protocol.chain.genesis import Parameters
from headwater_protocol.chain.justice import PENALTIES, REPORTER_THOUSANDTHS
from headwater_protocol.identifiers import AccountId, Height, Units
from headwater_shard.mainchain.justice.records import EVIDENCE, Charge, Infraction, charge_key
from headwater_shard.mainchain.records import CANDIDATES
from headwater_shard.mainchain.staking.pool import burn
from headwater_shard.mainchain.staking.slash import get_own_stake, slash_pool
from headwater_shard.mainchain.transfer import credit
from headwater_shard.state.draft import Draft


def punish(
    draft: Draft,
    parameters: Parameters,
    charge: Charge,
    *,
    infraction_height: Height,
    height: Height,
    reporter: AccountId | None,
) -> None:
    """Apply the penalty of a proven charge, and record it.

    Args:
        draft: Of the block; holds the candidate.
        parameters: The network's.
        charge: Proven, and not punished before.
        infraction_height: From which stake answers for it.
        height: The block's.
        reporter: Who gets a share; None burns it all.
    """
    penalty = PENALTIES[charge.offence]
    own = get_own_stake(draft, charge.validator)
    slashed = slash_pool(draft, charge.validator, penalty.slash_thousandths, infraction_height)
    lost = max(0, own - get_own_stake(draft, charge.validator))
    rewarded = 0 if reporter is None else min(slashed, lost) * REPORTER_THOUSANDTHS // 1_000
    if reporter is not None and rewarded:
        credit(draft, reporter, rewarded)
    burn(draft, slashed - rewarded)
    candidate = draft.get_existing(CANDIDATES, charge.validator)
    jailed_until = Height(max(candidate.jailed_until, height + parameters.jail_blocks))
    draft.put(
        CANDIDATES,
        charge.validator,
        replace(
            candidate,
            jailed_until=jailed_until,
            is_tombstoned=candidate.is_tombstoned or penalty.is_final,
        ),
    )
    draft.put(
        EVIDENCE,
        charge_key(charge),
        Infraction(
            charge=charge,
            height=height,
            infraction_height=infraction_height,
            slashed=Units(slashed),
            rewarded=Units(rewarded),
            reporter=reporter,
        ),
    )
