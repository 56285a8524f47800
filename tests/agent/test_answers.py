"""What receipts mean to a device, and what becomes of an update that never counted."""

from dataclasses import replace

import numpy as np
import pytest

from headwater_agent.machine.effects import Persist, Publish
from headwater_agent.machine.inputs import Arrived, Connected, Connecting, Disconnected
from headwater_agent.machine.limits import MAX_RECEIPTS, DeviceLimits
from headwater_agent.machine.outbox import MAX_QUESTIONS
from headwater_protocol.chain.block import NO_DIGEST
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.identifiers import Digest, RoundNumber, Signature, Units
from headwater_protocol.messages.receipt import Stage, decode_receipt
from headwater_protocol.messages.update import Update
from headwater_protocol.model.payload import decode_payload
from headwater_protocol.model.quantized_delta import dequantize
from headwater_protocol.reasons import ReasonCode
from tests.support.agent_support import (
    BASE,
    COLLECT_MS,
    DELTA,
    PROGRAM,
    START_MS,
    Net,
    World,
    only,
    shape_of,
    updates_in,
)

END_MS = START_MS + COLLECT_MS
LIMITS = DeviceLimits(first_resend_ms=1_000, max_resend_ms=8_000)


def residual_of(world: World) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    assert world.disk.residual is not None
    return np.frombuffer(world.disk.residual.values, "<f4")


def test_update_without_a_receipt_is_sent_again_with_growing_waits_until_the_deadline() -> None:
    world = World(limits=LIMITS)
    world.connect()
    update = world.sign_round()
    sent_ms = []
    while (due_ms := world.device.next_timer()) is not None:
        if updates := updates_in(world.run_timers(due_ms)):
            assert updates == [update]
            sent_ms.append(world.now_ms - START_MS)
    questions = [at_ms for at_ms in sent_ms if at_ms >= COLLECT_MS]
    assert len(questions) == MAX_QUESTIONS
    assert questions[-1] < COLLECT_MS + MAX_QUESTIONS * 8_000
    sent_ms = sent_ms[: -len(questions)]
    waits = np.diff([0, *sent_ms])
    for wait, shortest in zip(waits[:4], (500, 1_000, 2_000, 4_000), strict=True):
        assert shortest <= wait <= 2 * shortest
    assert max(waits) <= 8_000
    assert 8 <= len(waits) <= 20
    assert sent_ms[-1] < COLLECT_MS
    assert world.disk.outbox is None


def test_promise_ends_the_sending_and_survives_a_restart() -> None:
    world = World(limits=LIMITS)
    world.connect()
    update = world.sign_round()
    world.tell(world.net.answered(update))
    assert world.disk.outbox is not None
    assert world.disk.outbox.is_held
    world.restart()
    world.connect()
    assert not updates_in(world.run_timers(END_MS))


def test_reconnect_sends_what_has_no_receipt_after_a_jittered_wait() -> None:
    world = World()
    world.connect()
    update = world.sign_round()
    world.tell(Disconnected())
    world.now_ms += 20_000
    assert not updates_in(world.connect())
    assert updates_in(world.run_timers(world.now_ms + 2_000)) == [update]


def test_restart_sends_the_stored_update_as_it_is() -> None:
    world = World()
    world.connect()
    update = world.sign_round()
    world.restart()
    world.connect()
    assert updates_in(world.run_timers(START_MS + 3_000))[0] == update
    assert world.tell(world.net.announced()) == []


def test_one_refusal_of_four_gateways_does_not_end_the_sending_and_two_do() -> None:
    world = World(limits=LIMITS)
    world.connect()
    update = world.sign_round()
    world.tell(world.net.answered(update, ReasonCode.NOT_ENROLLED, gateway=0))
    assert updates_in(world.run_timers(START_MS + 2_000))
    world.tell(world.net.answered(update, ReasonCode.NOT_ENROLLED, gateway=0))
    assert updates_in(world.run_timers(START_MS + 8_000))
    world.tell(world.net.answered(update, ReasonCode.NOT_ENROLLED, gateway=1))
    assert not updates_in(world.run_timers(END_MS))
    assert world.disk.outbox is None


def test_refusals_survive_a_restart() -> None:
    world = World(Net(num_delegates=1))
    world.connect()
    update = world.sign_round()
    world.tell(world.net.answered(update, ReasonCode.QUARANTINED))
    world.restart()
    world.connect()
    assert not updates_in(world.run_timers(END_MS))


def test_promise_after_a_refusal_counts() -> None:
    world = World()
    world.connect()
    update = world.sign_round()
    before = residual_of(world).copy()
    for gateway in (0, 1):
        world.tell(world.net.answered(update, ReasonCode.WRONG_BASE, gateway=gateway))
    world.tell(world.net.answered(update, gateway=2))
    world.run_timers(END_MS + COLLECT_MS)
    np.testing.assert_array_equal(residual_of(world), before)


