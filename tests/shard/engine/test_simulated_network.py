"""Agreement and liveness of whole networks in virtual time; a test is a function of its seed."""

import pytest

from headwater_protocol.identifiers import Digest
from tests.support.engine_support import Conditions, SimulatedNetwork, committee_of, key_of

ROUGH = Conditions(loss=0.15, duplication=0.15, delay_ms=(1, 120))


def feed(network: SimulatedNetwork, count: int, *, pause_ms: int = 150) -> None:
    for number in range(count):
        network.submit(b"k%d=%d" % (number, number))
        network.run(until_ms=network.now_ms + pause_ms)


def require_clean(network: SimulatedNetwork) -> None:
    network.require_agreement()
    assert network.halted == []
    assert network.blamed() == []


@pytest.mark.parametrize("size", [1, 2, 4, 7])
def test_a_quiet_network_finalizes_each_transaction_in_one_view(size: int) -> None:
    network = SimulatedNetwork([10] * size, seed=1)
    feed(network, 5)
    assert network.heights() == [5] * size
    assert all(final.certificate.view == 0 for final in network.nodes[0].disk.finals)
    assert all(node.ledger.value(b"k4") == b"4" for node in network.nodes)
    require_clean(network)


@pytest.mark.parametrize("size", [4, 7])
@pytest.mark.parametrize("seed", range(6))
def test_loss_reordering_and_duplication_neither_fork_nor_stop(size: int, seed: int) -> None:
    network = SimulatedNetwork([10] * size, seed=seed, conditions=ROUGH)
    feed(network, 12)
    network.run(
        until_ms=network.now_ms + 60_000,
        until=lambda: all(node.ledger.value(b"k11") == b"11" for node in network.nodes),
    )
    assert all(node.ledger.value(b"k11") == b"11" for node in network.nodes)
    require_clean(network)


def test_the_same_seed_gives_the_same_blocks() -> None:
    runs = []
    for _ in range(2):
        network = SimulatedNetwork([10, 20, 30, 40], seed=5, conditions=ROUGH)
        feed(network, 6)
        runs.append([node.disk.finals for node in network.nodes])
    assert runs[0] == runs[1]


def test_messages_agree_with_their_encoding_on_the_wire() -> None:
    network = SimulatedNetwork([10] * 4, seed=3, conditions=Conditions(is_encoded=True, loss=0.1))
    feed(network, 6)
    network.run_to_height(6, within_ms=20_000, nodes=range(4))
    require_clean(network)


@pytest.mark.parametrize("seed", range(4))
def test_an_even_partition_halts_and_resumes_without_a_fork(seed: int) -> None:
    network = SimulatedNetwork([10] * 4, seed=seed)
    feed(network, 3)
    before = network.heights()
    network.conditions.groups = (frozenset({0, 1}), frozenset({2, 3}))
    network.submit(b"left=1", to=[0, 1])
    network.submit(b"right=1", to=[2, 3])
    network.run(until_ms=network.now_ms + 30_000)
    assert network.heights() == before
    network.conditions.groups = ()
    network.run(
        until_ms=network.now_ms + 60_000,
        until=lambda: all(
            node.ledger.value(b"left") and node.ledger.value(b"right") for node in network.nodes
        ),
    )
    assert all(node.ledger.value(b"left") and node.ledger.value(b"right") for node in network.nodes)
    require_clean(network)


def test_a_partition_cut_in_the_middle_of_views_never_forks() -> None:
    for seed in range(6):
        network = SimulatedNetwork([10] * 4, seed=seed, conditions=Conditions(delay_ms=(1, 40)))
        for number in range(10):
            network.submit(b"k%d=1" % number)
            network.run(until_ms=network.now_ms + network.random.randint(1, 60))
            cut = network.random.sample(range(4), 2)
            rest = [index for index in range(4) if index not in cut]
            network.conditions.groups = (frozenset(cut), frozenset(rest))
            network.run(until_ms=network.now_ms + network.random.randint(1, 2_000))
            network.conditions.groups = ()
        network.submit(b"last=1")
        network.run(until_ms=network.now_ms + 60_000)
        assert min(network.heights()) > 0
        assert all(not len(node.mempool) for node in network.nodes)
        require_clean(network)


def test_one_of_four_may_be_away_and_catches_up_when_it_is_back() -> None:
    network = SimulatedNetwork([10] * 4, seed=2)
    network.crash(3)
    feed(network, 6, pause_ms=2_000)
    assert network.heights() == [6, 6, 6, 0]
    network.start(3)
    network.run_to_height(6, within_ms=5_000, nodes=range(4))
    feed_more = b"more=1"
    network.submit(feed_more)
    network.run_to_height(7, within_ms=5_000, nodes=range(4))
    require_clean(network)


