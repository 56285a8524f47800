"""The supply of the main chain stays what the genesis made it, whatever is sent."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_protocol.chain.transaction import AttestMerge, AttestModel, Transfer
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.reasons import ReasonCode
from headwater_shard.application import tables_of
from headwater_shard.mainchain.records import ACCOUNTS, CANDIDATES, POTS
from headwater_shard.mainchain.supply import compute_supply
from headwater_shard.state.state import load_state
from tests.support.network import Chain, key, make_cast

PEOPLE = [key(f"person {index}") for index in range(6)]
CAST = make_cast(balances=[(f"person {index}", 10**index) for index in range(4)])
SENDERS = [*PEOPLE, CAST.sponsor, CAST.validators["shard-0"][0]]
BODIES = st.one_of(
    st.builds(
        Transfer,
        recipient=st.sampled_from([person.account for person in SENDERS]),
        amount=st.integers(0, 1_500) | st.sampled_from([2**63 - 1]),
    ),
    st.builds(AttestMerge, epoch=st.integers(0, 2), model=st.just(bytes(32))),
    st.builds(AttestModel, round=st.just(1), model=st.just(bytes(32))),
)
STEPS = st.lists(st.tuples(st.sampled_from(SENDERS), BODIES), min_size=200, max_size=210)


def expected_supply() -> int:
    return sum(entry.balance for entry in CAST.genesis.accounts) + sum(
        entry.stake for entry in CAST.genesis.validators
    )


def test_the_genesis_supply_is_balances_and_bonds_with_the_budget_in_escrow():
    state = Chain(CAST, "main").app.state
    assert compute_supply(state) == expected_supply()
    assert sum(pot.units for _, pot in state.items(POTS)) == CAST.genesis.task_budget
    assert sum(entry.bonded for _, entry in state.items(CANDIDATES)) == 400
    sponsor = state.get(ACCOUNTS, CAST.sponsor.account)
    assert sponsor is not None
    assert sponsor.balance == 1_000


@settings(max_examples=8, deadline=None)
@given(STEPS)
def test_every_block_conserves_the_supply(steps):
    main = Chain(CAST, "main")
    for start in range(0, len(steps), 10):
        rows = steps[start : start + 10]
        main.block(*(main.sign(sender, body) for sender, body in rows))
        assert compute_supply(main.app.state) == expected_supply()
        assert all(entry.balance >= 0 for _, entry in main.app.state.items(ACCOUNTS))


@pytest.mark.parametrize("seed", range(3))
def test_hundreds_of_random_transfers_leave_what_a_plain_sum_says(seed):
    rng = random.Random(seed)
    main = Chain(CAST, "main")
    balances = {account: entry.balance for account, entry in main.app.state.items(ACCOUNTS)}
    accepted = 0
    for _ in range(25):
        rows = [
            (rng.choice(SENDERS), rng.choice(SENDERS), rng.choice((0, 1, 7, 90, 800)))
            for _ in range(10)
        ]
        execution = main.block(
            *(
                main.sign(sender, Transfer(recipient=recipient.account, amount=amount))
                for sender, recipient, amount in rows
            )
        )
        for (sender, recipient, amount), outcome in zip(rows, execution.outcomes, strict=True):
            covered = balances.get(sender.account, 0) >= amount > 0
            assert (outcome.reason is ReasonCode.OK) == covered
            if covered:
                balances[sender.account] -= amount
                balances[recipient.account] = balances.get(recipient.account, 0) + amount
                accepted += 1
        assert compute_supply(main.app.state) == expected_supply()
    assert accepted >= 50
    assert {account: entry.balance for account, entry in main.app.state.items(ACCOUNTS)} == balances
    entries = [
        (table.namespace, entry, encode_record(record))
        for table in tables_of("main")
        for entry, record in main.app.state.items(table)
    ]
    assert load_state(tables_of("main"), entries).root == main.app.state_root
