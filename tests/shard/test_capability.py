"""A device's class on the ledger: signed by itself, newer each time, and never worth a lie."""

from dataclasses import replace

import pytest

from headwater_protocol.chain.cohort import (
    CAPABILITY_WEIGHTS,
    Capability,
    compute_effective_weight,
)
from headwater_protocol.chain.round import MAX_DEVICE_WEIGHT
from headwater_protocol.chain.transaction import DeclareCapability, EnrolDevice
from headwater_protocol.crypto.hashing import Domain, blob_digest
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.messages.status import CapabilityReport, Status, sign_status
from headwater_protocol.reasons import ReasonCode
from headwater_shard.shardchain.records import DEVICES, Device
from tests.support.ledgers import execute, refusal
from tests.support.network import Chain, key, make_cast

CAST = make_cast(shards=("shard-0",))
DEVICE = key("device-0")


def make_chain(weight: int = 8) -> Chain:
    chain = Chain(CAST, "shard-0")
    plain = chain.enrolment(DEVICE)
    enrolment = replace(plain.enrolment, weight=weight)
    body = EnrolDevice(
        enrolment=enrolment,
        registrar=CAST.registrar.account,
        signature=CAST.registrar.sign_record(Domain.ENROLMENT, CAST.network, enrolment),
    )
    chain.block(chain.sign(CAST.registrar, body))
    return chain


def declare(
    capability: Capability | None,
    *,
    number: int = 1,
    device: SecretKey = DEVICE,
    signer: SecretKey | None = None,
) -> DeclareCapability:
    report = None
    if capability is not None:
        report = CapabilityReport(
            number=number,
            capability=capability,
            memory_bytes=0,
            program=blob_digest(b"program"),
            steps_per_1000_s=1,
        )
    status = Status(device=device.device, session=1, is_online=True, report=report)
    return DeclareCapability(status=sign_status(signer or device, CAST.network, status))


def delegate() -> SecretKey:
    return next(iter(CAST.validators["shard-0"]))  # type: ignore[index]


def record(chain: Chain) -> Device:
    found = chain.app.state.get(DEVICES, DEVICE.device)
    assert found is not None
    return found


def test_class_takes_its_part_of_the_weight_and_gives_it_back() -> None:
    chain = make_chain()
    assert record(chain).standing.weight == 8
    mark = record(chain).mark
    for number, capability in enumerate(
        (Capability.LIGHT, Capability.STANDARD, Capability.STRONG), start=1
    ):
        execute(chain, chain.sign(delegate(), declare(capability, number=number)))
        assert record(chain).standing.weight == CAPABILITY_WEIGHTS[capability]
        assert (record(chain).weight, record(chain).declared) == (8, number)
        assert record(chain).mark == mark


@pytest.mark.parametrize("granted", [1, 2, 7, 8, MAX_DEVICE_WEIGHT])
def test_no_class_is_worth_more_than_what_was_granted(granted: int) -> None:
    weights = [compute_effective_weight(granted, capability) for capability in Capability]
    assert weights == sorted(weights)
    assert weights[0] >= 1
    assert weights[-1] == granted


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (declare(None), ReasonCode.OUT_OF_BOUNDS),
        (declare(Capability.STRONG), ReasonCode.DUPLICATE),
        (declare(Capability.LIGHT, device=key("nobody")), ReasonCode.NOT_ENROLLED),
        (declare(Capability.LIGHT, signer=key("other")), ReasonCode.BAD_SIGNATURE),
    ],
)
def test_what_is_refused(body: DeclareCapability, reason: ReasonCode) -> None:
    chain = make_chain()
    assert refusal(chain, chain.sign(delegate(), body)) is reason
    assert record(chain).declared == 0


def test_stranger_cannot_submit_and_old_reports_do_not_come_back() -> None:
    chain = make_chain()
    body = declare(Capability.LIGHT, number=7)
    assert refusal(chain, chain.sign(CAST.sponsor, body)) is ReasonCode.NOT_PERMITTED
    execute(chain, chain.sign(delegate(), body))
    for number in (6, 7):
        stale = declare(Capability.STRONG, number=number)
        assert refusal(chain, chain.sign(delegate(), stale)) is ReasonCode.STALE_ROUND
    assert record(chain).capability is Capability.LIGHT