def test_a_validator_that_missed_blocks_notices_by_the_votes_of_others() -> None:
    network = SimulatedNetwork([10] * 4, seed=2)
    network.conditions.groups = (frozenset({0, 1, 2}), frozenset({3}))
    for number in range(30):
        network.submit(b"k%d=1" % number, to=[0, 1, 2])
        network.run(until_ms=network.now_ms + 3_000)
    assert network.heights() == [30, 30, 30, 0]
    network.conditions.groups = ()
    network.submit(b"more=1")
    network.run_to_height(31, within_ms=20_000, nodes=range(4))
    require_clean(network)


@pytest.mark.parametrize("seed", range(8))
def test_crashes_at_any_effect_and_restarts_from_disk_never_fork_or_sign_twice(seed: int) -> None:
    network = SimulatedNetwork([10] * 4, seed=seed, conditions=Conditions(loss=0.05))
    for number in range(15):
        network.submit(b"k%d=1" % number)
        network.crash_chance = 0.03
        network.run(until_ms=network.now_ms + 400)
        network.crash_chance = 0.0
        for node in network.nodes:
            if node.machine is None:
                network.start(node.index)
    network.submit(b"last=1")
    network.run(
        until_ms=network.now_ms + 60_000,
        until=lambda: all(node.ledger.value(b"last") for node in network.nodes),
    )
    assert all(node.ledger.value(b"last") for node in network.nodes)
    require_clean(network)


@pytest.mark.parametrize("steps", range(4, 40, 3))
def test_a_power_cut_of_all_validators_at_once_is_recovered_from(steps: int) -> None:
    network = SimulatedNetwork([10] * 4, seed=steps)
    network.submit(b"a=1")
    for _ in range(steps):
        network.run(until_ms=network.now_ms + 2)
    for index in range(4):
        network.crash(index)
    network._queue.clear()
    network.run(until_ms=network.now_ms + 1_000)
    for index in range(4):
        network.start(index)
    network.submit(b"b=1")
    network.run(
        until_ms=network.now_ms + 60_000,
        until=lambda: all(node.ledger.value(b"b") for node in network.nodes),
    )
    assert all(node.ledger.value(b"b") for node in network.nodes)
    require_clean(network)


def test_committees_change_from_block_to_block_also_for_who_restarts() -> None:
    committees = {
        2: committee_of({0: 10, 1: 20, 2: 30, 3: 40, 4: 50}),
        4: committee_of({1: 20, 2: 30, 3: 40, 4: 50}),
        6: committee_of({0: 5, 2: 30, 3: 40, 4: 50}),
    }
    network = SimulatedNetwork([10] * 4, seed=7, committees=committees, extra_nodes=1)
    for number in range(10):
        network.submit(b"k%d=1" % number)
        network.run(until_ms=network.now_ms + 2_000)
        index = number % 5
        network.crash(index)
        network.start(index)
    network.run_to_height(10, within_ms=30_000, nodes=range(5))
    require_clean(network)
    assert key_of(4).validator in {
        final.block.header.proposer for final in network.nodes[0].disk.finals
    }


def test_a_ledger_timer_makes_empty_blocks_and_nothing_else_does() -> None:
    network = SimulatedNetwork([10] * 4, seed=1, interval_ms=1_000_000 + 500)
    network.run(until_ms=network.now_ms + 100)
    assert network.heights() == [0] * 4
    network.run_to_height(1, within_ms=2_000, nodes=range(4))
    assert network.nodes[0].disk.finals[0].block.transactions == ()
    quiet = SimulatedNetwork([10] * 4, seed=1)
    assert quiet.run(until_ms=quiet.now_ms + 10**9)
    assert quiet.heights() == [0] * 4
    assert all(node.machine is not None and node.machine.is_idle for node in quiet.nodes)


def test_work_of_one_validator_alone_gets_its_block() -> None:
    network = SimulatedNetwork([10] * 4, seed=1)
    network.submit(b"alone=1", to=[2])
    network.run(
        until_ms=network.now_ms + 30_000,
        until=lambda: all(node.ledger.value(b"alone") for node in network.nodes),
    )
    assert all(node.ledger.value(b"alone") for node in network.nodes)
    network.run(until_ms=network.now_ms + 60_000)
    assert all(node.machine is not None and node.machine.is_idle for node in network.nodes)


def test_a_diverging_replica_halts_and_the_others_go_on() -> None:
    network = SimulatedNetwork([10] * 4, seed=1)
    network.nodes[3].ledger.corrupt_from = 2
    feed(network, 5, pause_ms=2_000)
    assert [index for index, _ in network.halted] == [3]
    assert network.heights()[:3] == [5, 5, 5]
    machine = network.nodes[3].machine
    assert machine is not None
    assert machine.is_halted
    assert machine.next_timer() is None
    assert Digest(bytes(32)) not in {
        final.block.header.state_root for final in network.nodes[0].disk.finals
    }
    network.require_agreement()
