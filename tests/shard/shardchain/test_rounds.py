"""The life of a round: what ends each phase, and what it leaves behind."""

from dataclasses import replace

import pytest

from headwater_protocol.chain.checkpoint import checkpoint_digest
from headwater_protocol.chain.cohort import Standing, compute_draw_weight
from headwater_protocol.chain.genesis import Parameters
from headwater_protocol.chain.round import TOP_RANK, Round, is_in_cohort
from headwater_protocol.chain.transaction import UNAVAILABLE, CommitUpdates
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.messages.announcement import round_key
from headwater_protocol.reasons import ReasonCode
from headwater_shard.shardchain import checkpoints, retention
from headwater_shard.shardchain.records import (
    ATTESTATIONS,
    BATCHES,
    CHECKPOINTS,
    DEVICES,
    REWARDS,
    ROOTS,
    ROUNDS,
    SCORES,
    UPDATES,
    Device,
    checkpoint_key,
    update_key,
)
from tests.support.ledgers import (
    attest,
    collect,
    commit_body,
    delegates,
    emit_checkpoint,
    execute,
    model_of,
    next_context,
    open_round,
    play_round,
    score,
    shard_of,
    sign_body,
    sign_checkpoint,
)
from tests.support.network import GENESIS_MS, Chain, key, make_cast, make_task

NEWCOMER = compute_draw_weight(Standing(weight=1, mark=0), 0)
FLEET = sorted((key(f"d{index}") for index in range(4)), key=lambda entry: entry.device)


def make_chain(*, stakes=(), parameters: Parameters | None = None, **task: object) -> Chain:
    chain = Chain(
        make_cast(task=make_task(**task), stakes=stakes, parameters=parameters), "shard-0"
    )
    open_round(chain, FLEET)
    return chain


def round_of(chain: Chain, number: int) -> Round:
    round_ = chain.app.state.get(ROUNDS, round_key(number))
    assert round_ is not None
    return round_


def update_of(chain: Chain, device, number: int = 1):
    return chain.app.state.get(UPDATES, update_key(number, device.device))


def device_of(chain: Chain, device) -> Device:
    record = chain.app.state.get(DEVICES, device.device)
    assert record is not None
    return record


def total_rewards(chain: Chain) -> int:
    return sum(balance.total for _, balance in chain.app.state.items(REWARDS))


# Opening


def test_no_round_opens_without_a_device():
    chain = Chain(make_cast(), "shard-0")
    for _ in range(3):
        chain.block(after_ms=10_000)
    assert shard_of(chain).last_round == 0
    assert chain.app.next_timer() is None
    chain.enrol(FLEET[0])
    assert chain.round.phase == "collect"


def test_a_round_announces_its_base_its_deadline_and_a_fresh_seed():
    chain = make_chain()
    first = chain.round
    assert first.base == chain.cast.genesis.task.initial_model
    assert first.collect_until_ms == first.opened_ms + 1_000
    assert (first.cohort_size, first.rank_threshold) == (4, TOP_RANK)
    model = play_round(chain, FLEET)
    second = chain.round
    assert (second.number, second.base) == (2, model)
    assert second.seed != first.seed


def test_the_cohort_is_as_large_as_the_task_says():
    chain = make_chain(cohort_size=3)
    drawn = [entry for entry in FLEET if is_in_cohort(chain.round, entry.device, NEWCOMER)]
    assert len(drawn) == chain.round.cohort_size == 3


# What ends a phase


def test_collecting_ends_early_when_the_whole_cohort_has_committed():
    chain = make_chain()
    collect(chain, FLEET[:3])
    assert chain.round.phase == "collect"
    collect(chain, FLEET[3:])
    assert chain.round.phase == "score"
    assert (chain.round.num_batches, chain.round.num_updates) == (2, 4)


def test_collecting_ends_at_its_deadline_and_not_a_millisecond_before():
    chain = make_chain()
    collect(chain, FLEET[:1])
    left = chain.round.collect_until_ms - chain.now_ms
    chain.block(after_ms=left - 1)
    assert chain.round.phase == "collect"
    chain.block(after_ms=1)
    assert chain.round.phase == "score"
    assert chain.round.score_until_ms == chain.now_ms + 1_000


def test_scoring_ends_early_when_every_delegate_scored_every_batch():
    chain = make_chain()
    collect(chain, FLEET)
    score(chain, [1] * 4, by=delegates(chain)[:3])
    assert chain.round.phase == "score"
    score(chain, [1] * 4, by=delegates(chain)[3:])
    assert chain.round.phase == "attest"


