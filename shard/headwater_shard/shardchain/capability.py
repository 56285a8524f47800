"""A device's class on the ledger: what it reported, signed by itself."""

from dataclasses import replace

from headwater_protocol.chain.transaction import DeclareCapability
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.identifiers import AccountId, ValidatorId
from headwater_protocol.messages.status import verify_status
from headwater_protocol.reasons import ReasonCode
from headwater_shard.shardchain.records import DEVICES, SHARD, SHARD_KEY
from headwater_shard.shardchain.rules import ShardRules
from headwater_shard.state.draft import Draft
from headwater_shard.transition import InvalidTransaction, require_role


def process_capability(
    draft: Draft,
    rules: ShardRules,
    body: DeclareCapability,
    sender: ValidatorId,
    verifier: Verifier,
) -> None:
    """Note a device's class.

    Its mark stays, so a device that changes its class and back again is owed what it was before.

    Raises:
        InvalidMessage: If the sender is no delegate, the device is not enrolled or did not sign,
            the report is none or no newer than the one that counts, or the class is the same.
    """
    shard = draft.get_existing(SHARD, SHARD_KEY)
    require_role(
        holds=shard.committee.power_of(sender) > 0, sender=AccountId(sender), role="delegate"
    )
    status = body.status.status
    name = status.device.hex()[:16]
    device = draft.get(DEVICES, status.device)
    if device is None:
        raise InvalidTransaction(ReasonCode.NOT_ENROLLED, f"{name} is not enrolled")
    report = status.report
    if report is None:
        raise InvalidTransaction(ReasonCode.OUT_OF_BOUNDS, f"{name} reports no class")
    if report.number <= device.declared:
        raise InvalidTransaction(
            ReasonCode.STALE_ROUND, f"report {report.number} after {device.declared}"
        )
    if report.capability is device.capability:
        raise InvalidTransaction(ReasonCode.DUPLICATE, f"{name} is {device.capability} already")
    verify_status(body.status, network=rules.network, verifier=verifier)
    draft.put(
        DEVICES,
        status.device,
        replace(device, capability=report.capability, declared=report.number),
    )
