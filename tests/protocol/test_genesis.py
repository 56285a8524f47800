from dataclasses import replace

import pytest

from headwater_protocol.chain.genesis import (
    Genesis,
    GenesisAccount,
    GenesisValidator,
    decode_genesis,
    encode_genesis,
    genesis_network,
)
from headwater_protocol.chain.task import MAX_PARAMETERS, Codec
from headwater_protocol.errors import OutOfBounds
from headwater_protocol.identifiers import MAIN_CHAIN, MAX_UNSIGNED
from tests.support.network import key, make_cast, make_task

GENESIS = make_cast(shards=("shard-0", "shard-1"), validators_per_shard=2).genesis


def with_balance(genesis: Genesis, balance: int) -> Genesis:
    accounts = (GenesisAccount(account=genesis.sponsor, balance=balance),)
    return replace(genesis, accounts=accounts)


def with_task(**changes: object) -> Genesis:
    return replace(GENESIS, task=make_task(**changes))


FIRST = GENESIS.validators[0]
CONTRADICTIONS = {
    "accounts out of order": (
        replace(
            GENESIS,
            accounts=tuple(
                sorted(
                    (*GENESIS.accounts, GenesisAccount(account=key("a").account, balance=1)),
                    key=lambda entry: entry.account,
                    reverse=True,
                )
            ),
        ),
        "accounts",
    ),
    "an account twice": (replace(GENESIS, accounts=GENESIS.accounts * 2), "accounts"),
    "validators out of order": (
        replace(GENESIS, validators=GENESIS.validators[::-1]),
        "validators",
    ),
    "a validator twice": (replace(GENESIS, validators=(FIRST, *GENESIS.validators)), "validators"),
    "a registrar twice": (replace(GENESIS, registrars=GENESIS.registrars * 2), "registrars"),
    "shards out of order": (replace(GENESIS, shards=GENESIS.shards[::-1]), "shards"),
    "a shard twice": (replace(GENESIS, shards=("shard-0", "shard-0", "shard-1")), "shards"),
    "a shard called main": (replace(GENESIS, shards=("main", "shard-0", "shard-1")), "main"),
    "a validator of no shard": (
        replace(GENESIS, validators=(replace(FIRST, shard="shard-9"), *GENESIS.validators[1:])),
        "serves no shard",
    ),
    "a shard of no validator": (
        replace(GENESIS, shards=("shard-0", "shard-1", "shard-2")),
        "needs a delegate",
    ),
    "a validator without stake": (
        replace(GENESIS, validators=(replace(FIRST, stake=0), *GENESIS.validators[1:])),
        "voting power",
    ),
    "a budget one unit short": (with_balance(GENESIS, GENESIS.task_budget - 1), "cover 8000"),
    "a sponsor without an account": (replace(GENESIS, sponsor=key("a").account), "sponsor"),
    "a sponsor without an account and nothing to pay": (
        replace(with_task(round_budget=0), sponsor=key("a").account),
        "sponsor",
    ),
    "a supply past 63 bits": (with_balance(GENESIS, MAX_UNSIGNED), "63 bits"),
    "a model past its limit": (
        with_task(tensor_sizes=(MAX_PARAMETERS, 1)),
        "16777217 parameters",
    ),
    "a field out of range": (with_task(codec=Codec(bits=9, keep_thousandths=1)), "Codec.bits"),
    "a stake out of range": (
        replace(GENESIS, validators=(replace(FIRST, stake=2**53 + 1), *GENESIS.validators[1:])),
        "stake",
    ),
}


def test_a_genesis_comes_back_from_its_bytes():
    assert decode_genesis(encode_genesis(GENESIS)) == GENESIS


@pytest.mark.parametrize(("genesis", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_a_genesis_that_contradicts_itself_is_refused(genesis, message):
    with pytest.raises(OutOfBounds, match=message):
        genesis.require_consistent()
    with pytest.raises(OutOfBounds, match=message):
        decode_genesis(encode_genesis(genesis))


def test_a_budget_and_a_model_at_their_limits_are_taken():
    with_balance(GENESIS, GENESIS.task_budget).require_consistent()
    with_task(tensor_sizes=(MAX_PARAMETERS,)).require_consistent()
    stakes = sum(entry.stake for entry in GENESIS.validators)
    with_balance(GENESIS, MAX_UNSIGNED - stakes).require_consistent()


def test_a_shard_is_certified_by_its_own_validators_and_the_main_chain_by_all():
    own = {
        shard: {entry.validator for entry in GENESIS.committee(shard).delegates}
        for shard in GENESIS.shards
    }
    everybody = {entry.validator for entry in GENESIS.committee(MAIN_CHAIN).delegates}
    assert own["shard-0"] | own["shard-1"] == everybody
    assert not own["shard-0"] & own["shard-1"]
    with pytest.raises(OutOfBounds):
        GENESIS.committee("shard-9")


def test_the_network_is_named_by_everything_in_the_genesis():
    changed = [
        replace(GENESIS, name="other"),
        replace(GENESIS, time_ms=GENESIS.time_ms + 1),
        with_task(rounds=3),
        replace(GENESIS, parameters=replace(GENESIS.parameters, clock_drift_ms=1)),
        replace(
            GENESIS,
            validators=(
                GenesisValidator(validator=FIRST.validator, stake=99, shard=FIRST.shard),
                *GENESIS.validators[1:],
            ),
        ),
    ]
    assert len({genesis_network(genesis) for genesis in [GENESIS, *changed]}) == 6


def test_the_budget_pays_all_rounds_of_all_shards():
    assert GENESIS.task_budget == 1_000 * 4 * 2
    assert GENESIS.task.num_parameters == 10