def test_scoring_ends_at_its_deadline_with_what_a_quorum_scored():
    chain = make_chain()
    collect(chain, FLEET)
    score(chain, [1] * 4, by=delegates(chain)[:3])
    chain.block(after_ms=1_000)
    assert chain.round.phase == "attest"
    assert chain.round.num_accepted == 4


def test_a_delegate_scores_while_the_round_still_collects():
    chain = make_chain()
    collect(chain, FLEET[:2])
    score(chain, [1, 1])
    assert chain.round.phase == "collect"
    chain.block(after_ms=1_000)
    assert chain.round.phase == "attest"


def test_attesting_ends_with_a_quorum_for_one_digest():
    chain = make_chain()
    collect(chain, FLEET)
    score(chain, [1] * 4)
    model = model_of(chain)
    attest(chain, model, by=delegates(chain)[:2])
    assert round_of(chain, 1).phase == "attest"
    attest(chain, model, by=delegates(chain)[2:3])
    closed = round_of(chain, 1)
    assert (closed.phase, closed.model) == ("closed", model)
    assert closed.closed_height == chain.app.height


def test_a_round_without_updates_closes_on_its_base_and_the_next_opens():
    chain = make_chain()
    chain.block(after_ms=1_000)
    closed = round_of(chain, 1)
    assert (closed.phase, closed.model, closed.paid) == ("closed", closed.base, 0)
    assert chain.round.number == 2
    assert shard_of(chain).budget_left == 4_000


@pytest.mark.parametrize(("accepted", "is_enough"), [(2, False), (3, True)])
def test_too_few_accepted_updates_close_a_round_on_its_base(accepted, is_enough):
    chain = make_chain(min_updates=3)
    collect(chain, FLEET)
    score(chain, [1] * accepted + [-1] * (4 - accepted))
    if is_enough:
        assert chain.round.phase == "attest"
        return
    closed = round_of(chain, 1)
    assert (closed.phase, closed.model, closed.paid) == ("closed", closed.base, 0)
    assert total_rewards(chain) == 0
    assert shard_of(chain).num_examples == 0


def test_without_a_quorum_for_a_digest_a_round_closes_on_its_base_unpaid():
    chain = make_chain()
    collect(chain, FLEET)
    score(chain, [1] * 4)
    attest(chain, blob_digest(b"a"), by=delegates(chain)[:2])
    attest(chain, blob_digest(b"b"), by=delegates(chain)[2:])
    assert chain.round.phase == "attest"
    chain.block(after_ms=chain.round.attest_until_ms - chain.now_ms - 1)
    assert chain.round.phase == "attest"
    chain.block(after_ms=1)
    closed = round_of(chain, 1)
    assert (closed.phase, closed.model, closed.paid) == ("closed", closed.base, 0)
    assert (closed.num_accepted, closed.num_examples) == (0, 0)
    assert shard_of(chain).num_examples == 0


def test_power_and_not_the_number_of_delegates_makes_a_quorum():
    chain = make_chain(stakes=(700, 100, 100, 100))
    heavy = [
        entry for entry in delegates(chain) if chain.app.committee.power_of(entry.validator) == 700
    ]
    collect(chain, FLEET)
    score(chain, [1] * 4, by=heavy)
    chain.block(after_ms=1_000)
    assert chain.round.num_accepted == 4
    attest(chain, model_of(chain), by=heavy)
    assert round_of(chain, 1).phase == "closed"


def test_the_timer_is_the_time_from_which_an_empty_block_changes_something():
    chain = make_chain()
    for _ in range(12):
        timer = chain.app.next_timer()
        if timer is None:
            break
        if timer > chain.now_ms + 1:
            before = next_context(chain, after_ms=timer - 1 - chain.now_ms)
            assert chain.app.finalize_block(before).state_root == chain.app.state_root
        at = next_context(chain, after_ms=max(1, timer - chain.now_ms))
        assert chain.app.finalize_block(at).state_root != chain.app.state_root
        if chain.round.phase == "collect":
            collect(chain, FLEET[:2])
        chain.block(after_ms=max(1, timer - chain.now_ms))
    assert chain.round.number > 1


# Verdicts


def test_an_update_is_judged_by_the_median_against_the_threshold():
    chain = make_chain(score_threshold=50)
    collect(chain, FLEET)
    score(chain, [49, 50, 51, UNAVAILABLE])
    entries = [update_of(chain, device) for device in FLEET]
    assert [entry.reason for entry in entries] == ["low_score", "ok", "ok", "unavailable"]
    assert [entry.score for entry in entries] == [49, 50, 51, UNAVAILABLE]
    assert all(entry.is_judged for entry in entries)
    assert chain.round.num_accepted == 2


