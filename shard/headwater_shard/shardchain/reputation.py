"""What a verdict does to a device: its reputation, strikes, quarantine and deposit.

Each refusal by the committee is a strike and each accepted update takes one away, so that chance
refusals of an honest device never add up. At the limit the device is quarantined for some rounds
and comes back one strike short of it: if it goes on as before, the next refusal quarantines it
again, and from the second time on costs part of its deposit. Reputation is the decayed mean of the
scores and recovers with every better one.
"""

from dataclasses import replace

from headwater_protocol.chain.account import PenaltyBalance
from headwater_protocol.chain.incentives import Incentives
from headwater_protocol.identifiers import DeviceId, RoundNumber, Units
from headwater_protocol.reasons import ReasonCode
from headwater_shard.shardchain.records import DEVICES, PENALTIES
from headwater_shard.state.draft import Draft

REPUTATION_DECAY: int = 4
"""A new score counts one part in this many."""


def judge_device(
    draft: Draft,
    incentives: Incentives,
    device_id: DeviceId,
    *,
    number: RoundNumber,
    reason: ReasonCode,
    score: int,
) -> None:
    """Take a verdict to a device's record; a payload that nobody could get says nothing of it."""
    if reason is ReasonCode.UNAVAILABLE:
        return
    device = draft.get_existing(DEVICES, device_id)
    is_accepted = reason is ReasonCode.OK
    device = replace(
        device,
        num_accepted=device.num_accepted + is_accepted,
        num_rejected=device.num_rejected + (not is_accepted),
        reputation=device.reputation + (score - device.reputation) // REPUTATION_DECAY,
        strikes=max(0, device.strikes - 1) if is_accepted else device.strikes + 1,
    )
    limit = incentives.quarantine_strikes
    if not is_accepted and 0 < limit <= device.strikes:
        if device.num_quarantines:
            _penalize(draft, device_id, compute_penalty(device.deposit, incentives), device.deposit)
        device = replace(
            device,
            strikes=limit - 1,
            num_quarantines=device.num_quarantines + 1,
            quarantined_until=RoundNumber(number + incentives.quarantine_rounds),
        )
    draft.put(DEVICES, device_id, device)


def compute_penalty(deposit: int, incentives: Incentives) -> int:
    """What a repeated quarantine costs, rounded up: a small deposit is not out of reach."""
    return -(-deposit * incentives.penalty_thousandths // 1_000)


def _penalize(draft: Draft, device_id: DeviceId, penalty: int, deposit: int) -> None:
    known = draft.get(PENALTIES, device_id)
    total = min(deposit, penalty + (0 if known is None else known.total))
    if total:
        draft.put(PENALTIES, device_id, PenaltyBalance(total=Units(total)))
