"""A network from one seed: keys, genesis, who serves which shard, who is enrolled where."""

from dataclasses import dataclass

from headwater_protocol.chain.genesis import (
    Genesis,
    GenesisAccount,
    GenesisValidator,
    Parameters,
    genesis_network,
)
from headwater_protocol.chain.task import Task
from headwater_protocol.crypto.hashing import Domain, hash_bytes
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.identifiers import ChainId, Network, TimeMs, Units, VotingPower

VALIDATOR_STAKE = 1_000_000
SPARE_BALANCE = 1_000_000
"""Of the sponsor beside the task's budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPlan:
    """All keys and the genesis of a simulated network."""

    genesis: Genesis
    network: Network
    """The digest of the genesis."""
    delegates: dict[ChainId, tuple[SecretKey, ...]]
    registrar: SecretKey
    sponsor: SecretKey
    devices: tuple[SecretKey, ...]
    delegators: tuple[SecretKey, ...] = ()
    """Accounts that hold units to lend as stake."""

    def shard_of(self, device: int) -> ChainId:
        """Which shard a device belongs to: they are dealt out in turn."""
        shards = self.genesis.shards
        return shards[device % len(shards)]


def derive_key(seed: int, role: str, index: int) -> SecretKey:
    """The key of someone in the network of `seed`."""
    return SecretKey(
        hash_bytes(Domain.SEED, seed.to_bytes(8, "big"), index.to_bytes(8, "big"), role.encode())
    )


def plan_network(
    *,
    name: str,
    seed: int,
    time_ms: int,
    num_shards: int,
    delegates_per_shard: int,
    num_devices: int,
    task: Task,
    parameters: Parameters,
    device_balance: int = 0,
    later_budget: int = 0,
    num_delegators: int = 0,
    delegator_balance: int = 0,
) -> NetworkPlan:
    """The network of a seed.

    Args:
        name: Of the network.
        seed: Derives all keys.
        time_ms: Of the genesis.
        num_shards: Shards.
        delegates_per_shard: Delegates of each.
        num_devices: Devices of all shards.
        task: The first one.
        parameters: The network's.
        device_balance: What each device holds on the main chain at the start.
        later_budget: Units of all tasks that the sponsor opens later.
        num_delegators: Accounts that may back a delegate.
        delegator_balance: What each of them holds at the start.

    Raises:
        OutOfBounds: If the genesis would contradict itself.
    """
    shards = tuple(ChainId(f"shard-{index}") for index in range(num_shards))
    delegates = {
        shard: tuple(
            derive_key(seed, f"delegate/{shard}", index) for index in range(delegates_per_shard)
        )
        for shard in shards
    }
    sponsor, registrar = derive_key(seed, "sponsor", 0), derive_key(seed, "registrar", 0)
    validators = [
        GenesisValidator(validator=key.validator, stake=VotingPower(VALIDATOR_STAKE), shard=shard)
        for shard, keys in delegates.items()
        for key in keys
    ]
    devices = tuple(derive_key(seed, "device", index) for index in range(num_devices))
    budget = task.round_budget * task.rounds * num_shards
    balances = {sponsor.account: budget + later_budget + SPARE_BALANCE}
    if device_balance:
        balances |= {key.account: device_balance for key in devices}
    delegators = tuple(derive_key(seed, "delegator", index) for index in range(num_delegators))
    if delegator_balance:
        balances |= {key.account: delegator_balance for key in delegators}
    genesis = Genesis(
        name=name,
        time_ms=TimeMs(time_ms),
        parameters=parameters,
        accounts=tuple(
            GenesisAccount(account=account, balance=Units(balances[account]))
            for account in sorted(balances)
        ),
        validators=tuple(sorted(validators, key=lambda entry: entry.validator)),
        shards=tuple(sorted(shards)),
        registrars=(registrar.account,),
        sponsor=sponsor.account,
        task=task,
    )
    genesis.require_consistent()
    return NetworkPlan(
        genesis=genesis,
        network=genesis_network(genesis),
        delegates=delegates,
        registrar=registrar,
        sponsor=sponsor,
        devices=devices,
        delegators=delegators,
    )
