"""Devices' reports at a gateway: checked, bounded, and on the ledger where they are news."""

from pathlib import Path

import pytest

from headwater_gateway.machine import fleet as fleet_module
from headwater_gateway.machine.fleet import CHECK_INTERVAL_MS
from headwater_protocol.chain.cohort import Capability
from headwater_protocol.chain.transaction import DeclareCapability
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.messages.status import CapabilityReport, Status, sign_status
from headwater_shard.shardchain.records import DEVICES
from tests.support.gateway_support import SHARD_0, Bench
from tests.support.network import key


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def status(
    bench: Bench,
    device: SecretKey,
    capability: Capability | None,
    *,
    number: int = 1,
    signer: SecretKey | None = None,
) -> bytes:
    report = None
    if capability is not None:
        report = CapabilityReport(
            number=number,
            capability=capability,
            memory_bytes=2**30,
            program=blob_digest(b"program"),
            steps_per_1000_s=30_000,
        )
    entry = Status(device=device.device, session=1, is_online=True, report=report)
    return encode_record(sign_status(signer or device, bench.cast.network, entry))


def send(bench: Bench, device: SecretKey, payload: bytes) -> None:
    bench.send(bench.topics.status(device.device), payload)


def capability_of(bench: Bench, device: SecretKey) -> Capability:
    record = bench.shard.app.state.get(DEVICES, device.device)
    assert record is not None
    return record.capability


def test_reported_class_reaches_the_ledger_once(bench: Bench) -> None:
    device = bench.devices[0]
    for _ in range(3):
        send(bench, device, status(bench, device, Capability.LIGHT))
    bench.settle(2)
    assert len(bench.bodies(DeclareCapability)) == 1
    assert capability_of(bench, device) is Capability.LIGHT
    assert capability_of(bench, bench.devices[1]) is Capability.STRONG
    reports = bench.machine.fleet(SHARD_0).reports
    assert reports[device.device].status.report is not None


def test_change_is_followed_and_sameness_costs_nothing(bench: Bench) -> None:
    device = bench.devices[0]
    send(bench, device, status(bench, device, Capability.STRONG))
    bench.settle(2)
    assert bench.bodies(DeclareCapability) == []
    for number, capability in enumerate((Capability.LIGHT, Capability.STANDARD), start=2):
        bench.now_ms += CHECK_INTERVAL_MS
        send(bench, device, status(bench, device, capability, number=number))
        bench.settle(2)
        assert capability_of(bench, device) is capability
    assert len(bench.bodies(DeclareCapability)) == 2


def test_what_is_forged_foreign_or_broken_is_counted(bench: Bench) -> None:
    device, other = bench.devices[:2]
    stranger = key("stranger")
    send(bench, device, b"garbage")
    send(bench, device, status(bench, other, Capability.LIGHT))
    send(bench, device, status(bench, device, Capability.LIGHT, signer=other))
    send(bench, stranger, status(bench, stranger, Capability.LIGHT))
    bench.settle(2)
    assert bench.machine.fleet(SHARD_0).num_refused == 3
    assert bench.metrics.garbage == 1
    assert bench.bodies(DeclareCapability) == []


def test_one_signature_a_device_is_checked_in_an_interval(bench: Bench) -> None:
    device, fleet = bench.devices[0], bench.machine.fleet(SHARD_0)
    forged = status(bench, device, Capability.LIGHT, signer=bench.devices[1])
    for _ in range(50):
        send(bench, device, forged)
    assert fleet.num_refused == 1
    bench.now_ms += CHECK_INTERVAL_MS - 1
    send(bench, device, status(bench, device, Capability.LIGHT))
    assert fleet.reports == {}
    bench.now_ms += 1
    send(bench, device, status(bench, device, Capability.LIGHT))
    assert set(fleet.reports) == {device.device}


def test_device_without_a_report_is_no_news(bench: Bench) -> None:
    device = bench.devices[0]
    send(bench, device, status(bench, device, None))
    assert bench.machine.fleet(SHARD_0).reports == {}
    assert bench.machine.fleet(SHARD_0).num_refused == 0


def test_reports_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_module, "MAX_REPORTS", 2)
    for device in bench.devices:
        send(bench, device, status(bench, device, Capability.STRONG))
    assert set(bench.machine.fleet(SHARD_0).reports) == set(bench.device_ids[1:])


def test_lost_declaration_is_made_again(bench: Bench) -> None:
    device = bench.devices[0]
    bench.loses = lambda body: isinstance(body, DeclareCapability)
    send(bench, device, status(bench, device, Capability.LIGHT))
    bench.loses = lambda body: False
    bench.pass_ms(fleet_module.CHECK_INTERVAL_MS * 30)
    bench.settle(2)
    assert capability_of(bench, device) is Capability.LIGHT