def test_an_update_that_too_few_delegates_could_get_is_unavailable_and_not_held_against_it():
    chain = make_chain()
    collect(chain, FLEET)
    score(chain, [100] * 4, by=delegates(chain)[:2])
    score(chain, [100, UNAVAILABLE, 100, 100], by=delegates(chain)[2:3])
    chain.block(after_ms=1_000)
    reasons = [update_of(chain, device).reason for device in FLEET]
    assert reasons == ["ok", "unavailable", "ok", "ok"]
    assert device_of(chain, FLEET[1]).num_rejected == 0
    assert device_of(chain, FLEET[0]).num_accepted == 1


def test_reputation_is_a_decayed_mean_of_the_scores():
    chain = make_chain()
    play_round(chain, FLEET, scores=[800, -800, 0, 7])
    assert [device_of(chain, device).reputation for device in FLEET] == [200, -200, 0, 1]
    play_round(chain, FLEET, scores=[800, -800, 0, 7])
    assert device_of(chain, FLEET[0]).reputation == 200 + 600 // 4
    assert device_of(chain, FLEET[1]).num_rejected == 2


def test_a_devices_history_counts_in_the_share_that_the_task_says():
    chain = make_chain(reputation_thousandths=500)
    play_round(chain, FLEET, scores=[800, -800, 0, 0])
    open_round(chain)
    collect(chain, FLEET)
    # The reputations are now 200, -200, 0 and 0, and half of them counts.
    score(chain, [-100, 99, -1, 0])
    reasons = [update_of(chain, device, 2).reason for device in FLEET]
    assert reasons == ["ok", "low_score", "low_score", "ok"]


def test_an_update_that_its_history_carries_earns_nothing_for_a_negative_score():
    chain = make_chain(reputation_thousandths=500)
    play_round(chain, FLEET, scores=[800, 1, 1, 1])
    before = total_rewards(chain)
    play_round(chain, FLEET, scores=[-100, 1, 1, 1])
    entry = update_of(chain, FLEET[0], 2)
    assert (entry.reason, entry.reward) == ("ok", 0)
    assert total_rewards(chain) == before + 1_000


def test_examples_of_a_round_are_capped_by_the_task():
    chain = make_chain(max_examples=30)
    body = CommitUpdates(
        round=1,
        commits=tuple(
            chain.commit(device, num_examples=count)
            for device, count in zip(FLEET, (10, 30, 31, 1_000), strict=True)
        ),
    )
    execute(chain, chain.sign(delegates(chain)[0], body))
    score(chain, [1, 1, 1, 1])
    assert chain.round.num_examples == 10 + 30 + 30 + 30


# Budget, pruning, checkpoints, the end


def test_a_task_pays_its_budget_and_no_unit_more():
    chain = make_chain()
    for number in range(1, 5):
        play_round(chain, FLEET, scores=[7, 11, 13, -1])
        assert round_of(chain, number).paid == 1_000
        assert total_rewards(chain) == number * 1_000
        assert shard_of(chain).budget_left == 4_000 - number * 1_000
        emit_checkpoint(chain) if number % 2 == 0 else chain.block()
    assert shard_of(chain).is_finished


def test_a_closed_rounds_entries_are_dropped_and_the_state_stays_bounded():
    chain = make_chain(rounds=9)
    retention = chain.cast.genesis.parameters.retention_rounds
    sizes = []
    for _ in range(9):
        play_round(chain, FLEET)
        sizes.append(
            tuple(
                chain.app.state.count(table) for table in (UPDATES, SCORES, BATCHES, ATTESTATIONS)
            )
        )
        assert len(list(chain.app.state.items(UPDATES))) <= 4 * retention
    # Attestations are those of three of the four delegates at least; here all come in one block.
    assert sizes[-1] == sizes[retention] == (4 * 3, 4 * 3, 3, 4 * 3)
    assert round_of(chain, 1).phase == "closed"


def test_the_record_of_a_round_goes_too_but_long_after(monkeypatch):
    monkeypatch.setattr(retention, "MAX_KEPT_ROUNDS", 5)
    chain = make_chain(rounds=9)
    assert chain.cast.genesis.parameters.retention_rounds < 5
    for number in range(1, 10):
        play_round(chain, FLEET)
        kept = sorted(int.from_bytes(entry, "big") for entry, _ in chain.app.state.items(ROUNDS))
        closed = [entry for entry in kept if entry <= number]
        assert closed == list(range(max(1, number - 4), number + 1))