def test_busy_gateway_gets_the_update_later_and_nothing_is_written() -> None:
    world = World(limits=LIMITS)
    world.connect()
    update = world.sign_round()
    for _ in range(5):
        effects = world.tell(world.net.answered(update, ReasonCode.BUSY))
        assert not only(effects, Persist)
    assert not updates_in(world.run_timers(START_MS + 900))
    assert updates_in(world.run_timers(START_MS + 3_000)) == [update]
    assert world.device.answers[ReasonCode.BUSY] == 5


def test_flood_of_busy_never_pushes_the_next_send_past_the_longest_wait() -> None:
    world = World(limits=LIMITS)
    world.connect()
    update = world.sign_round()
    for _ in range(1_000):
        world.tell(world.net.answered(update, ReasonCode.BUSY))
    due_ms = world.device.next_timer()
    assert due_ms is not None
    assert due_ms <= world.now_ms + 8_000


def test_duplicate_of_this_payload_is_a_promise() -> None:
    world = World()
    world.connect()
    update = world.sign_round()
    world.tell(world.net.answered(update, ReasonCode.DUPLICATE))
    assert world.disk.outbox is not None
    assert world.disk.outbox.is_held


def test_duplicate_of_another_payload_is_none() -> None:
    world = World()
    world.connect()
    update = world.sign_round()
    world.tell(world.net.answered(update, ReasonCode.DUPLICATE, payload=Digest(b"x" * 32)))
    world.tell(world.net.answered(update, ReasonCode.DUPLICATE, payload=NO_DIGEST))
    assert world.disk.outbox is not None
    assert not world.disk.outbox.is_held
    assert world.device.counters == {ReasonCode.WRONG_DIGEST: 1}


@pytest.mark.parametrize(
    "reason", [ReasonCode.STALE_ROUND, ReasonCode.NOT_IN_COHORT, ReasonCode.BUDGET_SPENT]
)
def test_update_that_never_counted_returns_to_the_residual(reason: ReasonCode) -> None:
    world = World(Net(num_delegates=1))
    world.connect()
    update = world.sign_round()
    world.tell(world.net.answered(update, reason))
    world.run_timers(END_MS)
    assert world.disk.outbox is None
    np.testing.assert_allclose(residual_of(world), DELTA, atol=1e-6)


@pytest.mark.parametrize("reason", [ReasonCode.LOW_SCORE, ReasonCode.OK])
def test_verdict_ends_the_wait_and_keeps_what_was_sent_out(reason: ReasonCode) -> None:
    world = World()
    world.connect()
    update = world.sign_round()
    before = residual_of(world).copy()
    world.tell(world.net.answered(update))
    world.tell(world.net.answered(update, reason, stage=Stage.VERDICT, reward=Units(5)))
    assert world.disk.outbox is None
    np.testing.assert_array_equal(residual_of(world), before)
    assert world.disk.answers[reason] >= 1
    assert world.disk.receipts[-1].receipt.reward == 5


def test_verdict_that_the_payload_was_lost_returns_it() -> None:
    world = World()
    world.connect()
    update = world.sign_round()
    world.tell(world.net.answered(update))
    world.tell(world.net.answered(update, ReasonCode.UNAVAILABLE, stage=Stage.VERDICT))
    np.testing.assert_allclose(residual_of(world), DELTA, atol=1e-6)


def test_malformed_update_is_not_given_back() -> None:
    world = World(Net(num_delegates=1))
    world.connect()
    update = world.sign_round()
    before = residual_of(world).copy()
    world.tell(world.net.answered(update, ReasonCode.OUT_OF_BOUNDS))
    world.run_timers(END_MS)
    np.testing.assert_array_equal(residual_of(world), before)


def test_device_that_is_always_late_carries_one_round_at_the_most() -> None:
    world = World()
    world.connect()
    for number in range(1, 8):
        world.now_ms = START_MS + (number - 1) * COLLECT_MS
        world.sign_round(number)
    world.run_timers(START_MS + 8 * COLLECT_MS)
    norm = np.linalg.norm(residual_of(world))
    assert norm <= np.linalg.norm(DELTA) * 1.001


def test_new_announcement_closes_the_round_before() -> None:
    world = World()
    world.connect()
    update = world.sign_round(1)
    for gateway in (0, 1):
        world.tell(world.net.answered(update, ReasonCode.WRONG_BASE, gateway=gateway))
    effects = world.tell(world.net.announced(2))
    assert shape_of(effects)[:2] == ["persist", "notice returned wrong_base"]


def test_held_update_waits_for_its_verdict_until_the_next_one_is_signed() -> None:
    world = World()
    world.connect()
    update = world.sign_round(1)
    world.tell(world.net.answered(update))
    world.begin_round(2)
    assert world.disk.outbox is not None
    assert world.disk.outbox.round == 1
    world.train(2)
    assert world.disk.outbox.round == 2


def test_held_update_is_dropped_when_no_verdict_comes() -> None:
    world = World()
    world.connect()
    update = world.sign_round()
    world.tell(world.net.answered(update))
    world.run_timers(END_MS + 40_000)
    assert world.disk.outbox is None


