"""Claims: what a shard's settled state proves is paid out on the main chain, once.

A shard keeps cumulative totals. A claim proves one under a settled checkpoint and is paid the
difference to what was paid before, so the order of claims, repeats and missed checkpoints change
nothing in the end. The fee rule: claims cost nothing, since only the news in them has an effect.
"""

from dataclasses import replace
from functools import lru_cache

from headwater_protocol.chain.account import RewardBalance
from headwater_protocol.chain.checkpoint import Checkpoint
from headwater_protocol.chain.market import ClaimRewards, RewardClaim
from headwater_protocol.chain.proof import SHARD_NAMESPACES, compute_state_root
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.errors import BadProof
from headwater_protocol.identifiers import AccountId, ChainId, Digest, Units, ValidatorId
from headwater_protocol.merkle.trie import MapProof, compute_proven_root
from headwater_protocol.reasons import ReasonCode
from headwater_shard.mainchain.market.records import CLAIMS, POTS, Claim, reward_claim_key
from headwater_shard.mainchain.records import (
    CHECKPOINTS,
    SHARDS,
    checkpoint_key,
    shard_key,
)
from headwater_shard.mainchain.staking.pool import credit_delegate
from headwater_shard.shardchain.records import REWARDS
from headwater_shard.state.draft import Draft
from headwater_shard.transition import InvalidTransaction


def pay_account(draft: Draft, account: AccountId, units: int) -> None:
    """Credit what an account earned; a candidate shares it with its delegators."""
    credit_delegate(draft, ValidatorId(account), units)


def get_settled(draft: Draft, shard: ChainId, number: int) -> Checkpoint:
    """A shard's settled checkpoint.

    Raises:
        InvalidTransaction: If there is no such shard, or it has not settled that checkpoint.
    """
    if draft.get(SHARDS, shard_key(shard)) is None:
        raise InvalidTransaction(ReasonCode.WRONG_SHARD, f"shard {shard} is not registered")
    signed = draft.get(CHECKPOINTS, checkpoint_key(shard, number))
    if signed is None:
        raise InvalidTransaction(
            ReasonCode.BROKEN_LINK, f"{shard} has not settled a checkpoint {number}"
        )
    return signed.checkpoint


def verify_entry(
    checkpoint: Checkpoint,
    *,
    namespace_roots: tuple[Digest, ...],
    namespace: str,
    key: bytes,
    value: bytes | None,
    proof: MapProof,
) -> None:
    """Check that a checkpoint's state holds an entry, or, for None, lacks it.

    Raises:
        BadProof: If it does not follow.
    """
    verify_namespaces(checkpoint, namespace_roots)
    root = compute_proven_root(key=key, value=value, proof=proof)
    if root != namespace_roots[SHARD_NAMESPACES.index(namespace)]:
        raise BadProof(f"the proof leads to another root of {namespace}")


def verify_namespaces(checkpoint: Checkpoint, namespace_roots: tuple[Digest, ...]) -> None:
    """Check that a checkpoint's state has these namespaces.

    Raises:
        BadProof: If it has not.
    """
    if len(namespace_roots) != len(SHARD_NAMESPACES):
        raise BadProof(f"{len(namespace_roots)} namespaces, a shard has {len(SHARD_NAMESPACES)}")
    if compute_state_root(namespace_roots) != checkpoint.state_root:
        raise BadProof(f"the roots are not those of checkpoint {checkpoint.number}")


@lru_cache(maxsize=8)
def _verify_claims(claims: tuple[RewardClaim, ...], root: Digest) -> None:
    """Check that a batch is in the rewards of `root`.

    A batch is looked at when it arrives, when it is proposed and when it is executed, and its
    proofs hold or fail whatever the ledger has come to meanwhile.

    Raises:
        BadProof: If it does not follow; that is not remembered.
    """
    for claim in claims:
        value = encode_record(RewardBalance(total=claim.total))
        if compute_proven_root(key=claim.account, value=value, proof=claim.proof) != root:
            raise BadProof(f"the proof leads to another root of {REWARDS.namespace}")


def process_claim_rewards(draft: Draft, body: ClaimRewards) -> None:
    """Pay the accounts of a batch what they have earned and were not paid.

    Accounts that were paid as much before are passed over, so that nobody can spoil a batch by
    claiming for one of them; a batch without any news is refused.

    Raises:
        InvalidMessage: If the accounts are not in order, the checkpoint is not settled, a total
            is 0 or not proven, nothing is new, or the shard's pot does not cover it.
    """
    accounts = [claim.account for claim in body.claims]
    if accounts != sorted(set(accounts)):
        raise InvalidTransaction(
            ReasonCode.OUT_OF_BOUNDS, "a batch lists each account once, in order of the keys"
        )
    checkpoint = get_settled(draft, body.shard, body.checkpoint)
    due: dict[AccountId, int] = {}
    if any(claim.total == 0 for claim in body.claims):
        raise InvalidTransaction(ReasonCode.OUT_OF_BOUNDS, "a claim of nothing")
    verify_namespaces(checkpoint, body.namespace_roots)
    _verify_claims(body.claims, body.namespace_roots[SHARD_NAMESPACES.index(REWARDS.namespace)])
    for claim in body.claims:
        key = reward_claim_key(body.shard, claim.account)
        paid = draft.get(CLAIMS, key)
        amount = claim.total - (0 if paid is None else paid.total)
        if amount > 0:
            due[claim.account] = amount
            draft.put(CLAIMS, key, Claim(total=claim.total))
    if not due:
        raise InvalidTransaction(ReasonCode.DUPLICATE, "all of it was paid before")
    pot = draft.get_existing(POTS, shard_key(body.shard))
    total = sum(due.values())
    if total > pot.units:
        raise InvalidTransaction(
            ReasonCode.BUDGET_SPENT, f"{pot.units} units in the pot do not cover {total}"
        )
    draft.put(
        POTS,
        shard_key(body.shard),
        replace(pot, units=Units(pot.units - total), claimed=Units(pot.claimed + total)),
    )
    for account in sorted(due):
        pay_account(draft, account, due[account])
