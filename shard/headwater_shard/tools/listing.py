"""Rows for `headwater-shard show`: plain values, in an order that does not change between runs."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from headwater_protocol.chain.genesis import Genesis
from headwater_protocol.identifiers import MAIN_CHAIN, AccountId, ChainId, ValidatorId
from headwater_shard.layout import DataFolder
from headwater_shard.mainchain.justice.records import EVIDENCE
from headwater_shard.mainchain.market.records import DEPOSITS, POTS, TASKS
from headwater_shard.mainchain.records import (
    ACCOUNTS,
    CANDIDATES,
    CHECKPOINTS,
    EPOCHS,
    MAIN,
    MAIN_KEY,
)
from headwater_shard.mainchain.staking.pool import get_worth
from headwater_shard.shardchain.records import DEVICES, PENALTIES, REWARDS, ROUNDS
from headwater_shard.state.state import State
from headwater_shard.tools.reading import list_chains, read_chain

Cell = str | int | bool | None
Row = Mapping[str, Cell]


def list_rows(what: str, folder: DataFolder, genesis: Genesis, only: ChainId | None) -> list[Row]:
    """What `show` prints.

    Args:
        what: One of `LISTINGS`.
        folder: The data folder.
        genesis: Its genesis.
        only: One shard, for what shards hold; None for all.
    """
    if what in _MAIN:
        return list(_MAIN[what](_main(folder, genesis)))
    rows: list[Row] = []
    for shard in list_chains(genesis, only):
        rows.extend(_SHARD[what](shard, read_chain(folder, genesis, shard).state))
    return rows


def _main(folder: DataFolder, genesis: Genesis) -> State:
    return read_chain(folder, genesis, MAIN_CHAIN).state


def _accounts(state: State) -> Iterator[Row]:
    for key, account in state.sorted_items(ACCOUNTS):
        yield {"account": key.hex(), "balance": account.balance}


def _candidates(state: State) -> Iterator[Row]:
    for key, entry in state.sorted_items(CANDIDATES):
        yield {
            "validator": key.hex(),
            "bonded": entry.bonded,
            "self_bond": get_worth(state, AccountId(key), ValidatorId(key)),
            "commission_thousandths": entry.commission_thousandths,
            "jailed_until": entry.jailed_until,
            "tombstoned": entry.is_tombstoned,
        }


def _delegates(state: State) -> Iterator[Row]:
    main = state.get(MAIN, MAIN_KEY)
    epochs = {record.epoch: record for _, record in state.items(EPOCHS)}
    if main is None or main.epoch not in epochs:
        return
    for entry in epochs[main.epoch].shards:
        for delegate in entry.committee.delegates:
            yield {
                "epoch": main.epoch,
                "shard": entry.shard,
                "validator": delegate.validator.hex(),
                "voting_power": delegate.voting_power,
            }


def _tasks(state: State) -> Iterator[Row]:
    pots = [pot for _, pot in state.items(POTS)]
    for _, entry in sorted(state.items(TASKS), key=lambda item: item[1].number):
        own = [pot for pot in pots if pot.task == entry.task.task]
        yield {
            "number": entry.number,
            "task": entry.task.task,
            "sponsor": entry.sponsor.hex(),
            "rounds": entry.task.rounds,
            "round_budget": entry.task.round_budget,
            "open_shards": entry.open_shards,
            "in_pots": sum(pot.units for pot in own),
            "returned": entry.returned,
        }


def _checkpoints(state: State) -> Iterator[Row]:
    for _, signed in state.sorted_items(CHECKPOINTS):
        checkpoint = signed.checkpoint
        yield {
            "shard": checkpoint.shard,
            "number": checkpoint.number,
            "round": checkpoint.round,
            "height": checkpoint.height,
            "state_root": checkpoint.state_root.hex(),
            "model": checkpoint.model.hex(),
            "examples": checkpoint.num_examples,
            "paid": checkpoint.contributions.total,
            "signatures": len(signed.signatures),
            "final": checkpoint.is_final,
        }


def _evidence(state: State) -> Iterator[Row]:
    for _, entry in sorted(state.items(EVIDENCE), key=lambda item: (item[1].height, item[0])):
        yield {
            "height": entry.height,
            "validator": entry.charge.validator.hex(),
            "offence": entry.charge.offence.value,
            "chain": entry.charge.chain,
            "place": entry.charge.place,
            "slashed": entry.slashed,
            "rewarded": entry.rewarded,
        }


def _deposits(state: State) -> Iterator[Row]:
    for key, entry in state.sorted_items(DEPOSITS):
        yield {
            "device": key.hex(),
            "owner": entry.owner.hex(),
            "shard": entry.shard,
            "units": entry.units,
        }


def _rounds(shard: ChainId, state: State) -> Iterator[Row]:
    for _, round_ in state.sorted_items(ROUNDS):
        yield {
            "shard": shard,
            "round": round_.number,
            "epoch": round_.epoch,
            "phase": round_.phase.value,
            "cohort": round_.cohort_size,
            "updates": round_.num_updates,
            "accepted": round_.num_accepted,
            "paid": round_.paid,
            "model": None if round_.model is None else round_.model.hex(),
        }


def _devices(shard: ChainId, state: State) -> Iterator[Row]:
    for key, device in state.sorted_items(DEVICES):
        reward, penalty = state.get(REWARDS, key), state.get(PENALTIES, key)
        yield {
            "shard": shard,
            "device": key.hex(),
            "weight": device.weight,
            "class": device.capability.value,
            "accepted": device.num_accepted,
            "rejected": device.num_rejected,
            "reputation": device.reputation,
            "strikes": device.strikes,
            "quarantined_until": device.quarantined_until,
            "revoked_height": device.revoked_height,
            "earned": 0 if reward is None else reward.total,
            "penalty": 0 if penalty is None else penalty.total,
        }


_MAIN: Final[dict[str, Callable[[State], Iterator[Row]]]] = {
    "accounts": _accounts,
    "candidates": _candidates,
    "checkpoints": _checkpoints,
    "delegates": _delegates,
    "deposits": _deposits,
    "evidence": _evidence,
    "tasks": _tasks,
}
_SHARD: Final[dict[str, Callable[[ChainId, State], Iterator[Row]]]] = {
    "devices": _devices,
    "rounds": _rounds,
}
LISTINGS: Final = tuple(sorted([*_MAIN, *_SHARD]))
"""What can be listed."""