def test_forged_foreign_and_stale_receipts_change_nothing() -> None:
    world = World()
    world.connect()
    update = world.sign_round()
    net, disk = world.net, world.disk
    good = decode_receipt(net.answered(update).payload)
    forged = replace(good, signature=Signature(bytes(64)))
    topic = net.topics.receipt(update.device)
    world.tell(
        Arrived(topic=topic, payload=encode_record(forged)),
        net.answered(update, gateway=SecretKey(b"z" * 32)),
        net.answered(update, round=RoundNumber(2)),
        net.answered(update, device=net.delegates[0].device),
        net.answered(update, payload=Digest(b"x" * 32)),
        Arrived(topic=topic, payload=b"\x80"),
        Arrived(topic=topic, payload=bytes(2_000)),
    )
    assert world.disk == disk
    assert world.device.counters == {
        ReasonCode.BAD_SIGNATURE: 1,
        ReasonCode.NOT_PERMITTED: 1,
        ReasonCode.STALE_ROUND: 1,
        ReasonCode.OUT_OF_BOUNDS: 1,
        ReasonCode.WRONG_DIGEST: 1,
        ReasonCode.BAD_ENCODING: 1,
        ReasonCode.TOO_LARGE: 1,
    }


def test_repeated_answer_is_written_once() -> None:
    world = World()
    world.connect()
    update = world.sign_round()
    answer = world.net.answered(update, ReasonCode.NOT_ENROLLED)
    assert only(world.tell(answer), Persist)
    for _ in range(100):
        assert world.tell(answer) == []


def test_receipts_are_kept_up_to_their_limit() -> None:
    world = World(Net(num_delegates=3))
    world.connect()
    for number in range(1, MAX_RECEIPTS // 2 + 3):
        world.now_ms = START_MS + (number - 1) * COLLECT_MS
        update = world.sign_round(number)
        world.tell(
            world.net.answered(update), world.net.answered(update, stage=Stage.VERDICT, gateway=1)
        )
    assert len(world.disk.receipts) == MAX_RECEIPTS
    assert world.disk.receipts[-1].receipt.round == MAX_RECEIPTS // 2 + 2


def test_update_signed_while_disconnected_goes_out_on_connecting() -> None:
    world = World()
    world.connect()
    world.begin_round()
    world.tell(Disconnected())
    assert not only(world.train(), Publish)
    world.tell(Connecting())
    world.tell(Connected(session=world.device.state.session))
    assert updates_in(world.run_timers(START_MS + 3_000))


def lose_the_receipt(world: World) -> Update:
    """Send an update whose receipt is lost, and hear of the next round only."""
    world.connect()
    update = world.sign_round(1)
    world.tell(Disconnected())
    world.now_ms = END_MS + 1_000
    world.restart()
    world.connect()
    world.tell(world.net.announced(2))
    return update


def test_update_whose_receipt_was_lost_is_asked_about_before_it_is_given_back() -> None:
    world = World()
    update = lose_the_receipt(world)
    before = residual_of(world).copy()
    assert updates_in(world.run_timers(world.now_ms + 2_000)) == [update]
    world.tell(world.net.answered(update))
    world.begin_round(2)
    world.run_timers(END_MS + 3 * COLLECT_MS)
    np.testing.assert_array_equal(residual_of(world), before)


def test_update_that_the_ledger_lacks_is_given_back_at_one_delegates_word() -> None:
    world = World()
    update = lose_the_receipt(world)
    world.run_timers(world.now_ms + 2_000)
    effects = world.tell(world.net.answered(update, ReasonCode.STALE_ROUND))
    assert "notice returned stale_round" in shape_of(effects)
    assert world.disk.outbox is None
    np.testing.assert_allclose(residual_of(world), DELTA, atol=1e-6)
    assert not updates_in(world.run_timers(world.now_ms + 10_000))


def test_update_that_nobody_answers_for_is_given_back_to_the_next_one() -> None:
    world = World()
    lose_the_receipt(world)
    world.tell(*world.net.pieces(BASE), *world.net.pieces(PROGRAM))
    zeros = np.zeros_like(DELTA)
    (following,) = updates_in(world.train(2, delta=zeros))
    assert following.round == 2
    sent = decode_payload(
        following.payload,
        tensor_sizes=world.net.task.tensor_sizes,
        bits=world.net.task.codec.bits,
        fraction_bits=world.net.task.fraction_bits,
        max_bytes=1 << 20,
    )
    np.testing.assert_allclose(dequantize(sent) + residual_of(world), DELTA, atol=1e-6)


def test_update_that_never_left_is_given_back_at_once() -> None:
    world = World()
    world.connect()
    world.begin_round(1)
    world.tell(Disconnected())
    assert not updates_in(world.train(1))
    world.now_ms = END_MS + 1_000
    world.connect()
    effects = world.tell(world.net.announced(2))
    assert "notice returned stale_round" in shape_of(effects)
