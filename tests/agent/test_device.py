"""The device's state machine: a round from announcement to verdict."""

import numpy as np
import pytest

from headwater_agent.device import Device
from headwater_agent.machine.effects import (
    Event,
    Notice,
    OpenConnection,
    Persist,
    Publish,
    Subscribe,
    Train,
)
from headwater_agent.machine.inputs import (
    Arrived,
    Connected,
    Connecting,
    Disconnected,
    Stopping,
    Trained,
    TrainingFailed,
)
from headwater_agent.machine.limits import DeviceLimits
from headwater_agent.state import DeviceState
from headwater_protocol.chain.claim import update_message
from headwater_protocol.chain.round import RoundPhase
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.crypto.signing import DirectVerifier
from headwater_protocol.errors import ConfigError
from headwater_protocol.identifiers import ChainId, Digest, Network, RoundNumber, TimeMs
from headwater_protocol.messages.status import decode_status, verify_status
from headwater_protocol.messages.update import update_claim
from headwater_protocol.model.payload import decode_payload
from headwater_protocol.model.quantized_delta import dequantize
from headwater_protocol.reasons import ReasonCode
from tests.support.agent_support import (
    BASE,
    COLLECT_MS,
    DELTA,
    DEVICE_KEY,
    ENTROPY,
    PROGRAM,
    SHARD,
    START_MS,
    TENSOR_SIZES,
    Net,
    World,
    make_task,
    only,
    requests_in,
    shape_of,
    updates_in,
)


def test_a_round_from_connection_to_promise_is_this_trace() -> None:
    world = World()
    world.connect()
    update = world.sign_round()
    world.tell(world.net.answered(update))
    assert shape_of(world.trace) == [
        "persist",
        "openconnection",
        "subscribe 4",
        "publish status",
        "notice fetching ok",
        "subscribe 2",
        "unsubscribe 1",
        "unsubscribe 1",
        "persist",
        "notice training ok",
        "train",
        "persist",
        "notice signed ok",
        "publish update",
        "persist",
        "notice held ok",
    ]


def test_update_is_on_disk_before_it_is_sent() -> None:
    world = World()
    world.connect()
    world.begin_round()
    effects = world.train()
    persists = [index for index, effect in enumerate(effects) if isinstance(effect, Persist)]
    sends = [index for index, effect in enumerate(effects) if isinstance(effect, Publish)]
    assert len(persists) == len(sends) == 1
    assert persists[0] < sends[0]
    persist, send = effects[persists[0]], effects[sends[0]]
    assert isinstance(persist, Persist)
    assert isinstance(send, Publish)
    assert persist.changes.outbox is not None
    assert persist.changes.outbox.update == send.payload
    assert persist.changes.last_signed_round == 1


def test_update_holds_the_signed_delta() -> None:
    world = World()
    world.connect()
    update = world.sign_round()
    claim = update_claim(update, SHARD)
    assert DirectVerifier().verify(
        DEVICE_KEY.public_key, update_message(world.net.network, claim), update.signature
    )
    assert (update.round, update.base, update.num_examples) == (1, blob_digest(BASE), 7)
    sent = dequantize(
        decode_payload(
            update.payload, tensor_sizes=TENSOR_SIZES, bits=4, fraction_bits=20, max_bytes=10_000
        )
    )
    assert world.disk.residual is not None
    residual = np.frombuffer(world.disk.residual.values, "<f4")
    np.testing.assert_allclose(sent + residual, DELTA, atol=1e-6)


def test_training_request_carries_base_program_and_plan() -> None:
    world = World()
    world.connect()
    (request,) = requests_in(world.begin_round())
    assert request.program == PROGRAM
    assert request.program_digest == blob_digest(PROGRAM)
    assert request.tensor_sizes == TENSOR_SIZES
    assert request.training == world.net.task.training
    assert request.parameters.dtype == np.float32
    np.testing.assert_allclose(request.parameters, np.linspace(-1, 1, 10), atol=1e-6)


def test_same_inputs_give_same_bytes() -> None:
    first, second = World(), World()
    for world in (first, second):
        world.connect()
        world.sign_round()
    assert first.disk == second.disk
    assert updates_in(first.trace) == updates_in(second.trace)


def test_program_is_fetched_once_and_survives_a_restart() -> None:
    world = World()
    world.connect()
    world.sign_round(1)
    world.restart()
    world.connect()
    effects = world.tell(world.net.announced(2))
    topics = [topic for effect in only(effects, Subscribe) for topic in effect.topics]
    assert topics == [world.net.topics.chunks(blob_digest(BASE))]
    assert requests_in(world.tell(*world.net.pieces(BASE)))


