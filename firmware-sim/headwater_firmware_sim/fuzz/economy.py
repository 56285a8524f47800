"""The invariants I12 to I15: stake, penalties and deposits, by the main chain's state.

What is compared comes from different places: voting power from the pools, what was burned from the
penalties, what a device holds from the claims that were paid.
"""

from collections import Counter
from collections.abc import Mapping

from headwater_firmware_sim.fuzz.violation import LeftFaultModel, require
from headwater_firmware_sim.virtual.run import VirtualRun
from headwater_protocol.chain.committee import Committee
from headwater_protocol.chain.epoch import Epoch, epoch_key
from headwater_protocol.chain.genesis import Parameters
from headwater_protocol.identifiers import (
    MAIN_CHAIN,
    AccountId,
    ChainId,
    DeviceId,
    EpochNumber,
    ValidatorId,
)
from headwater_shard.mainchain.justice.records import EVIDENCE
from headwater_shard.mainchain.market.records import (
    CLAIMS,
    DEPOSITS,
    penalty_claim_key,
    reward_claim_key,
)
from headwater_shard.mainchain.records import (
    ACCOUNTS,
    CANDIDATES,
    DELEGATIONS,
    EPOCHS,
    MAIN,
    MAIN_KEY,
    stake_key,
)
from headwater_shard.state.state import State

KEY_BYTES = 32


class EconomyInvariants:
    """Watches the main chain of one run."""

    def __init__(self, run: VirtualRun, start: State) -> None:
        self._liars = run.liars
        self._shards = run.stage.plan.genesis.shards
        self._parameters: Parameters = run.stage.plan.genesis.parameters
        self._devices = [(key.device, key.account) for key in run.stage.plan.devices]
        self._held = {device: _held(start, device, account) for device, account in self._devices}
        self._epochs = 1

    def check(self, state: State) -> None:
        """Look at the state after a block.

        Raises:
            Violation: If an invariant does not hold.
            LeftFaultModel: If liars were elected to a third of a committee.
        """
        self._check_penalties(state)
        self._check_pools(state)
        self._check_holdings(state)
        while (epoch := state.get(EPOCHS, epoch_key(EpochNumber(self._epochs)))) is not None:
            self._epochs += 1
            self._check_election(state, epoch)
            self._require_model(epoch)

    def _check_penalties(self, state: State) -> None:
        burned = 0
        for _, entry in state.items(EVIDENCE):
            who = entry.charge.validator
            require(
                "I12",
                who in self._liars,
                f"{who.hex()[:8]} is honest and was punished for {entry.charge.offence}",
            )
            burned += entry.slashed - entry.rewarded
        for device, _ in self._devices:
            burned += self._penalty(state, device)
        main = state.get(MAIN, MAIN_KEY)
        found = 0 if main is None else main.burned
        require("I14", found == burned, f"{found} units are burned, penalties burned {burned}")

    def _check_pools(self, state: State) -> None:
        shares: Counter[bytes] = Counter()
        for key, delegation in state.items(DELEGATIONS):
            shares[key[KEY_BYTES:]] += delegation.shares
        for key, candidate in state.items(CANDIDATES):
            require(
                "I13",
                shares[key] == candidate.shares,
                f"{key.hex()[:8]} has {candidate.shares} shares, its delegators {shares[key]}",
            )

    def _check_election(self, state: State, epoch: Epoch) -> None:
        electable = self._electable(state)
        if len(electable) < len(self._shards):
            return
        powers = {entry.validator: entry.voting_power for entry in epoch.committee.delegates}
        require(
            "I13",
            powers == electable,
            f"epoch {epoch.epoch} has powers {_show(powers)}, the stakes are {_show(electable)}",
        )
        seats = {
            entry.validator: entry.voting_power
            for shard in epoch.shards
            for entry in shard.committee.delegates
        }
        count = sum(len(shard.committee.delegates) for shard in epoch.shards)
        require(
            "I13",
            seats == powers and count == len(powers),
            f"epoch {epoch.epoch} seats {_show(seats)}, elected were {_show(powers)}",
        )

    def check_shard(self, state: State, chain: ChainId, number: int, committee: Committee) -> None:
        """Compare the committee in office on a shard with the election, `state` the main chain's.

        Raises:
            Violation: If it is another.
        """
        epoch = state.get(EPOCHS, epoch_key(EpochNumber(number)))
        elected = None if epoch is None else epoch.committee_of(chain)
        require("I13", elected == committee, f"{chain} has a committee that epoch {number} has not")

    def _electable(self, state: State) -> dict[ValidatorId, int]:
        found: dict[ValidatorId, int] = {}
        for key, candidate in state.items(CANDIDATES):
            own = state.get(DELEGATIONS, stake_key(AccountId(key), ValidatorId(key)))
            bond = 0 if own is None else own.shares * candidate.bonded // candidate.shares
            is_free = candidate.jailed_until == 0 and not candidate.is_tombstoned
            if is_free and candidate.bonded and bond >= self._parameters.min_self_bond:
                found[ValidatorId(key)] = candidate.bonded
        return found

    def _check_holdings(self, state: State) -> None:
        for device, account in self._devices:
            earned = 0
            for shard in self._shards:
                claim = state.get(CLAIMS, reward_claim_key(shard, account))
                earned += 0 if claim is None else claim.total
            due = self._held[device] + earned - self._penalty(state, device)
            held = _held(state, device, account)
            require(
                "I15",
                held == due,
                f"{device.hex()[:8]} holds {held} units, rewards and penalties leave {due}",
            )

    def _penalty(self, state: State, device: DeviceId) -> int:
        claims = (state.get(CLAIMS, penalty_claim_key(shard, device)) for shard in self._shards)
        return sum(claim.total for claim in claims if claim is not None)

    def _require_model(self, epoch: Epoch) -> None:
        committees = [(MAIN_CHAIN, epoch.committee)]
        committees += [(entry.shard, entry.committee) for entry in epoch.shards]
        for chain, committee in committees:
            lying = committee.power_of_all(
                entry.validator for entry in committee.delegates if entry.validator in self._liars
            )
            if lying * 3 >= committee.total_power:
                raise LeftFaultModel(
                    f"liars have {lying} of {committee.total_power} of the power of {chain} "
                    f"in epoch {epoch.epoch}"
                )


def _held(state: State, device: DeviceId, account: AccountId) -> int:
    balance, deposit = state.get(ACCOUNTS, account), state.get(DEPOSITS, device)
    return (0 if balance is None else balance.balance) + (0 if deposit is None else deposit.units)


def _show(powers: Mapping[ValidatorId, int]) -> str:
    return " ".join(f"{who.hex()[:8]}:{powers[who]}" for who in sorted(powers))
