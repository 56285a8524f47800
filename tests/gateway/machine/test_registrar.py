"""What a machine does with devices that a registrar took in, or shut out."""

import pytest

from headwater_gateway.machine.gateway import Desk, GatewayMachine
from headwater_protocol.chain.transaction import EnrolDevice, RevokeDevice
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.identifiers import ChainId
from headwater_protocol.messages.receipt import Stage
from headwater_protocol.reasons import ReasonCode
from headwater_shard.shardchain.records import DEVICES
from tests.support.gateway_support import SHARD_0, Bench
from tests.support.network import key

NEW = key("new")


def entry(bench: Bench, device=NEW):
    return bench.shard.app.state.get(DEVICES, device.device)


def enrol(bench: Bench, device=NEW, *, weight: int = 1, shard: ChainId = SHARD_0) -> None:
    bench.machine.enrol(shard, device.device, weight=weight, now_ms=bench.now_ms)
    bench.perform()


def revoke(bench: Bench, device=NEW) -> None:
    bench.machine.revoke(SHARD_0, device.device, bench.now_ms)
    bench.perform()


def sent(bench: Bench, kind: type) -> list[object]:
    bodies = [signed.transaction.body for _, signed, _ in bench.submitted]
    return [body for body in bodies if isinstance(body, kind)]


def test_an_accepted_device_comes_onto_the_ledger_with_its_weight(tmp_path):
    bench = Bench(tmp_path)
    assert bench.machine.prove_device(SHARD_0, NEW.device) is None
    enrol(bench, weight=7)
    bench.settle(2)
    found = entry(bench)
    assert found is not None
    assert found.weight == 7
    proof = bench.machine.prove_device(SHARD_0, NEW.device)
    assert proof is not None
    assert encode_record(proof.device) == encode_record(found)


def test_to_accept_a_device_again_sends_nothing(tmp_path):
    bench = Bench(tmp_path)
    enrol(bench)
    enrol(bench)
    bench.settle(2)
    enrol(bench)
    bench.settle(2)
    assert len(sent(bench, EnrolDevice)) == 1


def test_an_enrolment_that_got_lost_is_sent_again(tmp_path):
    bench = Bench(tmp_path)
    bench.loses = lambda body: isinstance(body, EnrolDevice)
    enrol(bench)
    bench.settle(2)
    bench.loses = lambda body: False
    bench.pass_ms(11_000)
    bench.settle(2)
    assert entry(bench) is not None


def test_a_device_may_be_accepted_before_the_machine_starts(tmp_path):
    bench = Bench(tmp_path)
    enrol(bench, weight=3)
    # The store tells a machine that was restarted of everybody, before it starts.
    machine = GatewayMachine(
        genesis=bench.cast.genesis,
        desks=[Desk(shard=SHARD_0, keys=bench.cast.validators[SHARD_0])],
        states={chain: bench.chains[chain].app.state for chain in bench.chains},
        metrics=bench.metrics,
        registrar=bench.cast.registrar,
    )
    bench.pool[SHARD_0].clear()
    bench.machine = machine
    machine.enrol(SHARD_0, NEW.device, weight=3, now_ms=bench.now_ms)
    assert list(machine.effects()) == []
    tip = bench.tip(SHARD_0)
    assert tip is not None
    machine.start({SHARD_0: tip}, bench.now_ms)
    bench.perform()
    bench.settle(2)
    found = entry(bench)
    assert found is not None
    assert found.weight == 3


def test_a_shard_that_is_not_served_is_none_of_its_business(tmp_path):
    bench = Bench(tmp_path)
    enrol(bench, shard=ChainId("shard-9"))
    bench.machine.revoke(ChainId("shard-9"), NEW.device, bench.now_ms)
    assert bench.machine.prove_device(ChainId("shard-9"), NEW.device) is None


def test_a_revoked_device_is_told_so_at_once_and_once_on_the_ledger(tmp_path):
    bench = Bench(tmp_path)
    device = bench.devices[0]
    bench.settle(2)
    revoke(bench, device)
    revoke(bench, device)
    bench.settle(3)
    found = entry(bench, device)
    assert found is not None
    assert found.is_revoked
    assert len(sent(bench, RevokeDevice)) == 1
    bench.publish(bench.update(device))
    receipt = bench.receipts(device, stage=Stage.INTAKE)[-1]
    assert receipt.reason is ReasonCode.REVOKED
    bench.publish(bench.update(bench.devices[1]))
    bench.settle(3)
    assert bench.receipts(bench.devices[1])[-1].reason is ReasonCode.OK


def test_a_device_that_is_revoked_before_it_is_enrolled_never_is(tmp_path):
    bench = Bench(tmp_path)
    bench.away = {SHARD_0}
    enrol(bench)
    revoke(bench)
    bench.away = set()
    enrol(bench)
    bench.pass_ms(11_000)
    bench.settle(3)
    assert entry(bench) is None


def test_an_enrolment_that_was_on_its_way_when_it_was_revoked_is_taken_back(tmp_path):
    bench = Bench(tmp_path)
    enrol(bench)
    revoke(bench)
    bench.settle(4)
    found = entry(bench)
    assert found is not None
    assert found.is_revoked


@pytest.mark.parametrize("count", [2, 3])
def test_an_update_that_comes_by_several_brokers_counts_once(tmp_path, count):
    bench = Bench(tmp_path)
    bench.settle(2)
    update = bench.update(bench.devices[0])
    for _ in range(count):
        bench.publish(update)
    bench.settle(3)
    for _ in range(count):
        bench.publish(update)
    metrics = bench.metrics.round(SHARD_0, bench.shard.round.number)
    assert metrics.received == 1
    assert not metrics.refused
    assert bench.shard.round.num_updates == 1