def test_base_of_the_last_round_is_not_fetched_again() -> None:
    world = World()
    world.connect()
    world.sign_round(1)
    effects = world.tell(world.net.announced(2))
    assert requests_in(effects)
    assert not only(effects, Subscribe)


def test_device_outside_the_cohort_does_not_train() -> None:
    world = World()
    world.connect()
    effects = world.begin_round(rank_threshold=Digest(bytes(32)))
    assert shape_of(effects) == ["notice skipped not_in_cohort"]


def test_weight_of_the_enrolment_decides_the_draw() -> None:
    # The draw multiplies all weights alike, so that a device that is owed less can weigh less.
    threshold = Digest(b"\x00" * 2 + b"\x00\x10" + b"\xff" * 28)
    light, heavy = World(weight=1), World(weight=1_000_000)
    for world in (light, heavy):
        world.connect()
    assert not requests_in(light.begin_round(rank_threshold=threshold))
    assert requests_in(heavy.begin_round(rank_threshold=threshold))


@pytest.mark.parametrize("phase", [RoundPhase.SCORE, RoundPhase.ATTEST, RoundPhase.CLOSED])
def test_round_that_collects_no_more_is_not_trained(phase: RoundPhase) -> None:
    world = World()
    world.connect()
    assert not requests_in(world.begin_round(phase=phase))


def test_round_whose_deadline_passed_is_not_trained() -> None:
    world = World()
    world.connect()
    world.now_ms = START_MS + COLLECT_MS
    assert shape_of(world.begin_round()) == ["notice skipped stale_round"]


def test_clock_that_is_behind_does_not_stretch_the_round() -> None:
    world = World()
    world.now_ms = 1_000_000
    world.connect()
    assert requests_in(world.begin_round())
    world.run_timers(1_000_000 + COLLECT_MS)
    assert world.device.round_in_work is None


def test_result_after_the_deadline_is_dropped_with_a_reason() -> None:
    world = World()
    world.connect()
    world.begin_round()
    world.now_ms += COLLECT_MS
    effects = world.train()
    assert not updates_in(effects)
    assert world.device.counters[ReasonCode.STALE_ROUND] == 1
    assert world.disk.last_signed_round == 0


def test_result_of_a_round_that_was_replaced_is_dropped() -> None:
    world = World()
    world.connect()
    world.begin_round(1)
    assert requests_in(world.begin_round(2))
    assert not updates_in(world.train(1))
    assert world.device.counters[ReasonCode.STALE_ROUND] == 1
    assert updates_in(world.train(2))[0].round == 2


def test_failed_training_is_counted_and_not_repeated() -> None:
    world = World()
    world.connect()
    world.begin_round()
    world.tell(
        TrainingFailed(round=RoundNumber(1), reason=ReasonCode.OUT_OF_BOUNDS, detail="diverged")
    )
    assert world.device.counters == {ReasonCode.OUT_OF_BOUNDS: 1}
    assert not requests_in(world.begin_round())
    assert requests_in(world.begin_round(2))


@pytest.mark.parametrize(
    "delta",
    [
        np.zeros(9, np.float32),
        np.zeros((2, 5), np.float32),
        np.full(10, np.nan, np.float32),
        np.full(10, np.inf, np.float32),
    ],
)
def test_delta_of_another_shape_or_not_finite_is_never_signed(
    delta: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]",
) -> None:
    world = World()
    world.connect()
    world.begin_round()
    assert not updates_in(world.train(delta=delta))
    assert world.device.counters[ReasonCode.OUT_OF_BOUNDS] == 1
    assert world.disk.outbox is None


def test_training_on_no_examples_is_never_signed() -> None:
    world = World()
    world.connect()
    world.begin_round()
    world.tell(Trained(round=RoundNumber(1), delta=DELTA, num_examples=0))
    assert world.device.counters[ReasonCode.OUT_OF_BOUNDS] == 1


def test_second_result_of_a_round_is_dropped() -> None:
    world = World()
    world.connect()
    world.sign_round()
    assert not updates_in(world.train(delta=-DELTA))
    assert world.device.counters[ReasonCode.STALE_ROUND] == 1


def test_update_at_the_outbox_limit_is_signed_and_one_past_it_is_not() -> None:
    world = World()
    world.connect()
    world.sign_round()
    assert world.disk.outbox is not None
    size = len(world.disk.outbox.update)
    for limit, count in ((size, 1), (size - 1, 0)):
        world = World(limits=DeviceLimits(max_outbox_bytes=limit))
        world.connect()
        world.begin_round()
        assert len(updates_in(world.train())) == count
        assert world.device.counters.get(ReasonCode.TOO_LARGE, 0) == 1 - count


