"""Making claims: what a shard's ledger and the main chain's together say is still to be paid.

Pure functions over two states. A proof is needed under the state root of a checkpoint, which lies a
few blocks back; the shard keeps the namespace roots of its last checkpoints, so a proof can be made
from any later state in which the namespace meant did not change. While rounds close in between,
what cannot be proven any more is proven under the next checkpoint: totals are cumulative.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from headwater_protocol.chain.contribution import commit_contributions, prove_contribution
from headwater_protocol.chain.market import (
    MAX_CLAIMS,
    ClaimRewards,
    ClaimRoyalties,
    RewardClaim,
    SettleDeposit,
)
from headwater_protocol.chain.proof import SHARD_NAMESPACES
from headwater_protocol.identifiers import NOTHING, AccountId, ChainId, DeviceId, Digest
from headwater_shard.mainchain.market.records import (
    CLAIMS,
    DEPOSITS,
    MODELS,
    POTS,
    penalty_claim_key,
    reward_claim_key,
)
from headwater_shard.mainchain.records import CHECKPOINTS as SETTLED
from headwater_shard.mainchain.records import SHARDS, shard_key
from headwater_shard.mainchain.records import checkpoint_key as settled_key
from headwater_shard.shardchain.checkpoints import list_paid
from headwater_shard.shardchain.records import PENALTIES, REWARDS, ROOTS, checkpoint_key
from headwater_shard.state.state import State


@dataclass(slots=True)
class ClaimProgress:
    """How far a relay has come with a shard's rewards, so that no batch begins at the first again.

    What was paid stays paid, so the accounts in front need not be looked at twice.
    """

    root: Digest | None = None
    """Of the rewards that the rest is about."""
    accounts: list[bytes] = field(default_factory=list)
    """All that have any, in order."""
    num_paid: int = 0
    """Of these, in front, paid in full."""


def due_reward_claim(
    shard: ChainId,
    state: State,
    main: State,
    *,
    interval: int = 1,
    progress: ClaimProgress | None = None,
) -> ClaimRewards | None:
    """The next batch of rewards that the shard's last settled checkpoint proves and nobody got.

    Args:
        shard: Its name.
        state: Of the shard.
        main: Of the main chain.
        interval: Checkpoints whose rewards are claimed together; the last one's always are.
        progress: What is kept from call to call, as both chains go on; changes no result.
    """
    found = _last_roots(shard, state, main, REWARDS.namespace)
    pot, entry = main.get(POTS, shard_key(shard)), main.get(SHARDS, shard_key(shard))
    if found is None or pot is None or entry is None:
        return None
    number, roots = found
    payable = number if entry.is_final else number - number % interval
    signed = main.get(SETTLED, settled_key(shard, payable))
    if signed is None or pot.claimed >= signed.checkpoint.contributions.total:
        return None
    progress = progress or ClaimProgress()
    root = roots[SHARD_NAMESPACES.index(REWARDS.namespace)]
    if progress.root != root:
        accounts = sorted(key for key, _ in state.items(REWARDS))
        progress.root, progress.accounts, progress.num_paid = root, accounts, 0
    claims: list[RewardClaim] = []
    for index in range(progress.num_paid, len(progress.accounts)):
        key = progress.accounts[index]
        account, balance = AccountId(key), state.get(REWARDS, key)
        total = NOTHING if balance is None else balance.total
        paid = main.get(CLAIMS, reward_claim_key(shard, account))
        if total > (0 if paid is None else paid.total):
            proof = state.prove(REWARDS.namespace, key).map_proof
            claims.append(RewardClaim(account=account, total=total, proof=proof))
        elif not claims:
            progress.num_paid = index + 1
        if len(claims) == MAX_CLAIMS:
            break
    if not claims:
        return None
    return ClaimRewards(shard=shard, checkpoint=number, namespace_roots=roots, claims=tuple(claims))


def due_settlements(shard: ChainId, state: State, main: State) -> Iterator[SettleDeposit]:
    """Deposits of the shard from which a penalty is to be taken, or that are to be returned."""
    found = _last_roots(shard, state, main, PENALTIES.namespace)
    entry = main.get(SHARDS, shard_key(shard))
    if found is None or entry is None:
        return
    number, roots = found
    devices = main.sorted_items(DEPOSITS) if entry.is_final else state.sorted_items(PENALTIES)
    for key, _ in devices:
        device = DeviceId(key)
        deposit = main.get(DEPOSITS, device)
        if deposit is None or deposit.shard != shard:
            continue
        penalty = state.get(PENALTIES, device)
        total = NOTHING if penalty is None else penalty.total
        taken = main.get(CLAIMS, penalty_claim_key(shard, device))
        if entry.is_final or total > (0 if taken is None else taken.total):
            yield SettleDeposit(
                device=device,
                checkpoint=number,
                penalty=total,
                namespace_roots=roots,
                proof=state.prove(PENALTIES.namespace, device).map_proof,
            )


def make_royalty_claim(
    shard: ChainId, state: State, main: State, *, model: Digest, account: AccountId
) -> ClaimRoyalties | None:
    """An owner's claim on the sales of a model version.

    Args:
        shard: Where the contribution was made.
        state: Of the shard, with the rewards that the version's checkpoint of it commits to; a
            replay gives that of any height.
        main: Of the main chain.
        model: The version.
        account: The owner.

    Returns:
        None where the version is unknown, `state` has other rewards, or the account has none.
    """
    version = main.get(MODELS, model)
    sources = () if version is None else version.sources
    for source in sources:
        entries = list_paid(state) if source.shard == shard else ()
        if not entries or commit_contributions(entries) != source.contributions:
            continue
        for index, entry in enumerate(entries):
            if entry.account == account:
                return ClaimRoyalties(
                    model=model,
                    shard=shard,
                    contribution=entry,
                    index=index,
                    siblings=prove_contribution(entries, index),
                )
    return None


def _last_roots(
    shard: ChainId, state: State, main: State, namespace: str
) -> tuple[int, tuple[Digest, ...]] | None:
    """The shard's last settled checkpoint with its roots, if `namespace` is as it was then."""
    entry = main.get(SHARDS, shard_key(shard))
    if entry is None or entry.number == 0:
        return None
    kept = state.get(ROOTS, checkpoint_key(entry.number))
    index = SHARD_NAMESPACES.index(namespace)
    if kept is None or kept.roots[index] != state.namespace_roots[index]:
        return None
    return entry.number, kept.roots
