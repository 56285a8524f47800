"""Whether the keys of one process can finalize blocks, now and after the last election.

With the embedded engine all validators that make a quorum live in one process. Elections change who
they are: a candidate that bonded later is hosted like the founders, by adding its key, and a shard
whose delegates were dealt to other shards needs the keys of those that came.
"""

from collections.abc import Iterator, Mapping, Sequence

from headwater_protocol.chain.committee import Committee
from headwater_protocol.chain.epoch import epoch_key
from headwater_protocol.chain.genesis import Genesis
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.errors import ConfigError
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId, ValidatorId
from headwater_shard.mainchain.records import CANDIDATES, EPOCHS, MAIN, MAIN_KEY
from headwater_shard.shardchain.records import SHARD, SHARD_KEY
from headwater_shard.state.state import State

SHOWN_DIGITS = 16


def require_known(genesis: Genesis, main: State, keys: Mapping[str, Sequence[SecretKey]]) -> None:
    """Check that every key is a candidate's, and is named once.

    Args:
        genesis: The network's.
        main: Of the main chain.
        keys: By the name in the configuration under which they stand.

    Raises:
        ConfigError: Names the first that is not.
    """
    for name, validator in find_strangers(genesis, main, keys):
        raise ConfigError(
            name,
            f"{validator.hex()[:SHOWN_DIGITS]}… is no candidate of this network",
            fix="bond with it first: headwater-shard tx bond",
        )
    seen: set[ValidatorId] = set()
    for name in sorted(keys):
        for key in keys[name]:
            if key.validator in seen:
                short = key.validator.hex()[:SHOWN_DIGITS]
                raise ConfigError(name, f"{short}… comes twice", fix="name each key once")
            seen.add(key.validator)


def find_strangers(
    genesis: Genesis, main: State, keys: Mapping[str, Sequence[SecretKey]]
) -> Iterator[tuple[str, ValidatorId]]:
    """The keys that are no candidate's in this state; arguments as of `require_known`."""
    founders = {entry.validator for entry in genesis.validators}
    for name in sorted(keys):
        for key in keys[name]:
            if key.validator not in founders and main.get(CANDIDATES, key.validator) is None:
                yield name, key.validator


def list_in_office(
    genesis: Genesis, states: Mapping[ChainId, State]
) -> Iterator[tuple[ChainId, Committee]]:
    """Who has to certify each chain's next block: as its ledger says, else as the genesis does."""
    for chain in sorted(states):
        committee = genesis.committee(chain)
        if chain == MAIN_CHAIN:
            main = states[chain].get(MAIN, MAIN_KEY)
            committee = committee if main is None else main.committee
        else:
            shard = states[chain].get(SHARD, SHARD_KEY)
            committee = committee if shard is None else shard.committee
        yield chain, committee


def list_elected(main: State, shards: Sequence[ChainId]) -> Iterator[tuple[ChainId, Committee]]:
    """Who was elected last, for the main chain and some shards."""
    chain = main.get(MAIN, MAIN_KEY)
    epoch = None if chain is None else main.get(EPOCHS, epoch_key(chain.epoch))
    if epoch is None:
        return
    yield MAIN_CHAIN, epoch.committee
    for shard in sorted(shards):
        committee = epoch.committee_of(shard)
        if committee is not None:
            yield shard, committee


def find_shortage(committee: Committee, validators: Sequence[ValidatorId]) -> str | None:
    """What is missing for a quorum of these validators alone; None where nothing is."""
    power = committee.power_of_all(who for who in validators if committee.power_of(who))
    if committee.is_quorum(power):
        return None
    missing = [
        entry.validator.hex()[:SHOWN_DIGITS]
        for entry in committee.delegates
        if entry.validator not in validators
    ]
    return (
        f"these keys hold {power} of {committee.total_power} of the power, without "
        f"{' '.join(missing)}"
    )


def require_power(
    genesis: Genesis, states: Mapping[ChainId, State], keys: Sequence[SecretKey], *, name: str
) -> None:
    """Check that these keys can finalize blocks by themselves on every chain.

    Raises:
        ConfigError: Says for which chain they cannot, and whose keys are missing.
    """
    validators = [key.validator for key in keys]
    for chain, committee in list_in_office(genesis, states):
        shortage = find_shortage(committee, validators)
        if shortage is not None:
            raise ConfigError(
                name,
                f"{chain}: {shortage}",
                fix="one process hosts more than two thirds of each of its chains' delegates: "
                "add the keys of those that were elected",
            )


class OfficeWatch:
    """Warns when an election leaves a running process without a quorum of a chain."""

    def __init__(
        self, main: State, *, shards: Sequence[ChainId], keys: Sequence[SecretKey]
    ) -> None:
        """Take what `main` holds for known."""
        self._shards = tuple(shards)
        self._validators = [key.validator for key in keys]
        chain = main.get(MAIN, MAIN_KEY)
        self._epoch = 0 if chain is None else chain.epoch

    def note(self, main: State) -> Iterator[str]:
        """A line for each chain that this process cannot go on with, once an epoch."""
        chain = main.get(MAIN, MAIN_KEY)
        if chain is None or chain.epoch == self._epoch:
            return
        self._epoch = chain.epoch
        for name, committee in list_elected(main, self._shards):
            shortage = find_shortage(committee, self._validators)
            if shortage is not None:
                yield (
                    f"event=low_power epoch={chain.epoch} chain={name} "
                    f'detail="{shortage}; add their keys to gateway.toml and start again"'
                )
