"""All units of the network, wherever they are; no transition changes the sum."""

from typing import Final

from headwater_shard.mainchain.market.records import DEPOSITS, MODELS, POTS
from headwater_shard.mainchain.records import (
    ACCOUNTS,
    CANDIDATES,
    MAIN,
    MAIN_KEY,
    UNBONDINGS,
)
from headwater_shard.state.state import State

HOLDINGS: Final = tuple(
    sorted(
        table.namespace
        for table in (ACCOUNTS, CANDIDATES, DEPOSITS, MAIN, MODELS, POTS, UNBONDINGS)
    )
)
"""Namespaces in which units are held; a block that leaves these alone leaves the supply alone."""


def compute_supply(state: State) -> int:
    """The sum of balances, stake, unbonding stake, pots, deposits, royalties and the burned."""
    main = state.get(MAIN, MAIN_KEY)
    return (
        sum(account.balance for _, account in state.items(ACCOUNTS))
        + sum(candidate.bonded for _, candidate in state.items(CANDIDATES))
        + sum(
            entry.units for _, unbonding in state.items(UNBONDINGS) for entry in unbonding.entries
        )
        + sum(pot.units for _, pot in state.items(POTS))
        + sum(deposit.units for _, deposit in state.items(DEPOSITS))
        + sum(version.unclaimed for _, version in state.items(MODELS))
        + (0 if main is None else main.burned)
    )
