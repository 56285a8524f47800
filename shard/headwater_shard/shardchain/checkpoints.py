"""Checkpoints: every so many rounds the delegates sign the shard's state for the main chain."""

from dataclasses import replace
from typing import Final

from headwater_protocol.chain.checkpoint import (
    Checkpoint,
    SignedCheckpoint,
    checkpoint_digest,
    checkpoint_message,
)
from headwater_protocol.chain.contribution import (
    Contribution,
    commit_contributions,
    list_contributions,
)
from headwater_protocol.chain.transaction import SignCheckpoint
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.errors import BadSignature
from headwater_protocol.identifiers import AccountId, Height, ValidatorId
from headwater_protocol.reasons import ReasonCode
from headwater_shard.engine.border import BlockContext
from headwater_shard.shardchain.adoption import get_committee
from headwater_shard.shardchain.records import (
    CHECKPOINTS,
    REWARDS,
    ROOTS,
    SHARD,
    SHARD_KEY,
    CheckpointRoots,
    checkpoint_key,
)
from headwater_shard.shardchain.rules import ShardRules
from headwater_shard.state.draft import Draft
from headwater_shard.state.state import State
from headwater_shard.transition import InvalidTransaction, require_role

MAX_KEPT_ROOTS: Final = 64
"""Checkpoints whose namespace roots stay in the state; claims are made under the last ones."""


def list_paid(state: State) -> tuple[Contribution, ...]:
    """Who was paid how much on the shard, as a checkpoint commits to it."""
    return list_contributions((key, balance.total) for key, balance in state.items(REWARDS))


def emit_due_checkpoint(draft: Draft, state: State, context: BlockContext) -> None:
    """Write the checkpoint that the block before made due: only now is its state root known."""
    shard = draft.get_existing(SHARD, SHARD_KEY)
    due = shard.due_checkpoint
    if due is None:
        return
    checkpoint = Checkpoint(
        shard=shard.shard,
        number=shard.checkpoints + 1,
        epoch=shard.epoch,
        merged=shard.merged,
        round=due.round,
        height=Height(context.height - 1),
        state_root=state.root,
        model=due.model,
        num_examples=due.num_examples,
        is_final=due.is_final,
        previous=shard.last_checkpoint,
        contributions=commit_contributions(list_paid(state)),
    )
    draft.put(
        CHECKPOINTS,
        checkpoint_key(checkpoint.number),
        SignedCheckpoint(checkpoint=checkpoint, signatures=()),
    )
    draft.put(
        ROOTS, checkpoint_key(checkpoint.number), CheckpointRoots(roots=state.namespace_roots)
    )
    draft.delete(ROOTS, checkpoint_key(max(0, checkpoint.number - MAX_KEPT_ROOTS)))
    draft.put(
        SHARD,
        SHARD_KEY,
        replace(
            shard,
            due_checkpoint=None,
            checkpoints=checkpoint.number,
            last_checkpoint=checkpoint_digest(checkpoint),
        ),
    )


def process_checkpoint_signature(
    draft: Draft, rules: ShardRules, body: SignCheckpoint, sender: ValidatorId, verifier: Verifier
) -> None:
    """Add a delegate's signature to a checkpoint; a late one settles all that wait behind it.

    The committee that closed a round signs its checkpoint, also when the next one is in office by
    then: the main chain holds a checkpoint against the committee of the epoch that it names.

    Raises:
        InvalidMessage: If the shard has no such checkpoint, the sender was no delegate in its
            epoch, or signs for another or a second time.
    """
    signed = draft.get(CHECKPOINTS, checkpoint_key(body.number))
    if signed is None or body.checkpoint != checkpoint_digest(signed.checkpoint):
        raise InvalidTransaction(
            ReasonCode.BROKEN_LINK, f"that is not checkpoint {body.number} of this shard"
        )
    committee = get_committee(draft, rules.shard, signed.checkpoint.epoch)
    require_role(
        holds=committee.power_of(sender) > 0 and body.signature.validator == sender,
        sender=AccountId(sender),
        role=f"delegate of epoch {signed.checkpoint.epoch} that signs for itself",
    )
    if any(entry.validator == sender for entry in signed.signatures):
        raise InvalidTransaction(ReasonCode.DUPLICATE, "the checkpoint is signed already")
    message = checkpoint_message(rules.network, signed.checkpoint)
    if not verifier.verify(sender, message, body.signature.signature):
        raise BadSignature(f"no signature of {sender.hex()[:16]} on the checkpoint")
    signatures = sorted([*signed.signatures, body.signature], key=lambda entry: entry.validator)
    draft.put(
        CHECKPOINTS,
        checkpoint_key(body.number),
        replace(signed, signatures=tuple(signatures)),
    )
