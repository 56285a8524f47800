"""The election that ends an epoch: who serves next, and where.

A block elects by writing the next epoch's record. The block after it puts the committee into
office before anything else happens in it, so no transaction ever sees an epoch that is elected and
not in office. That block is the last one that the old committee certifies. Between the two an
engine has time to change its set of validators, which takes CometBFT a block longer than ours.
"""

from dataclasses import replace

from headwater_protocol.chain.block import certificate_digest
from headwater_protocol.chain.checkpoint import Merge
from headwater_protocol.chain.committee import Committee, make_committee
from headwater_protocol.chain.epoch import Epoch, ShardCommittee, epoch_key
from headwater_protocol.chain.genesis import Parameters
from headwater_protocol.crypto.hashing import Domain, hash_bytes
from headwater_protocol.identifiers import (
    AccountId,
    ChainId,
    EpochNumber,
    Height,
    ValidatorId,
)
from headwater_shard.engine.border import BlockContext
from headwater_shard.mainchain.records import CANDIDATES, EPOCHS, MAIN, MAIN_KEY, Candidate
from headwater_shard.mainchain.staking.pool import get_worth
from headwater_shard.mainchain.staking.shuffle import deal_committees
from headwater_shard.state.draft import Draft
from headwater_shard.state.state import State


def is_electable(candidate: Candidate, *, self_bond: int, least: int) -> bool:
    """Whether a candidate may be elected: free, with a bond of its own of at least `least`."""
    return (
        not candidate.is_tombstoned
        and candidate.jailed_until == 0
        and candidate.bonded > 0
        and self_bond >= least
    )


def elect_delegates(state: Draft | State, parameters: Parameters) -> dict[ValidatorId, int]:
    """The candidates with the most stake behind them, with their power, in that order."""
    electable = [
        (ValidatorId(key), candidate)
        for key, candidate in state.items(CANDIDATES)
        if is_electable(
            candidate,
            self_bond=get_worth(state, AccountId(key), ValidatorId(key)),
            least=parameters.min_self_bond,
        )
    ]
    electable.sort(key=lambda entry: (-entry[1].bonded, entry[0]))
    return {
        validator: candidate.bonded
        for validator, candidate in electable[: parameters.max_delegates]
    }


def elect_epoch(draft: Draft, parameters: Parameters, merge: Merge, context: BlockContext) -> Epoch:
    """Write the epoch that starts with `merge`; its committee is in office from the next block on.

    Where fewer are electable than there are shards, the delegates of the last epoch stay: a network
    that cannot elect goes on rather than stop.
    """
    last = draft.get_existing(EPOCHS, epoch_key(EpochNumber(merge.epoch - 1)))
    elected = elect_delegates(draft, parameters)
    seed = hash_bytes(
        Domain.SEED, certificate_digest(context.last_certificate), epoch_key(merge.epoch)
    )
    committee, shards = last.committee, last.shards
    if len(elected) >= len(shards):
        committee = make_committee(elected.items())
        dealt = deal_committees({entry.shard: entry.committee for entry in shards}, elected, seed)
        shards = tuple(
            ShardCommittee(shard=shard, committee=dealt[shard]) for shard in sorted(dealt)
        )
    epoch = Epoch(
        epoch=merge.epoch,
        merge=merge,
        committee=committee,
        shards=shards,
        seed=seed,
        start_height=Height(context.height + 1),
        start_ms=context.time_ms,
    )
    draft.put(EPOCHS, epoch_key(epoch.epoch), epoch)
    return epoch


def get_elected(state: Draft | State) -> Epoch | None:
    """The epoch that waits for the next block; None where none does."""
    main = state.get(MAIN, MAIN_KEY)
    return None if main is None else state.get(EPOCHS, epoch_key(EpochNumber(main.epoch + 1)))


def enter_office(draft: Draft) -> None:
    """Put the committee of the elected epoch in office, if one waits."""
    epoch = get_elected(draft)
    if epoch is not None:
        main = draft.get_existing(MAIN, MAIN_KEY)
        draft.put(MAIN, MAIN_KEY, replace(main, committee=epoch.committee, epoch=epoch.epoch))


def get_shard_committee(
    state: Draft | State, epoch: EpochNumber, shard: ChainId
) -> Committee | None:
    """Who serves `shard` in an epoch; None where there is no such epoch or shard."""
    record = state.get(EPOCHS, epoch_key(epoch))
    return None if record is None else record.committee_of(shard)