def test_a_checkpoint_commits_to_the_state_of_the_block_that_closed_its_round():
    chain = make_chain()
    play_round(chain, FLEET)
    model = play_round(chain, FLEET)
    closed = round_of(chain, 2)
    assert chain.round.number == 2
    root = chain.app.state_root
    checkpoint = emit_checkpoint(chain).checkpoint
    header = chain.blocks[closed.closed_height - 1][0].header
    assert checkpoint.height == closed.closed_height == header.height
    assert checkpoint.state_root == header.state_root == root
    assert (checkpoint.number, checkpoint.round, checkpoint.model) == (1, 2, model)
    assert checkpoint.num_examples == 80
    assert not checkpoint.is_final
    assert checkpoint.previous == bytes(32)


def test_the_roots_of_so_many_checkpoints_are_kept_and_no_more(monkeypatch):
    monkeypatch.setattr(checkpoints, "MAX_KEPT_ROOTS", 2)
    chain = make_chain(rounds=10)
    for number in range(1, 5):
        play_round(chain, FLEET)
        play_round(chain, FLEET)
        emit_checkpoint(chain)
        kept = sorted(int.from_bytes(entry, "big") for entry, _ in chain.app.state.items(ROOTS))
        assert kept == list(range(max(1, number - 1), number + 1))


def test_no_round_opens_in_the_block_that_closed_one_with_a_checkpoint_due():
    # Two checkpoints make an epoch, so that nothing but the checkpoint holds the round back.
    parameters = replace(make_cast().genesis.parameters, checkpoints_per_epoch=2)
    chain = make_chain(parameters=parameters)
    play_round(chain, FLEET)
    assert chain.round.number == 2
    play_round(chain, FLEET)
    assert (chain.round.number, chain.round.phase) == (2, "closed")
    assert shard_of(chain).due_checkpoint is not None
    assert chain.app.next_timer() == 0
    emit_checkpoint(chain)
    assert chain.round.number == 3


def test_checkpoints_are_linked_and_count_their_own_examples():
    chain = make_chain(rounds=5)
    signed = []
    for number in range(1, 6):
        play_round(chain, FLEET)
        if number in {2, 4, 5}:
            signed.append(sign_checkpoint(chain))
    first, second, last = (entry.checkpoint for entry in signed)
    assert second.previous == checkpoint_digest(first)
    assert last.previous == checkpoint_digest(second)
    assert [entry.num_examples for entry in (first, second, last)] == [80, 80, 40]
    assert [entry.is_final for entry in (first, second, last)] == [False, False, True]
    assert all(len(entry.signatures) == 4 for entry in signed)
    for entry in signed:
        assert list(entry.signatures) == sorted(entry.signatures, key=lambda row: row.validator)


def test_an_older_checkpoint_can_still_be_signed():
    chain = make_chain()
    play_round(chain, FLEET)
    play_round(chain, FLEET)
    first = emit_checkpoint(chain)
    play_round(chain, FLEET)
    play_round(chain, FLEET)
    emit_checkpoint(chain)
    for signer in delegates(chain):
        execute(chain, chain.sign(signer, sign_body(chain, signer, first)))
    late = chain.app.state.get(CHECKPOINTS, checkpoint_key(1))
    assert late is not None
    assert len(late.signatures) == 4


def test_when_all_rounds_are_done_the_shard_finishes_with_a_final_checkpoint():
    chain = make_chain(rounds=3)
    for _ in range(3):
        play_round(chain, FLEET)
    checkpoint = emit_checkpoint(chain).checkpoint
    assert (checkpoint.is_final, checkpoint.round) == (True, 3)
    assert shard_of(chain).is_finished
    assert chain.app.next_timer() is None
    chain.block(after_ms=100_000)
    assert chain.round.number == 3
    late = chain.sign(delegates(chain)[0], commit_body(chain, FLEET))
    assert chain.app.check_tx(late) is ReasonCode.WRONG_PHASE


def test_a_shard_waits_a_while_for_the_merge_and_then_goes_on_without():
    chain = make_chain()
    play_round(chain, FLEET)
    play_round(chain, FLEET)
    closed_ms = shard_of(chain).last_closed_ms
    sign_checkpoint(chain)
    assert chain.app.next_timer() == closed_ms + 500
    chain.block(after_ms=closed_ms + 499 - chain.now_ms)
    assert chain.round.number == 2
    chain.block(after_ms=1)
    assert chain.round.number == 3


def test_blocks_are_the_same_whoever_executes_them():
    chains = [make_chain() for _ in range(2)]
    for chain in chains:
        for _ in range(2):
            play_round(chain, FLEET, scores=[5, 4, 3, -2])
        sign_checkpoint(chain)
    assert chains[0].app.state_root == chains[1].app.state_root
    assert chains[0].now_ms > GENESIS_MS
