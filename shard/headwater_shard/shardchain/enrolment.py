"""Enrolment: a registrar's signature lets a device take part, and another one ends it."""

from dataclasses import replace

from headwater_protocol.chain.device import Device
from headwater_protocol.chain.incentives import Incentives
from headwater_protocol.chain.transaction import EnrolDevice, Enrolment, RevokeDevice
from headwater_protocol.crypto.hashing import Domain
from headwater_protocol.crypto.signing import Verifier, verify_record
from headwater_protocol.identifiers import NOTHING, Height, RoundNumber, Units
from headwater_protocol.reasons import ReasonCode
from headwater_shard.engine.border import BlockContext
from headwater_shard.shardchain.records import DEVICES, OWNERS, SHARD, SHARD_KEY, Owner
from headwater_shard.shardchain.rules import ShardRules
from headwater_shard.state.draft import Draft
from headwater_shard.transition import InvalidTransaction


def process_enrolment(
    draft: Draft, rules: ShardRules, body: EnrolDevice, context: BlockContext, verifier: Verifier
) -> None:
    """Put a device on the ledger.

    Raises:
        InvalidMessage: If the registrar is unknown or did not sign, the enrolment is of another
            shard or expired, the device is enrolled already or was revoked, or its owner has too
            little deposit.
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
    known = draft.get(DEVICES, enrolment.device)
    if known is not None:
        reason = ReasonCode.REVOKED if known.is_revoked else ReasonCode.DUPLICATE
        raise InvalidTransaction(reason, f"{enrolment.device.hex()[:16]} is on the ledger")
    verify_record(
        verifier, body.registrar, Domain.ENROLMENT, rules.network, enrolment, body.signature
    )
    incentives = rules.parameters.incentives
    if enrolment.deposit < incentives.device_deposit:
        raise InvalidTransaction(
            ReasonCode.NO_DEPOSIT,
            f"a deposit of {enrolment.deposit}, at least {incentives.device_deposit} is asked",
        )
    weight = _grant_weight(draft, incentives, enrolment)
    draft.put(
        DEVICES,
        enrolment.device,
        Device(
            weight=weight,
            enrolled_height=Height(context.height),
            num_accepted=0,
            num_rejected=0,
            reputation=0,
            owner=enrolment.owner,
            deposit=enrolment.deposit,
            mark=draft.get_existing(SHARD, SHARD_KEY).clock,
            drawn_round=RoundNumber(0),
            strikes=0,
            num_quarantines=0,
            quarantined_until=RoundNumber(0),
            revoked_height=Height(0),
        ),
    )


def process_revocation(
    draft: Draft, rules: ShardRules, body: RevokeDevice, context: BlockContext, verifier: Verifier
) -> None:
    """Leave a device out from this block on.

    What it has on the ledger stays: updates that were committed are judged and paid. So does the
    weight that its owner's deposits were granted for, until the main chain gives them back.

    Raises:
        InvalidMessage: If the registrar is unknown or did not sign, the revocation is of another
            shard or expired, or the device is not enrolled or revoked already.
    """
    revocation = body.revocation
    name = revocation.device.hex()[:16]
    if body.registrar not in rules.registrars:
        raise InvalidTransaction(
            ReasonCode.NOT_PERMITTED, f"{body.registrar.hex()[:16]} is no registrar"
        )
    if revocation.shard != rules.shard:
        raise InvalidTransaction(ReasonCode.WRONG_SHARD, f"revoked in {revocation.shard}")
    if revocation.expires_ms < context.time_ms:
        raise InvalidTransaction(
            ReasonCode.OUT_OF_BOUNDS, f"the revocation expired at {revocation.expires_ms}"
        )
    device = draft.get(DEVICES, revocation.device)
    if device is None:
        raise InvalidTransaction(ReasonCode.NOT_ENROLLED, f"{name} is not enrolled")
    if device.is_revoked:
        raise InvalidTransaction(ReasonCode.REVOKED, f"{name} was revoked before")
    verify_record(
        verifier, body.registrar, Domain.REVOCATION, rules.network, revocation, body.signature
    )
    draft.put(DEVICES, revocation.device, replace(device, revoked_height=Height(context.height)))


def _grant_weight(draft: Draft, incentives: Incentives, enrolment: Enrolment) -> int:
    """What is left of the weight that an owner's deposits allow all its devices.

    However many identities an owner splits a deposit over, they are drawn as often as one.

    Raises:
        InvalidTransaction: If nothing is left.
    """
    key = enrolment.device if enrolment.owner is None else enrolment.owner
    owner = draft.get(OWNERS, key) or Owner(deposit=NOTHING, weight=0, num_devices=0)
    deposit, weight = owner.deposit + enrolment.deposit, enrolment.weight
    if incentives.deposit_per_weight:
        weight = min(weight, deposit // incentives.deposit_per_weight - owner.weight)
    if weight < 1:
        raise InvalidTransaction(
            ReasonCode.NO_DEPOSIT, f"deposits of {deposit} allow no device beside the others"
        )
    draft.put(
        OWNERS,
        key,
        Owner(
            deposit=Units(deposit),
            weight=owner.weight + weight,
            num_devices=owner.num_devices + 1,
        ),
    )
    return weight
