import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_protocol.chain.transaction import UNAVAILABLE, CommitUpdates
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.messages.announcement import round_key
from headwater_shard.shardchain.records import REWARDS, ROUNDS, UPDATES, update_key
from tests.support.ledgers import attest, collect, delegates, execute, open_round, score
from tests.support.network import Chain, key, make_cast, make_task

FLEET = sorted((key(f"d{index}") for index in range(4)), key=lambda entry: entry.device)


def play(scores, *, examples=(10, 10, 10, 10), stakes=(), **task: object) -> Chain:
    chain = Chain(make_cast(task=make_task(**task), stakes=stakes), "shard-0")
    open_round(chain, FLEET)
    commits = tuple(
        chain.commit(device, num_examples=count)
        for device, count in zip(FLEET, examples, strict=True)
    )
    execute(chain, chain.sign(delegates(chain)[0], CommitUpdates(round=1, commits=commits)))
    score(chain, scores)
    if chain.round.phase == "attest" and chain.round.number == 1:
        attest(chain, blob_digest(b"model"))
    return chain


def earned(chain: Chain, account) -> int:
    balance = chain.app.state.get(REWARDS, account)
    return 0 if balance is None else balance.total


def device_rewards(chain: Chain) -> list[int]:
    return [earned(chain, device.account) for device in FLEET]


def paid(chain: Chain) -> int:
    round_ = chain.app.state.get(ROUNDS, round_key(1))
    assert round_ is not None
    return round_.paid


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(-100, 10_000) | st.just(UNAVAILABLE), min_size=4, max_size=4),
    st.lists(st.integers(1, 2_000), min_size=4, max_size=4),
    st.integers(0, 10**9),
    st.integers(0, 1_000),
)
def test_rewards_sum_exactly_to_the_budget_or_to_nothing(scores, examples, budget, thousandths):
    chain = play(scores, examples=examples, round_budget=budget, delegate_thousandths=thousandths)
    everything = sum(balance.total for _, balance in chain.app.state.items(REWARDS))
    assert everything == paid(chain)
    assert everything == (budget if any(value > 0 for value in scores) else 0)
    for device, reward in zip(FLEET, device_rewards(chain), strict=True):
        entry = chain.app.state.get(UPDATES, update_key(1, device.device))
        assert entry is not None
        assert entry.reward == reward


def test_devices_share_in_proportion_to_score_times_examples():
    chain = play([100, 200, 100, 0], examples=(10, 10, 20, 10))
    assert device_rewards(chain) == [160, 320, 320, 0]
    assert [earned(chain, entry.account) for entry in delegates(chain)] == [50] * 4


def test_examples_past_the_cap_earn_nothing():
    chain = play([100] * 4, examples=(1_000, 1_001, 5_000, 2**24))
    assert device_rewards(chain) == [200] * 4


def test_what_was_refused_or_scored_zero_earns_nothing():
    chain = play([-1, 0, UNAVAILABLE, 5])
    assert device_rewards(chain) == [0, 0, 0, 800]


def test_a_round_without_a_positive_score_is_not_paid():
    chain = play([0, 0, -5, 0])
    assert paid(chain) == 0
    assert list(chain.app.state.items(REWARDS)) == []


@pytest.mark.parametrize(("thousandths", "expected"), [(0, 1_000), (1_000, 0)])
def test_the_share_of_the_delegates_is_the_tasks(thousandths, expected):
    chain = play([1, 1, 1, 1], delegate_thousandths=thousandths)
    assert sum(device_rewards(chain)) == expected
    assert paid(chain) == 1_000


def test_delegates_earn_by_power_for_what_they_scored_and_attested():
    cast = make_cast(stakes=(300, 100, 100, 100))
    chain = Chain(cast, "shard-0")
    open_round(chain, FLEET)
    collect(chain, FLEET)
    power = {entry: chain.app.committee.power_of(entry.validator) for entry in delegates(chain)}
    (heavy,) = [entry for entry, value in power.items() if value == 300]
    idle, stray, steady = [entry for entry, value in power.items() if value == 100]
    score(chain, [1] * 4, by=[heavy, stray, steady])
    chain.block(after_ms=1_000)
    attest(chain, blob_digest(b"other"), by=[stray])
    attest(chain, blob_digest(b"model"), by=[idle, steady, heavy])
    assert paid(chain) == 1_000
    assert [earned(chain, entry.account) for entry in (heavy, steady, stray, idle)] == [
        150,
        50,
        0,
        0,
    ]


def test_delegates_are_paid_for_scores_of_available_payloads_alone():
    chain = Chain(make_cast(stakes=(100, 100, 100, 100)), "shard-0")
    open_round(chain, FLEET)
    collect(chain, FLEET)
    diligent, idle, other, third = delegates(chain)
    # Nobody but `third` has a number for the last payload, and `idle` has one for none.
    score(chain, [1, 1, 1, UNAVAILABLE], by=[diligent, other])
    score(chain, [1, 1, 1, 1], by=[third])
    score(chain, [UNAVAILABLE] * 4, by=[idle])
    attest(chain, blob_digest(b"model"))
    assert paid(chain) == 1_000
    earnings = [earned(chain, entry.account) for entry in (diligent, idle, other, third)]
    assert sorted(earnings) == [0, 66, 67, 67]
    assert (earned(chain, idle.account), sum(earnings)) == (0, 200)


def test_a_key_that_is_device_and_delegate_gets_both_rewards():
    cast = make_cast()
    both = cast.validators["shard-0"][0]
    chain = Chain(cast, "shard-0")
    open_round(chain, [both])
    collect(chain, [both])
    score(chain, [1])
    attest(chain, blob_digest(b"model"))
    assert earned(chain, both.account) == 800 + 50
    assert paid(chain) == 1_000


def test_balances_add_up_over_rounds():
    chain = play([1, 1, 1, 1])
    open_round(chain)
    collect(chain, FLEET)
    score(chain, [1, 1, 1, 1])
    attest(chain, blob_digest(b"next"))
    assert device_rewards(chain) == [400] * 4
