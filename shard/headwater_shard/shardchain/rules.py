"""What a shard's transitions take from the genesis."""

from dataclasses import dataclass

from headwater_protocol.chain.genesis import Genesis, Parameters, genesis_network
from headwater_protocol.errors import ConfigError
from headwater_protocol.identifiers import AccountId, ChainId, Network


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRules:
    """The constants of one shard."""

    network: Network
    shard: ChainId
    parameters: Parameters
    registrars: frozenset[AccountId]


def make_rules(genesis: Genesis, shard: ChainId) -> ShardRules:
    """The rules of `shard` under `genesis`.

    Raises:
        ConfigError: If the genesis has no such shard.
    """
    if shard not in genesis.shards:
        raise ConfigError(
            "shard", f"no shard {shard!r}", fix=f"choose one of {', '.join(genesis.shards)}"
        )
    return ShardRules(
        network=genesis_network(genesis),
        shard=shard,
        parameters=genesis.parameters,
        registrars=frozenset(genesis.registrars),
    )
