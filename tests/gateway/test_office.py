"""One process has to hold a quorum of each chain, by the committees in office and not of old."""

from dataclasses import replace

import pytest

from headwater_gateway.office import (
    OfficeWatch,
    find_shortage,
    find_strangers,
    require_known,
    require_power,
)
from headwater_protocol.chain.committee import make_committee
from headwater_protocol.chain.epoch import epoch_key
from headwater_protocol.errors import ConfigError
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId, EpochNumber, Height
from headwater_shard.application import make_ledger
from headwater_shard.mainchain.records import CANDIDATES, EPOCHS, MAIN, MAIN_KEY, Candidate
from headwater_shard.shardchain.records import SHARD, SHARD_KEY
from headwater_shard.state.state import State
from tests.support.network import Cast, key, make_cast

SHARD_0 = ChainId("shard-0")
NEW = key("newcomer")


def start(cast: Cast) -> dict[ChainId, State]:
    return {
        chain: make_ledger(cast.genesis, chain).genesis_state() for chain in (MAIN_CHAIN, SHARD_0)
    }


def elect(cast: Cast, states: dict[ChainId, State]) -> dict[ChainId, State]:
    """Half of the founders are gone, and a newcomer with as much power is in office."""
    powers = [(entry.validator, 100) for entry in cast.validators[SHARD_0][:2]]
    committee = make_committee([*powers, (NEW.validator, 200)])
    main, shard = states[MAIN_CHAIN], states[SHARD_0]
    chain, record = main.get(MAIN, MAIN_KEY), shard.get(SHARD, SHARD_KEY)
    epoch = main.get(EPOCHS, epoch_key(EpochNumber(0)))
    assert chain is not None
    assert record is not None
    assert epoch is not None
    candidate = Candidate(
        commission_thousandths=0,
        bonded=200,
        shares=200,
        jailed_until=Height(0),
        is_tombstoned=False,
    )
    seats = tuple(replace(entry, committee=committee) for entry in epoch.shards)
    elected = replace(epoch, epoch=EpochNumber(1), committee=committee, shards=seats)
    return {
        MAIN_CHAIN: main.updated(
            {
                MAIN.namespace: {
                    MAIN_KEY: replace(chain, epoch=EpochNumber(1), committee=committee)
                },
                EPOCHS.namespace: {epoch_key(EpochNumber(1)): elected},
                CANDIDATES.namespace: {NEW.validator: candidate},
            }
        ),
        SHARD_0: shard.updated(
            {SHARD.namespace: {SHARD_KEY: replace(record, committee=committee)}}
        ),
    }


def test_the_founders_keys_start_a_new_network() -> None:
    cast = make_cast()
    require_power(cast.genesis, start(cast), cast.validators[SHARD_0], name="shards")
    with pytest.raises(ConfigError, match=r"main: these keys hold 200 of 400 .* without [0-9a-f]"):
        require_power(cast.genesis, start(cast), cast.validators[SHARD_0][:2], name="shards")


def test_after_an_election_those_in_office_count_and_not_the_founders() -> None:
    cast = make_cast()
    states = elect(cast, start(cast))
    founders = cast.validators[SHARD_0]
    with pytest.raises(ConfigError, match=NEW.validator.hex()[:16]):
        require_power(cast.genesis, states, founders, name="shards")
    require_power(cast.genesis, states, [founders[0], NEW], name="shards")


def test_a_key_that_nobody_bonded_is_refused_and_a_candidates_is_not() -> None:
    cast = make_cast()
    before, after = start(cast)[MAIN_CHAIN], elect(cast, start(cast))[MAIN_CHAIN]
    keys = {"shards[1].keys": [*cast.validators[SHARD_0], NEW]}
    with pytest.raises(ConfigError, match=r"shards\[1\]\.keys: .* is no candidate .*tx bond"):
        require_known(cast.genesis, before, keys)
    require_known(cast.genesis, after, keys)
    with pytest.raises(ConfigError, match="comes twice"):
        require_known(cast.genesis, after, {**keys, "shards[2].keys": [NEW]})
    assert list(find_strangers(cast.genesis, before, keys)) == [("shards[1].keys", NEW.validator)]
    assert list(find_strangers(cast.genesis, after, keys)) == []


def test_a_running_process_is_warned_once_an_epoch() -> None:
    cast = make_cast()
    first = start(cast)
    second = elect(cast, first)
    watch = OfficeWatch(first[MAIN_CHAIN], shards=[SHARD_0], keys=cast.validators[SHARD_0])
    assert list(watch.note(first[MAIN_CHAIN])) == []
    lines = list(watch.note(second[MAIN_CHAIN]))
    assert [line.split()[2] for line in lines] == ["chain=main", "chain=shard-0"]
    assert all(NEW.validator.hex()[:16] in line and "\n" not in line for line in lines)
    assert list(watch.note(second[MAIN_CHAIN])) == []


def test_a_quorum_is_more_than_two_thirds() -> None:
    validators = [key(name).validator for name in "abc"]
    committee = make_committee((who, 1) for who in validators)
    assert find_shortage(committee, validators[:2]) is not None
    assert find_shortage(committee, validators) is None
