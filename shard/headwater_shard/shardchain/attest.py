"""Attesting: the digest that more than two thirds of the power computed is the round's model."""

from headwater_protocol.chain.committee import Committee
from headwater_protocol.chain.round import Round, RoundPhase
from headwater_protocol.chain.transaction import AttestModel
from headwater_protocol.identifiers import AccountId, Digest, ValidatorId
from headwater_protocol.reasons import ReasonCode
from headwater_shard.shardchain.collect import get_round
from headwater_shard.shardchain.records import (
    ATTESTATIONS,
    SHARD,
    SHARD_KEY,
    Attestation,
    attestation_key,
)
from headwater_shard.state.draft import Draft
from headwater_shard.state.state import State
from headwater_shard.transition import InvalidTransaction, require_role


def process_attestation(draft: Draft, body: AttestModel, sender: ValidatorId) -> None:
    """Take one delegate's digest, once a round.

    Raises:
        InvalidMessage: If the sender is no delegate, the round does not attest, or the delegate
            has attested it.
    """
    shard = draft.get_existing(SHARD, SHARD_KEY)
    require_role(
        holds=shard.committee.power_of(sender) > 0, sender=AccountId(sender), role="delegate"
    )
    round_ = get_round(draft, body.round, {RoundPhase.ATTEST})
    key = attestation_key(round_.number, sender)
    if draft.get(ATTESTATIONS, key) is not None:
        raise InvalidTransaction(ReasonCode.DUPLICATE, f"round {body.round} is attested already")
    draft.put(ATTESTATIONS, key, Attestation(model=body.model))


def get_attested_model(
    state: Draft | State, round_: Round, committee: Committee
) -> tuple[Digest, tuple[ValidatorId, ...]] | None:
    """The digest with a quorum and who attested it, or None."""
    by_model: dict[Digest, list[ValidatorId]] = {}
    for delegate in committee.delegates:
        entry = state.get(ATTESTATIONS, attestation_key(round_.number, delegate.validator))
        if entry is not None:
            by_model.setdefault(entry.model, []).append(delegate.validator)
    for model in sorted(by_model):
        if committee.is_quorum(committee.power_of_all(by_model[model])):
            return model, tuple(by_model[model])
    return None
