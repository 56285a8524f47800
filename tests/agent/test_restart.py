"""A power cut at any point: the device starts, and never signs two updates for a round."""

from collections.abc import Callable
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_agent.machine.effects import Persist, Train
from headwater_agent.machine.inputs import Connected, Connecting, Disconnected, Stopping, Trained
from headwater_agent.state import DeviceState, apply_changes
from headwater_protocol.identifiers import RoundNumber
from headwater_protocol.messages.receipt import Stage
from headwater_protocol.messages.update import Update
from headwater_protocol.reasons import ReasonCode
from tests.support.agent_support import (
    BASE,
    COLLECT_MS,
    DELTA,
    PROGRAM,
    START_MS,
    Net,
    World,
    updates_in,
)

NET = Net(num_delegates=2)
ANNOUNCED = {number: NET.announced(number) for number in (1, 2, 3)}
PIECES = (*NET.pieces(BASE), *NET.pieces(PROGRAM))
REASONS = (ReasonCode.OK, ReasonCode.STALE_ROUND, ReasonCode.BUSY, ReasonCode.UNAVAILABLE)


def run_script(world: World, steps: int) -> None:
    """A round and a half, in which everything is persisted that ever is; stop after `steps`."""
    script: list[Callable[[], None]] = [
        lambda: world.device.receive(Connecting(), world.now_ms),
        lambda: world.device.receive(Connected(session=world.disk.session), world.now_ms),
        lambda: world.device.receive(ANNOUNCED[1], world.now_ms),
        *(partial(world.device.receive, piece, world.now_ms) for piece in PIECES),
        lambda: world.device.receive(
            Trained(round=RoundNumber(1), delta=DELTA, num_examples=5), world.now_ms
        ),
        lambda: world.device.receive(ANNOUNCED[2], world.now_ms),
        lambda: world.device.receive(
            Trained(round=RoundNumber(2), delta=-DELTA, num_examples=5), world.now_ms
        ),
    ]
    for step in script:
        step()
        for effect in world.device.effects():
            if steps == 0:
                return
            steps -= 1
            if isinstance(effect, Persist):
                world.disk = apply_changes(world.disk, effect.changes)
            world.trace.append(effect)


def require_one_update_a_round(world: World) -> None:
    signed: dict[int, Update] = {}
    for update in updates_in(world.trace):
        assert signed.setdefault(update.round, update) == update
    persisted: dict[int, bytes] = {}
    for effect in world.trace:
        if isinstance(effect, Persist) and effect.changes.outbox is not None:
            entry = effect.changes.outbox
            assert persisted.setdefault(entry.round, entry.update) == entry.update


def test_power_cut_after_every_single_effect() -> None:
    whole = World(NET)
    run_script(whole, 1_000)
    for steps in range(len(whole.trace) + 1):
        world = World(NET)
        run_script(world, steps)
        world.restart()
        world.connect()
        # The trainer gives another result the second time, as another runtime would.
        for number in (1, 2):
            world.tell(ANNOUNCED[number], *PIECES)
            world.train(number, delta=DELTA * 2)
            world.run_timers(world.now_ms + 10_000)
        require_one_update_a_round(world)
        assert world.disk.last_signed_round == 2


def test_lost_effects_before_the_write_lose_the_signature_too() -> None:
    world = World(NET)
    world.connect()
    world.begin_round()
    world.device.receive(Trained(round=RoundNumber(1), delta=DELTA, num_examples=5), world.now_ms)
    world.perform(at_most=0)
    assert world.disk.outbox is None
    world.restart()
    assert world.device.state == world.disk


actions = st.one_of(
    st.tuples(st.just("announce"), st.integers(1, 3)),
    st.tuples(st.just("work"), st.integers(1, 3)),
    st.tuples(st.just("train"), st.integers(1, 3)),
    st.tuples(st.just("result"), st.integers(-2, 2)),
    st.tuples(st.just("answer"), st.integers(0, 15)),
    st.tuples(st.just("connect"), st.just(0)),
    st.tuples(st.just("disconnect"), st.just(0)),
    st.tuples(st.just("stop"), st.just(0)),
    st.tuples(st.just("wait"), st.sampled_from([1, 500, 5_000, COLLECT_MS])),
    st.tuples(st.just("crash"), st.integers(0, 4)),
)


def take_action(world: World, action: str, number: int, crash_after: int | None) -> None:
    device, now_ms = world.device, world.now_ms
    match action:
        case "announce":
            device.receive(ANNOUNCED[number], now_ms)
        case "work":
            for message in (ANNOUNCED[number], *PIECES):
                device.receive(message, now_ms)
        case "train":
            delta = DELTA * (1 + len(world.trace) % 7)
            device.receive(Trained(round=RoundNumber(number), delta=delta, num_examples=5), now_ms)
        case "result":
            wanted = [effect.round for effect in world.trace if isinstance(effect, Train)]
            if wanted:
                device.receive(
                    Trained(round=wanted[-1], delta=DELTA * (3 + number), num_examples=5), now_ms
                )
        case "answer":
            updates = updates_in(world.trace)
            if updates:
                answer = NET.answered(
                    updates[-1],
                    REASONS[number % 4],
                    gateway=number // 4 % 2,
                    stage=Stage.VERDICT if number >= 8 else Stage.INTAKE,
                )
                device.receive(answer, now_ms)
        case "connect":
            device.receive(Connecting(), now_ms)
            device.receive(Connected(session=device.state.session), now_ms)
        case "disconnect":
            device.receive(Disconnected(), now_ms)
        case "stop":
            device.receive(Stopping(), now_ms)
        case "wait":
            world.run_timers(now_ms + number)
    world.perform(crash_after)
    if action == "crash" or crash_after is not None:
        world.restart()
    else:
        assert world.device.state == world.disk


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(actions, st.sampled_from([None] * 8 + [0, 1, 2])), min_size=5, max_size=30)
)
def test_no_sequence_of_events_and_crashes_signs_two_updates_for_a_round(
    events: list[tuple[tuple[str, int], int | None]],
) -> None:
    world = World(NET)
    world.connect()
    last_signed = 0
    for (action, number), crash_after in events:
        take_action(world, action, number, crash_after)
        assert world.disk.last_signed_round >= last_signed
        last_signed = world.disk.last_signed_round
        require_one_update_a_round(world)
    assert world.now_ms >= START_MS


def test_new_device_has_signed_nothing() -> None:
    state = DeviceState()
    assert (state.last_signed_round, state.outbox, state.receipts) == (0, None, ())
