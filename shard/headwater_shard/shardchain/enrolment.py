"""Enrolment: a registrar's signature lets a device take part."""

from headwater_protocol.chain.incentives import Incentives
from headwater_protocol.chain.transaction import EnrolDevice, Enrolment
from headwater_protocol.crypto.hashing import Domain
from headwater_protocol.crypto.signing import Verifier, verify_record
from headwater_protocol.identifiers import NOTHING, Height, RoundNumber, Units
from headwater_protocol.reasons import ReasonCode
from headwater_shard.engine.border import BlockContext
from headwater_shard.shardchain.records import DEVICES, OWNERS, SHARD, SHARD_KEY, Device, Owner
from headwater_shard.shardchain.rules import ShardRules
from headwater_shard.state.draft import Draft
from headwater_shard.transition import InvalidTransaction


def process_enrolment(
    draft: Draft, rules: ShardRules, body: EnrolDevice, context: BlockContext, verifier: Verifier
) -> None:
    """Put a device on the ledger.

    Raises:
        InvalidMessage: If the registrar is unknown or did not sign, the enrolment is of another
            shard or expired, the device is enrolled already, or its owner has too little deposit.
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
        ),
    )


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
