"""Drawing a round's cohort: who may be drawn, with which weights, and what a draw costs.

A device that is quarantined or revoked is not drawn. Where the fleet is no larger than the cohort
everybody takes part, nobody is owed anything by it, and the clock stands still.
"""

from dataclasses import replace

from headwater_protocol.chain.cohort import advance_clock, advance_mark, compute_draw_weight
from headwater_protocol.chain.device import Device
from headwater_protocol.chain.round import TOP_RANK, Round, compute_rank
from headwater_protocol.identifiers import DeviceId, Digest, RoundNumber
from headwater_shard.shardchain.records import DEVICES
from headwater_shard.state.draft import Draft


def is_quarantined(device: Device, number: RoundNumber) -> bool:
    """Whether a device is left out of round `number`."""
    return device.quarantined_until >= number


def is_drawn(device: Device, round_: Round) -> bool:
    """Whether an enrolled device is in the cohort of `round_`.

    One that was enrolled after the round opened is not: whoever enrols could choose its key to suit
    the seed.
    """
    if round_.rank_threshold == TOP_RANK:
        return device.enrolled_height <= round_.opened_height
    return device.drawn_round == round_.number


def list_eligible(draft: Draft, number: RoundNumber, clock: int) -> list[tuple[DeviceId, int]]:
    """The devices that may be drawn for round `number`, with their weights in the draw."""
    return [
        (DeviceId(key), compute_draw_weight(device.standing, clock))
        for key, device in draft.items(DEVICES)
        if not device.is_revoked and not is_quarantined(device, number)
    ]


def take_draw(
    draft: Draft,
    eligible: list[tuple[DeviceId, int]],
    *,
    number: RoundNumber,
    seed: Digest,
    rank_threshold: Digest,
    clock: int,
) -> int:
    """Write down who was drawn; the clock after the draw."""
    if rank_threshold == TOP_RANK:
        return clock
    threshold = int.from_bytes(rank_threshold, "big")
    total_weight, count = 0, 0
    for device_id, weight in eligible:
        device = draft.get_existing(DEVICES, device_id)
        total_weight += device.standing.weight
        if compute_rank(seed, device_id, weight) <= threshold:
            count += 1
            mark = advance_mark(device.standing, clock)
            draft.put(DEVICES, device_id, replace(device, mark=mark, drawn_round=number))
    return advance_clock(clock, cohort_size=count, total_weight=total_weight)
