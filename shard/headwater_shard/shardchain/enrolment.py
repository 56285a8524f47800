"""Enrolment: a registrar's signature lets a device take part."""

from headwater_protocol.chain.transaction import EnrolDevice
from headwater_protocol.crypto.hashing import Domain
from headwater_protocol.crypto.signing import Verifier, verify_record
from headwater_protocol.identifiers import Height
from headwater_protocol.reasons import ReasonCode
from headwater_shard.engine.border import BlockContext
from headwater_shard.shardchain.records import DEVICES, Device
from headwater_shard.shardchain.rules import ShardRules
from headwater_shard.state.draft import Draft
from headwater_shard.transition import InvalidTransaction


def process_enrolment(
    draft: Draft, rules: ShardRules, body: EnrolDevice, context: BlockContext, verifier: Verifier
) -> None:
    """Put a device on the ledger.

    Raises:
        InvalidMessage: If the registrar is unknown or did not sign, the enrolment is of another
            shard or expired, or the device is enrolled already.
    """
    enrolment = body.enrolment
    if body.registrar not in rules.registrars:
        raise InvalidTransaction(
            ReasonCode.NOT_PERMITTED, f"{body.registrar.hex()[:16]} is no registrar"
        )
    if enrolment.shard != rules.shard:
        raise InvalidTransaction(ReasonCode.WRONG_SHARD, f"enrolled for {enrolment.shard}")
    if enrolment.expires_ms < context.time_ms:
        raise InvalidTransaction(
            ReasonCode.OUT_OF_BOUNDS, f"the enrolment expired at {enrolment.expires_ms}"
        )
    if draft.get(DEVICES, enrolment.device) is not None:
        raise InvalidTransaction(ReasonCode.DUPLICATE, f"{enrolment.device.hex()[:16]} is enrolled")
    verify_record(
        verifier, body.registrar, Domain.ENROLMENT, rules.network, enrolment, body.signature
    )
    draft.put(
        DEVICES,
        enrolment.device,
        Device(
            weight=enrolment.weight,
            enrolled_height=Height(context.height),
            num_accepted=0,
            num_rejected=0,
            reputation=0,
        ),
    )
