"""The audit's own arithmetic, against the ledger's."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_protocol.chain.round import RoundPhase
from headwater_protocol.chain.transaction import UNAVAILABLE, CommitUpdates, PostScores
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.identifiers import DeviceId
from headwater_protocol.messages.announcement import round_key
from headwater_shard.apportion import apportion
from headwater_shard.audit.verdicts import (
    NO_PAYOUT,
    RoundRecord,
    compute_payout,
    judge_round,
    split_exactly,
    weigh_median,
)
from headwater_shard.shardchain.records import REWARDS, ROUNDS, UPDATES, update_key
from headwater_shard.shardchain.score import compute_weighted_median
from tests.support.ledgers import attest, delegates, execute, open_round
from tests.support.network import Chain, key, make_cast, make_task

FLEET = sorted((key(f"audit-{index}") for index in range(4)), key=lambda entry: entry.device)
BATCHES = (FLEET[:1], FLEET[1:])
SCORE = st.integers(-100, 300) | st.just(UNAVAILABLE)


@given(
    st.lists(st.tuples(st.integers(-10_000, 10_000), st.integers(1, 2**53)), min_size=1, max_size=9)
)
def test_both_medians_agree(cast: list[tuple[int, int]]) -> None:
    assert weigh_median(cast) == compute_weighted_median(cast)


@given(
    st.integers(0, 2**60),
    st.dictionaries(st.binary(min_size=1, max_size=2), st.integers(0, 2**40), max_size=9),
)
def test_both_splits_agree(amount: int, merits: dict[bytes, int]) -> None:
    by_device = {DeviceId(name): merit for name, merit in merits.items()}
    assert split_exactly(amount, by_device) == apportion(amount, merits)


def test_a_split_of_nothing_is_empty() -> None:
    assert split_exactly(5, {DeviceId(b"a"): 0}) == {}


@settings(max_examples=50, deadline=None)
@given(
    posted=st.lists(
        st.tuples(
            st.none() | st.lists(SCORE, min_size=1, max_size=1),
            st.none() | st.lists(SCORE, min_size=3, max_size=3),
        ),
        min_size=4,
        max_size=4,
    ),
    examples=st.lists(st.integers(1, 2_000), min_size=4, max_size=4),
    stakes=st.lists(st.integers(100, 300), min_size=4, max_size=4),
    attesting=st.sets(st.integers(0, 3)),
    floor=st.integers(0, 100),
)
def test_both_judge_and_pay_a_round_alike(
    posted: Sequence[Sequence[list[int] | None]],
    examples: list[int],
    stakes: list[int],
    attesting: set[int],
    floor: int,
) -> None:
    task = make_task(reward_floor=floor)
    chain = Chain(make_cast(task=task, stakes=tuple(stakes)), "shard-0")
    open_round(chain, FLEET)
    committee, record = chain.app.committee, RoundRecord(number=chain.round.number)
    counts = dict(zip(FLEET, examples, strict=True))
    seats = delegates(chain)
    for devices in BATCHES:
        commits = tuple(chain.commit(one, num_examples=counts[one]) for one in devices)
        body = CommitUpdates(round=record.number, commits=commits)
        execute(chain, chain.sign(seats[0], body))
        record.batches.append(commits)
    for delegate, lists in zip(seats, posted, strict=True):
        for index, scores in enumerate(lists):
            if scores is None:
                continue
            post = PostScores(
                task=chain.round.task,
                round=record.number,
                batch=index,
                scores=tuple(scores),
                reference=blob_digest(b"reference"),
            )
            execute(chain, chain.sign(delegate, post))
            record.scores[index, delegate.validator] = post.scores
    model = blob_digest(b"model of the round")
    if chain.round.phase is not RoundPhase.ATTEST:
        chain.block(after_ms=task.score_ms + task.collect_ms)
    if chain.round.number == record.number and chain.round.phase is RoundPhase.ATTEST:
        voters = [seats[index] for index in sorted(attesting)]
        attest(chain, model, by=voters)
        record.attestations |= {voter.validator: model for voter in voters}

    judgements = judge_round(record, committee, task, {})
    for entry in judgements:
        stored = chain.app.state.get(UPDATES, update_key(record.number, entry.commit.device))
        assert stored is not None
        assert (entry.reason, entry.score) == (stored.reason, stored.score)
    round_ = chain.app.state.get(ROUNDS, round_key(record.number))
    assert round_ is not None
    payout = NO_PAYOUT
    if round_.model == model:
        payout = compute_payout(
            record,
            judgements,
            committee=committee,
            task=task,
            model=model,
            budget=task.round_budget,
        )
    assert round_.paid == payout.total
    paid = {account: balance.total for account, balance in chain.app.state.items(REWARDS)}
    assert paid == payout.by_account()
