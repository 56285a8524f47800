"""Where a run's units went, as `result.json` tells it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from headwater_firmware_sim.results import EconomyRow, HoldingsRow
from headwater_protocol.chain.genesis import Genesis
from headwater_protocol.identifiers import MAIN_CHAIN, DeviceId
from headwater_shard.application import make_ledger
from headwater_shard.mainchain.market.records import DEPOSITS, POTS, TASKS
from headwater_shard.mainchain.records import ACCOUNTS, MAIN, MAIN_KEY
from headwater_shard.mainchain.supply import compute_supply
from headwater_shard.state.state import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """What one device held at the start and holds at the end, its deposit included."""

    before: int
    after: int


@dataclass(slots=True, kw_only=True)
class EconomyReport:
    """The units of the main chain."""

    supply_before: int = 0
    supply_after: int = 0
    rewards_earned: int = 0
    """By all closed rounds of the shards, of their budgets."""
    rewards_paid: int = 0
    """Claimed on the main chain."""
    returned: int = 0
    """To the sponsor, because no round paid it."""
    in_pots: int = 0
    in_deposits: int = 0
    burned: int = 0
    devices: Mapping[DeviceId, Holdings] = field(default_factory=dict)

    def summarize(self, attackers: frozenset[DeviceId]) -> EconomyRow:
        """The same, with the devices in two groups."""
        return EconomyRow(
            supply_before=self.supply_before,
            supply_after=self.supply_after,
            round_budgets_paid=self.rewards_earned,
            rewards_paid=self.rewards_paid,
            returned_to_sponsor=self.returned,
            unclaimed=self.in_pots,
            deposits_left=self.in_deposits,
            burned=self.burned,
            attackers=_summarize(row for who, row in self.devices.items() if who in attackers),
            honest=_summarize(row for who, row in self.devices.items() if who not in attackers),
        )


def read_economy(
    genesis: Genesis, state: State, devices: tuple[DeviceId, ...], *, earned: int
) -> EconomyReport:
    """The report of a main chain's state.

    Args:
        genesis: What the run started from.
        state: Of the main chain at the end.
        devices: Whose holdings are listed.
        earned: By the rounds of all shards.
    """
    start = make_ledger(genesis, MAIN_CHAIN).genesis_state()
    main = state.get(MAIN, MAIN_KEY)
    return EconomyReport(
        supply_before=compute_supply(start),
        supply_after=compute_supply(state),
        rewards_earned=earned,
        rewards_paid=sum(pot.claimed for _, pot in state.items(POTS)),
        returned=sum(task.returned for _, task in state.items(TASKS)),
        in_pots=sum(pot.units for _, pot in state.items(POTS)),
        in_deposits=sum(deposit.units for _, deposit in state.items(DEPOSITS)),
        burned=0 if main is None else main.burned,
        devices={
            device: Holdings(before=_held(start, device), after=_held(state, device))
            for device in devices
        },
    )


def is_paid_out(state: State) -> bool:
    """Whether every pot is empty and every deposit is settled."""
    return state.count(DEPOSITS) == 0 and not any(pot.units for _, pot in state.items(POTS))


def _held(state: State, device: DeviceId) -> int:
    account, deposit = state.get(ACCOUNTS, device), state.get(DEPOSITS, device)
    return (0 if account is None else account.balance) + (0 if deposit is None else deposit.units)


def _summarize(rows: Iterable[Holdings]) -> HoldingsRow:
    held = list(rows)
    changes = [row.after - row.before for row in held]
    return HoldingsRow(
        before=sum(row.before for row in held),
        after=sum(row.after for row in held),
        least_change=min(changes, default=0),
        most_change=max(changes, default=0),
    )
