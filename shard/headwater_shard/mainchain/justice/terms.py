"""When something happened on a shard, in epochs and heights of the main chain.

A shard's blocks do not name heights of the main chain, but its checkpoints name the epoch whose
committee signed them, and they are settled in order. So the checkpoints around a height, or around
a round, bound the epoch. Where they differ, stake answers from the start of the earlier one:
whoever backed the committee of that epoch backed what it did.

A delegate has its power from an election to the next one, whatever leaves its pool in between. So
all stake that was there when it was elected answers for what it does in office, on every chain.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from headwater_protocol.chain.checkpoint import Checkpoint
from headwater_protocol.chain.committee import Committee, committee_digest
from headwater_protocol.chain.epoch import Epoch, epoch_key
from headwater_protocol.identifiers import (
    ChainId,
    Digest,
    EpochNumber,
    Height,
    RoundNumber,
)
from headwater_protocol.reasons import ReasonCode
from headwater_shard.mainchain.records import (
    CHECKPOINTS,
    EPOCHS,
    MAIN,
    MAIN_KEY,
    SHARDS,
    checkpoint_key,
    shard_key,
)
from headwater_shard.state.draft import Draft
from headwater_shard.transition import InvalidTransaction

MAX_SEARCHED_EPOCHS: Final = 256
"""Epochs in which a committee is looked for; a shard that settled nothing for longer has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """The epochs in which something can have happened, and the heights that bound them."""

    first: EpochNumber
    last: EpochNumber
    begins: Height
    """From here on stake answers for it."""
    ends: Height | None
    """It happened no later than here; None while the last epoch goes on."""


def term_of_height(draft: Draft, shard: ChainId, height: Height) -> Term:
    """When a shard had `height`.

    Raises:
        InvalidTransaction: If there is no such shard.
    """
    return _shard_term(draft, shard, lambda checkpoint: checkpoint.height >= height)


def term_of_round(draft: Draft, shard: ChainId, round_: RoundNumber) -> Term:
    """When a shard had `round_` open.

    Raises:
        InvalidTransaction: If there is no such shard.
    """
    return _shard_term(draft, shard, lambda checkpoint: checkpoint.round >= round_)


def term_of_merge(draft: Draft, epoch: EpochNumber) -> Term:
    """When the merge that starts `epoch` was attested: in the epoch before."""
    current = draft.get_existing(MAIN, MAIN_KEY).epoch
    acting = EpochNumber(min(max(epoch, 1) - 1, current))
    return _term(draft, acting, acting)


def term_at(draft: Draft, height: Height, *, now: Height) -> Term:
    """A height of the main chain itself; one that is not there yet means now."""
    at = Height(min(height, now))
    epoch = get_epoch_at(draft, at)
    return replace(_term(draft, epoch, epoch), ends=at)


def get_epoch_at(draft: Draft, height: Height) -> EpochNumber:
    """The epoch whose committee certifies the main chain's block of `height`."""
    low, high = 0, int(draft.get_existing(MAIN, MAIN_KEY).epoch)
    while low < high:
        middle = (low + high + 1) // 2
        # The block that hands over is the last one of the committee before.
        if draft.get_existing(EPOCHS, epoch_key(EpochNumber(middle))).start_height < height:
            low = middle
        else:
            high = middle - 1
    return EpochNumber(low)


def begin_of(epoch: Epoch) -> Height:
    """From which height on stake that leaves has backed the committee of `epoch`.

    The block before counted it and elected; this one puts the committee in office.
    """
    return epoch.start_height


def require_committee(
    draft: Draft, shard: ChainId, term: Term, digest: Digest
) -> tuple[Committee, Term]:
    """The committee of `shard` with `digest` that served in `term`, and its own epoch's term.

    Raises:
        InvalidTransaction: If no epoch of the term had it.
    """
    last = min(term.last, term.first + MAX_SEARCHED_EPOCHS - 1)
    for number in range(term.first, last + 1):
        epoch = draft.get(EPOCHS, epoch_key(EpochNumber(number)))
        committee = None if epoch is None else epoch.committee_of(shard)
        if committee is not None and committee_digest(committee) == digest:
            return committee, _term(draft, EpochNumber(number), EpochNumber(number))
    raise InvalidTransaction(
        ReasonCode.WRONG_EPOCH, f"no committee of {shard} from epoch {term.first} to {last}"
    )


def _shard_term(draft: Draft, shard: ChainId, is_past: Callable[[Checkpoint], bool]) -> Term:
    entry = draft.get(SHARDS, shard_key(shard))
    if entry is None:
        raise InvalidTransaction(ReasonCode.WRONG_SHARD, f"shard {shard} is not registered")
    low, high = 1, entry.number + 1
    while low < high:
        middle = (low + high) // 2
        signed = draft.get_existing(CHECKPOINTS, checkpoint_key(shard, middle))
        if is_past(signed.checkpoint):
            high = middle
        else:
            low = middle + 1
    first = EpochNumber(0)
    if low > 1:
        first = draft.get_existing(CHECKPOINTS, checkpoint_key(shard, low - 1)).checkpoint.epoch
    if low <= entry.number:
        last = draft.get_existing(CHECKPOINTS, checkpoint_key(shard, low)).checkpoint.epoch
    else:
        last = draft.get_existing(MAIN, MAIN_KEY).epoch
    return _term(draft, first, last)


def _term(draft: Draft, first: EpochNumber, last: EpochNumber) -> Term:
    after = draft.get(EPOCHS, epoch_key(EpochNumber(last + 1)))
    return Term(
        first=first,
        last=last,
        begins=begin_of(draft.get_existing(EPOCHS, epoch_key(first))),
        ends=None if after is None else after.start_height,
    )
