"""Adopting a merge: the shard goes on from what the main chain made of all shards' models.

A shard never stops for the main chain. If the merge arrives while no round has closed since the
checkpoint that went into it, the next base is the merged model itself. Otherwise the model moves by
`merged - reference`, so that what the shard learned meanwhile stays; the delegates compute that
model when they attest the open round.
"""

from dataclasses import replace

from headwater_protocol.chain.block import verify_certificate
from headwater_protocol.chain.proof import MAIN_NAMESPACES, verify_state_proof
from headwater_protocol.chain.round import MergeCorrection
from headwater_protocol.chain.transaction import AdoptMerge
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.identifiers import MAIN_CHAIN, EpochNumber
from headwater_protocol.reasons import ReasonCode
from headwater_shard.shardchain.records import SHARD, SHARD_KEY
from headwater_shard.shardchain.rules import ShardRules
from headwater_shard.state.draft import Draft
from headwater_shard.transition import InvalidTransaction


def merge_key(epoch: EpochNumber) -> bytes:
    """The key of a merge on the main chain."""
    return epoch.to_bytes(8, "big")


def process_merge(draft: Draft, rules: ShardRules, body: AdoptMerge, verifier: Verifier) -> None:
    """Note a proven merge; it takes effect with the next base or the open round's model.

    Anybody may send it: the main chain's certificate is what counts.

    Raises:
        InvalidMessage: If it is not proven, not newer than the last one, or has no model yet.
    """
    shard = draft.get_existing(SHARD, SHARD_KEY)
    merge = body.merge
    known = shard.epoch if shard.correction is None else shard.correction.epoch
    if merge.epoch <= known:
        raise InvalidTransaction(ReasonCode.DUPLICATE, f"merge {merge.epoch} after {known}")
    if merge.model is None:
        raise InvalidTransaction(ReasonCode.WRONG_PHASE, f"merge {merge.epoch} is not attested")
    header = body.header
    if header.network != rules.network:
        raise InvalidTransaction(ReasonCode.WRONG_NETWORK, "a header of another network")
    if header.chain != MAIN_CHAIN:
        raise InvalidTransaction(ReasonCode.WRONG_CHAIN, f"a header of {header.chain}")
    verify_certificate(
        body.certificate, header=header, committee=shard.main_committee, verifier=verifier
    )
    verify_state_proof(
        body.proof,
        state_root=header.state_root,
        namespaces=MAIN_NAMESPACES,
        namespace="merges",
        key=merge_key(merge.epoch),
        value=encode_record(merge),
    )
    if shard.correction is not None:
        raise InvalidTransaction(
            ReasonCode.WRONG_PHASE, f"merge {shard.correction.epoch} is not applied yet"
        )
    own = [entry.model for entry in merge.inputs if entry.shard == rules.shard]
    draft.put(
        SHARD,
        SHARD_KEY,
        replace(
            shard,
            correction=MergeCorrection(
                epoch=merge.epoch,
                merged=merge.model,
                reference=own[0] if own else shard.reference,
            ),
        ),
    )
