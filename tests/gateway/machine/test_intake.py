"""Taking updates in: what is promised, what is refused and why, and what nothing can disturb."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from headwater_gateway.machine import intake as intake_module
from headwater_gateway.machine.effects import Submit, TakeIn
from headwater_protocol.chain.genesis import Parameters
from headwater_protocol.chain.incentives import Incentives
from headwater_protocol.chain.transaction import CommitUpdates
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.identifiers import Digest, Height, NumExamples, RoundNumber, Signature
from headwater_protocol.messages.receipt import Stage
from headwater_protocol.messages.update import MAX_UPDATE_BYTES
from headwater_protocol.reasons import ReasonCode
from tests.support.gateway_support import LINGER, SHARD_0, Bench, gateway_task, make_payload
from tests.support.network import key

STRANGER = key("stranger")
OTHER_SIZES = (6, 5)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_update_is_answered_only_once_its_commit_is_final(bench: Bench) -> None:
    device = bench.devices[0]
    update = bench.update(device)
    bench.publish(update)
    bench.pass_ms(LINGER)
    assert bench.blobs.get(blob_digest(update.payload)) == update.payload
    assert bench.receipts(device) == []
    bench.mine(SHARD_0)
    (receipt,) = bench.receipts(device)
    assert receipt.reason is ReasonCode.OK
    assert receipt.payload == blob_digest(update.payload)
    assert receipt.round == update.round
    assert receipt.height == bench.shard.app.height


def test_updates_that_come_together_share_a_transaction(bench: Bench) -> None:
    bench.publish_all()
    bench.pass_ms(LINGER)
    (signed,) = bench.bodies(CommitUpdates)
    body = signed.transaction.body
    assert isinstance(body, CommitUpdates)
    assert [commit.device for commit in body.commits] == sorted(bench.device_ids)


def spoiled(**changes: object) -> Callable[[Bench], bytes]:
    return lambda bench: encode_record(bench.update(bench.devices[0], **changes))  # type: ignore[arg-type]


BAD_MESSAGES: dict[str, tuple[Callable[[Bench], bytes], ReasonCode]] = {
    "empty": (lambda bench: b"", ReasonCode.BAD_ENCODING),
    "truncated": (lambda bench: spoiled()(bench)[:-1], ReasonCode.BAD_ENCODING),
    "trailing": (lambda bench: spoiled()(bench) + b"\0", ReasonCode.BAD_ENCODING),
    # The array's head in two bytes where one is enough.
    "non-canonical": (
        lambda bench: b"\x98" + bytes([spoiled()(bench)[0] & 31]) + spoiled()(bench)[1:],
        ReasonCode.BAD_ENCODING,
    ),
    "over the task's limit": (spoiled(payload=bytes(2_000)), ReasonCode.TOO_LARGE),
    "over every limit": (lambda bench: bytes(MAX_UPDATE_BYTES + 1), ReasonCode.TOO_LARGE),
    "no examples": (spoiled(num_examples=NumExamples(0)), ReasonCode.OUT_OF_BOUNDS),
    "stale round": (spoiled(round=RoundNumber(0)), ReasonCode.STALE_ROUND),
    "round to come": (spoiled(round=RoundNumber(9)), ReasonCode.STALE_ROUND),
    "wrong base": (spoiled(base=Digest(b"b" * 32)), ReasonCode.WRONG_BASE),
    "wrong signature": (spoiled(signature=b"s" * 64), ReasonCode.BAD_SIGNATURE),
    "no payload": (spoiled(payload=b"no delta"), ReasonCode.BAD_ENCODING),
    "wrong tensor shape": (
        spoiled(payload=make_payload(tensor_sizes=OTHER_SIZES)),
        ReasonCode.BAD_ENCODING,
    ),
    "wrong number of tensors": (
        spoiled(payload=make_payload(tensor_sizes=(10,))),
        ReasonCode.OUT_OF_BOUNDS,
    ),
    "device of another": (spoiled(device=STRANGER.device), ReasonCode.NOT_PERMITTED),
}


@pytest.mark.parametrize("name", sorted(BAD_MESSAGES))
def test_bad_update_is_refused_with_its_reason_and_the_honest_beside_it_are_taken(
    bench: Bench, name: str
) -> None:
    make, reason = BAD_MESSAGES[name]
    bad, *honest = bench.devices
    bench.send(bench.topics.update(bad.device), make(bench))
    for device in honest:
        bench.publish(bench.update(device))
    bench.pass_ms(LINGER)
    bench.mine(SHARD_0)
    assert bench.reasons(bad) == [reason]
    assert bench.metrics.refused == {reason: 1}
    assert bench.metrics.round(SHARD_0, RoundNumber(1)).refused == {reason: 1}
    assert [bench.reasons(device) for device in honest] == [[ReasonCode.OK]] * len(honest)
    assert bench.shard.round.num_updates == len(honest)


def test_payload_that_claims_to_unpack_to_more_than_the_model_is_refused(bench: Bench) -> None:
    huge = make_payload(tensor_sizes=(200, 200))
    bench.publish(bench.update(bench.devices[0], huge))
    bench.pass_ms(LINGER)
    assert bench.reasons(bench.devices[0]) in ([ReasonCode.BAD_ENCODING], [ReasonCode.TOO_LARGE])


def test_unknown_device_is_told_so(bench: Bench) -> None:
    bench.publish(bench.update(STRANGER))
    assert bench.reasons(STRANGER) == [ReasonCode.NOT_ENROLLED]


def test_device_outside_the_cohort_is_told_so(tmp_path: Path) -> None:
    bench = Bench(tmp_path, num_devices=6, task=gateway_task(cohort_size=2))
    bench.publish_all()
    bench.pass_ms(LINGER)
    bench.mine(SHARD_0)
    reasons = sorted(reason for device in bench.devices for reason in bench.reasons(device))
    assert reasons == [ReasonCode.NOT_IN_COHORT] * 4 + [ReasonCode.OK] * 2


def test_device_enrolled_after_the_draw_is_told_so(bench: Bench) -> None:
    bench.shard.now_ms = bench.now_ms
    bench.shard.enrol(STRANGER)
    bench.now_ms = bench.shard.now_ms
    bench.mine(SHARD_0)
    bench.publish(bench.update(STRANGER))
    assert bench.reasons(STRANGER) == [ReasonCode.NOT_IN_COHORT]


def test_update_on_another_devices_topic_is_not_taken_for_either(bench: Bench) -> None:
    one, two, _ = bench.devices
    bench.publish(bench.update(one), topic=bench.topics.update(two.device))
    bench.settle(1)
    assert bench.reasons(two) == [ReasonCode.NOT_PERMITTED]
    assert bench.reasons(one) == []
    assert bench.shard.round.num_updates == 0


def test_repeat_of_an_update_under_way_is_not_taken_twice(bench: Bench) -> None:
    update = bench.update(bench.devices[0])
    for _ in range(3):
        bench.publish(update)
    bench.pass_ms(LINGER)
    bench.publish(update)
    bench.pass_ms(LINGER)
    bench.mine(SHARD_0)
    assert bench.reasons(bench.devices[0]) == [ReasonCode.OK]
    assert bench.metrics.refused == {}


def test_repeat_of_an_update_on_the_ledger_gets_its_receipt_again(bench: Bench) -> None:
    update = bench.update(bench.devices[0])
    bench.publish(update)
    bench.settle(1)
    bench.publish(update)
    bench.boot()
    bench.publish(update)
    assert bench.reasons(bench.devices[0]) == [ReasonCode.OK] * 3


def test_repeat_of_an_update_of_a_closed_round_gets_its_receipt_again(bench: Bench) -> None:
    updates = bench.publish_all()
    bench.settle(8)
    assert bench.shard.round.number > 1
    bench.published.clear()
    bench.publish(updates[0])
    (receipt,) = bench.receipts(bench.devices[0])
    assert (receipt.round, receipt.reason) == (1, ReasonCode.OK)


def test_second_update_of_a_device_is_a_duplicate(bench: Bench) -> None:
    device = bench.devices[0]
    bench.publish(bench.update(device, make_payload(1)))
    bench.publish(bench.update(device, make_payload(2)))
    bench.settle(1)
    bench.publish(bench.update(device, make_payload(3)))
    assert sorted(bench.reasons(device)) == [ReasonCode.DUPLICATE] * 2 + [ReasonCode.OK]
    taken = blob_digest(make_payload(1))
    assert [r.payload for r in bench.receipts(device) if r.reason is ReasonCode.OK] == [taken]


@pytest.mark.parametrize("is_first", [True, False])
def test_forged_update_does_not_keep_the_honest_one_out(bench: Bench, *, is_first: bool) -> None:
    device = bench.devices[0]
    honest = bench.update(device, make_payload(1))
    forged = bench.update(device, make_payload(2), signature=b"f" * 64)
    for update in (forged, honest) if is_first else (honest, forged):
        bench.publish(update)
    bench.settle(1)
    answers = {receipt.payload: receipt.reason for receipt in bench.receipts(device)}
    assert answers == {
        blob_digest(honest.payload): ReasonCode.OK,
        blob_digest(forged.payload): ReasonCode.BAD_SIGNATURE,
    }


@pytest.mark.parametrize("is_first", [True, False])
def test_forged_copy_of_an_update_is_not_answered_in_its_name(
    bench: Bench, *, is_first: bool
) -> None:
    device = bench.devices[0]
    honest = bench.update(device)
    forged = replace(honest, signature=Signature(b"f" * 64))
    for update in (forged, honest) if is_first else (honest, forged):
        bench.publish(update)
    bench.settle(1)
    assert bench.reasons(device) == [ReasonCode.OK]
    assert bench.metrics.refused == {ReasonCode.BAD_SIGNATURE: 1}


def test_gateway_is_busy_one_past_its_limit(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "MAX_WAITING_UPDATES", 2)
    bench.publish_all()
    assert [bench.reasons(device) for device in bench.devices] == [[], [], [ReasonCode.BUSY]]
    bench.settle(1)
    last = bench.devices[2]
    bench.publish(bench.update(last, make_payload(2)))
    bench.settle(1)
    assert bench.reasons(last) == [ReasonCode.BUSY, ReasonCode.OK]


def test_full_batch_leaves_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "MAX_BATCH_COMMITS", 2)
    bench.kept = (TakeIn,)
    bench.publish_all()
    assert [len(work.updates) for work in bench.worked if isinstance(work, TakeIn)] == [2]
    assert bench.machine.next_timer() is not None


def test_engine_that_is_full_makes_the_gateway_say_busy(bench: Bench) -> None:
    bench.away.add(SHARD_0)
    bench.publish_all()
    bench.pass_ms(LINGER)
    assert {reason for d in bench.devices for reason in bench.reasons(d)} == {ReasonCode.BUSY}
    assert bench.metrics.refused_transactions[ReasonCode.BUSY] == 1
    bench.away.clear()
    bench.publish_all()
    bench.settle(1)
    assert [bench.reasons(device)[-1] for device in bench.devices] == [ReasonCode.OK] * 3


def test_update_that_misses_the_round_is_told_so_under_its_own_round(bench: Bench) -> None:
    bench.loses = lambda body: isinstance(body, CommitUpdates)
    bench.publish_all()
    bench.pass_ms(LINGER)
    bench.now_ms = bench.shard.round.collect_until_ms
    bench.mine(SHARD_0)
    for device in bench.devices:
        (receipt,) = bench.receipts(device)
        assert (receipt.round, receipt.reason) == (1, ReasonCode.STALE_ROUND)
        assert receipt.height == Height(0)


def test_blocks_that_pass_unseen_do_not_make_a_false_promise(bench: Bench) -> None:
    """The round closes and the next one opens between two calls; the answer is for the first."""
    bench.publish_all(bench.devices[:1])
    bench.kept = (TakeIn, Submit)
    bench.pass_ms(LINGER)
    (work,) = (entry for entry in bench.worked if isinstance(entry, TakeIn))
    bench.machine.on_taken_in(work, (ReasonCode.OK,), bench.now_ms)
    bench.perform()
    (submit,) = (entry for entry in bench.worked if isinstance(entry, Submit))
    chain = bench.shard
    chain.now_ms = bench.now_ms
    chain.block(submit.transaction)
    for _ in range(3):
        chain.block(after_ms=60_000)
    assert chain.round.number == 2
    bench.now_ms = chain.now_ms
    tip = bench.tip(SHARD_0)
    assert tip is not None
    bench.machine.on_finalized(SHARD_0, tip, bench.now_ms)
    bench.perform()
    (receipt,) = bench.receipts(bench.devices[0])
    assert (receipt.round, receipt.reason) == (1, ReasonCode.OK)


def test_refusal_of_an_old_batch_leaves_the_next_rounds_update_alone(bench: Bench) -> None:
    device = bench.devices[0]
    bench.kept = (Submit,)
    bench.publish(bench.update(device))
    bench.pass_ms(LINGER)
    (late,) = (entry for entry in bench.worked if isinstance(entry, Submit))
    bench.kept = ()
    bench.now_ms = bench.shard.round.collect_until_ms
    bench.mine(SHARD_0)
    while bench.shard.round.number == 1:
        bench.settle(1)
    bench.publish(bench.update(device))
    bench.machine.on_submitted(late, ReasonCode.STALE_ROUND, bench.now_ms)
    bench.settle(1)
    assert bench.reasons(device) == [ReasonCode.STALE_ROUND, ReasonCode.OK]


def test_conflict_with_another_gateway_costs_only_what_it_took(bench: Bench) -> None:
    """Batches are taken whole or not at all, so what the other left over is tried again."""
    one, two, three = bench.devices
    updates = [bench.update(device, make_payload(n)) for n, device in enumerate(bench.devices)]
    other = bench.cast.validators[SHARD_0][1]
    commit = bench.shard.commit(one, updates[0].payload)
    bench.pool[SHARD_0].append(
        bench.shard.sign(other, CommitUpdates(round=RoundNumber(1), commits=(commit,)))
    )
    for update in updates:
        bench.publish(update)
    bench.kept = (Submit,)
    bench.pass_ms(LINGER)
    bench.mine(SHARD_0)
    (late,) = (e for e in bench.worked if isinstance(e, Submit) and "batch" in e.ticket)
    bench.kept = ()
    bench.machine.on_submitted(late, ReasonCode.DUPLICATE, bench.now_ms)
    bench.perform()
    bench.settle(1)
    assert [bench.reasons(d) for d in (one, two, three)] == [[ReasonCode.OK]] * 3


def test_batch_that_is_refused_is_parted_until_the_culprit_stands_alone(bench: Bench) -> None:
    bench.kept = (Submit,)
    bench.publish_all()
    bench.pass_ms(LINGER)
    culprit = min(bench.devices, key=lambda device: device.device)
    for _ in range(4):
        batches = [e for e in bench.worked if isinstance(e, Submit) and "batch" in e.ticket]
        bench.worked.clear()
        for submit in batches:
            data = submit.transaction
            is_bad = culprit.device in data
            if not is_bad:
                bench.pool[SHARD_0].append(data)
            reason = ReasonCode.BAD_SIGNATURE if is_bad else ReasonCode.OK
            bench.machine.on_submitted(submit, reason, bench.now_ms)
        bench.perform()
    bench.mine(SHARD_0)
    assert bench.reasons(culprit) == [ReasonCode.BAD_SIGNATURE]
    honest = [device for device in bench.devices if device is not culprit]
    assert [bench.reasons(device) for device in honest] == [[ReasonCode.OK]] * 2


def test_payload_that_another_device_sent_is_taken_of_the_first_one_only(bench: Bench) -> None:
    one, two, _ = bench.devices
    copied = make_payload()
    bench.publish(bench.update(one, copied))
    bench.publish(bench.update(two, copied))
    bench.pass_ms(LINGER)
    bench.mine(SHARD_0)
    assert bench.reasons(one) == [ReasonCode.OK]
    assert bench.reasons(two) == [ReasonCode.DUPLICATE]
    bench.publish(bench.update(two))
    bench.settle(1)
    assert bench.reasons(two) == [ReasonCode.DUPLICATE, ReasonCode.OK]


def test_forged_copy_does_not_keep_the_original_out(bench: Bench) -> None:
    one, two, _ = bench.devices
    payload = make_payload()
    bench.publish(bench.update(two, payload, signature=b"s" * 64))
    bench.publish(bench.update(one, payload))
    bench.pass_ms(LINGER)
    bench.mine(SHARD_0)
    assert bench.reasons(one) == [ReasonCode.OK]


def test_payload_that_another_gateway_took_is_told_and_the_rest_of_its_batch_taken(
    bench: Bench,
) -> None:
    one, two, three = bench.devices
    copied = make_payload()
    other = bench.cast.validators[SHARD_0][1]
    commit = bench.shard.commit(three, copied)
    bench.pool[SHARD_0].append(
        bench.shard.sign(other, CommitUpdates(round=RoundNumber(1), commits=(commit,)))
    )
    bench.publish(bench.update(one, copied))
    bench.publish(bench.update(two))
    bench.kept = (Submit,)
    bench.pass_ms(LINGER)
    bench.mine(SHARD_0)
    assert bench.reasons(one) == [ReasonCode.DUPLICATE]
    (late,) = (e for e in bench.worked if isinstance(e, Submit) and "batch" in e.ticket)
    bench.kept = ()
    bench.machine.on_submitted(late, ReasonCode.DUPLICATE, bench.now_ms)
    bench.perform()
    bench.settle(1)
    assert bench.reasons(two) == [ReasonCode.OK]


def test_device_in_quarantine_is_told_so(tmp_path: Path) -> None:
    parameters = Parameters(
        checkpoint_interval=4,
        checkpoints_per_epoch=1,
        merge_wait_ms=1_000,
        epoch_timeout_ms=60_000,
        retention_rounds=3,
        clock_drift_ms=1_000,
        incentives=Incentives(quarantine_strikes=1, quarantine_rounds=5),
    )
    bench = Bench(tmp_path, parameters=parameters)
    bad, *_ = bench.devices
    bench.score_of = lambda work, commit: -3_000 if commit.device == bad.device else 4_000
    bench.publish_all()
    bench.settle(7)
    assert bench.shard.round.number == 2
    bench.publish(bench.update(bad))
    assert bench.reasons(bad)[-1] is ReasonCode.QUARANTINED


def test_commit_that_the_pool_lost_is_submitted_again(bench: Bench) -> None:
    bench.loses = lambda body: isinstance(body, CommitUpdates)
    update = bench.update(bench.devices[0])
    bench.publish(update)
    bench.pass_ms(LINGER)
    bench.loses = lambda body: False
    bench.publish(update)
    bench.pass_ms(intake_module.PATIENCE_MS)
    bench.mine(SHARD_0)
    assert bench.reasons(bench.devices[0]) == [ReasonCode.OK]


def test_update_taken_in_before_a_crash_is_taken_again_after_it(bench: Bench) -> None:
    update = bench.update(bench.devices[0])
    bench.publish(update)
    bench.pass_ms(LINGER)
    bench.pool[SHARD_0].clear()
    bench.boot()
    bench.publish(update)
    bench.settle(1)
    assert bench.reasons(bench.devices[0]) == [ReasonCode.OK]


def test_verdicts_come_when_the_round_closes(bench: Bench) -> None:
    bad, *honest = bench.devices
    bench.score_of = lambda work, commit: -3_000 if commit.device == bad.device else 4_000
    bench.publish_all()
    bench.settle(1)
    assert bench.receipts(bad, stage=Stage.VERDICT) == []
    bench.settle(6)
    (verdict,) = bench.receipts(bad, stage=Stage.VERDICT)
    assert (verdict.reason, verdict.score, verdict.reward) == (ReasonCode.LOW_SCORE, -3_000, 0)
    for device in honest:
        (verdict,) = bench.receipts(device, stage=Stage.VERDICT)
        assert (verdict.round, verdict.reason, verdict.score) == (1, ReasonCode.OK, 4_000)
        assert verdict.reward > 0
        assert verdict.height > 0