def test_model_at_the_limit_is_trained_and_one_past_it_is_refused() -> None:
    for limit, count in ((10, 1), (9, 0)):
        world = World(limits=DeviceLimits(max_parameters=limit))
        world.connect()
        assert len(requests_in(world.begin_round())) == count
        assert world.device.counters.get(ReasonCode.TOO_LARGE, 0) == 1 - count


def test_certified_base_that_is_no_model_of_the_task_is_refused() -> None:
    world = World(Net(task=make_task(tensor_sizes=(6, 5))))
    world.connect()
    assert not requests_in(world.begin_round())
    assert world.device.counters[ReasonCode.OUT_OF_BOUNDS] == 1
    assert world.device.round_in_work is None


def test_birth_and_will_carry_the_persisted_session() -> None:
    world = World()
    for session in (1, 2):
        effects = world.tell(Connecting())
        assert isinstance(effects[0], Persist)
        opening = effects[1]
        assert isinstance(opening, OpenConnection)
        will = decode_status(opening.will.payload)
        verify_status(will, network=world.net.network, verifier=DirectVerifier())
        birth = decode_status(only(world.tell(Connected(session=session)), Publish)[0].payload)
        assert (will.status.session, will.status.is_online) == (session, False)
        assert (birth.status.session, birth.status.is_online) == (session, True)
        assert opening.will.is_retained
        assert world.disk.session == session
        world.restart()


def test_connection_of_an_older_session_is_refused() -> None:
    world = World()
    world.tell(Connecting(), Connecting())
    assert not only(world.tell(Connected(session=1)), Publish)


def test_stopping_device_says_that_it_is_offline() -> None:
    world = World()
    world.connect()
    (farewell,) = world.tell(Stopping())
    assert isinstance(farewell, Publish)
    assert not decode_status(farewell.payload).status.is_online
    world.tell(Disconnected())
    assert world.tell(Stopping()) == []


def test_reconnect_subscribes_again_to_what_is_missing() -> None:
    world = World()
    world.connect()
    world.tell(world.net.announced())
    world.tell(Disconnected())
    (subscribe,) = only(world.connect(), Subscribe)
    assert isinstance(subscribe, Subscribe)
    assert len(subscribe.topics) == 6


def test_nothing_is_sent_while_disconnected() -> None:
    world = World()
    world.connect()
    world.begin_round()
    world.tell(Disconnected())
    effects = world.train() + world.run_timers(START_MS + COLLECT_MS - 1)
    assert not only(effects, Publish)
    assert world.disk.outbox is not None


def test_announcement_that_is_delivered_again_changes_nothing() -> None:
    world = World()
    world.connect()
    world.begin_round()
    assert world.tell(world.net.announced()) == []
    world.train()
    assert world.tell(world.net.announced()) == []


def test_wrong_pin_is_a_configuration_error() -> None:
    net = Net()
    for network, shard in ((Network(bytes(32)), SHARD), (net.network, ChainId("elsewhere"))):
        with pytest.raises(ConfigError):
            Device(
                key=DEVICE_KEY,
                genesis=net.genesis,
                network=network,
                shard=shard,
                entropy=ENTROPY,
                state=DeviceState(),
            )


def test_seed_of_training_differs_between_rounds_and_not_between_restarts() -> None:
    world = World()
    world.connect()
    (first,) = requests_in(world.begin_round(1))
    world.restart()
    world.connect()
    (again,) = requests_in(world.begin_round(1))
    (second,) = requests_in(world.begin_round(2))
    assert first.seed == again.seed != second.seed


def test_notice_names_the_round_that_was_abandoned() -> None:
    world = World()
    world.connect()
    world.begin_round(1)
    effects = world.run_timers(START_MS + COLLECT_MS)
    assert (
        Notice(
            event=Event.ABANDONED,
            round=1,
            reason=ReasonCode.STALE_ROUND,
            detail="the round is over",
        )
        in effects
    )


def test_message_for_another_device_is_refused() -> None:
    world = World()
    world.connect()
    topics = world.net.topics
    for topic in (
        topics.receipt(world.net.delegates[0].device),
        topics.update(world.device.id),
        topics.enroll("token"),
        topics.round.replace("shard-1", "shard-2"),
    ):
        world.tell(Arrived(topic=topic, payload=b""))
    assert world.device.counters == {ReasonCode.OUT_OF_BOUNDS: 4}


def test_deadline_of_the_outbox_is_the_announced_one() -> None:
    world = World()
    world.connect()
    world.sign_round()
    assert world.disk.outbox is not None
    assert world.disk.outbox.deadline_ms == TimeMs(START_MS + COLLECT_MS)


def test_train_effect_is_emitted_once_a_round() -> None:
    world = World()
    world.connect()
    world.begin_round()
    world.tell(*world.net.pieces(BASE), *world.net.pieces(PROGRAM))
    assert len(only(world.trace, Train)) == 1
