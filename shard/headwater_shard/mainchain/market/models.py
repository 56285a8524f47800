"""The market for models: versions with their owners, prices, licences and royalties.

Owners of a version are those whom the shards had paid when it was settled, in proportion. A sale
only counts itself; what an owner has earned is the sum over the prices of the licences sold at it,
each cut at the ends of the owner's interval (`chain.contribution`). So a sale costs the same
whether a model has ten owners or a million, and its price is split to the unit.

The idea of a market in which a model pays its contributors is DeepChain's: Weng et al., "DeepChain:
Auditable and Privacy-Preserving Deep Learning with Blockchain-Based Incentive", TDSC 2021.
"""

from dataclasses import replace

from headwater_protocol.chain.checkpoint import Checkpoint, Merge, checkpoint_digest
from headwater_protocol.chain.contribution import compute_part, verify_contribution
from headwater_protocol.chain.epoch import epoch_key
from headwater_protocol.chain.market import BuyLicence, ClaimRoyalties, SetPrice
from headwater_protocol.identifiers import (
    NOTHING,
    AccountId,
    ChainId,
    Digest,
    EpochNumber,
    Height,
    Units,
)
from headwater_protocol.messages.announcement import task_key
from headwater_protocol.reasons import ReasonCode
from headwater_shard.mainchain.market.claims import pay_account
from headwater_shard.mainchain.market.records import (
    CLAIMS,
    LICENCES,
    MAX_PRICES,
    MODELS,
    POTS,
    TASKS,
    Claim,
    Licence,
    ModelSource,
    ModelVersion,
    PriceSales,
    licence_key,
    royalty_claim_key,
    source_claim_key,
)
from headwater_shard.mainchain.market.tasks import get_last_task
from headwater_shard.mainchain.records import (
    CHECKPOINTS,
    MERGES,
    SHARDS,
    checkpoint_key,
    shard_key,
)
from headwater_shard.mainchain.transfer import debit
from headwater_shard.state.draft import Draft
from headwater_shard.transition import InvalidTransaction, require_role


def register_settled_model(draft: Draft, checkpoint: Checkpoint) -> None:
    """Note the owners of a settled model: those of the merge in it, and its own shard's."""
    sources = _sources_of_merge(draft, checkpoint.merged)
    sources[checkpoint.shard] = _source(checkpoint)
    _register(draft, checkpoint.model, sources, shard=checkpoint.shard)


def register_merged_model(draft: Draft, merge: Merge) -> None:
    """Note the owners of a merged model: those of its inputs, and of the merge before."""
    if merge.model is None:
        return
    sources = _sources_of_merge(draft, EpochNumber(merge.epoch - 1))
    for entry in merge.inputs:
        checkpoint = _find_checkpoint(draft, entry.shard, entry.checkpoint)
        if checkpoint is not None:
            sources[entry.shard] = _source(checkpoint)
    if sources:
        _register(draft, merge.model, sources, shard=min(sources))


def process_set_price(draft: Draft, body: SetPrice, sender: AccountId) -> None:
    """Put a version up for sale at a price, or take it off.

    Raises:
        InvalidTransaction: If there is no such version, the sender is not its sponsor, the price
            is 0, or it was sold at `MAX_PRICES` others.
    """
    version = _get_version(draft, body.model)
    require_role(holds=sender == version.sponsor, sender=sender, role="sponsor of the model")
    if body.price == 0:
        raise InvalidTransaction(ReasonCode.OUT_OF_BOUNDS, "a price of nothing")
    prices = {row.price for row in version.sales}
    if body.price is not None and body.price not in prices and len(prices) >= MAX_PRICES:
        raise InvalidTransaction(
            ReasonCode.OUT_OF_BOUNDS, f"sold at {MAX_PRICES} different prices already"
        )
    draft.put(MODELS, body.model, replace(version, price=body.price))


def process_buy(draft: Draft, body: BuyLicence, sender: AccountId, height: Height) -> None:
    """Pay a version's price and get the licence to read it.

    Raises:
        InvalidTransaction: If there is no such version, it is not for sale or at another price,
            the sender has a licence, or does not hold the price.
    """
    version = _get_version(draft, body.model)
    if version.price is None or version.total == 0:
        raise InvalidTransaction(ReasonCode.NOT_FOR_SALE, "the model is not for sale")
    if version.price != body.price:
        raise InvalidTransaction(
            ReasonCode.PRICE_CHANGED, f"the price is {version.price}, not {body.price}"
        )
    key = licence_key(body.model, sender)
    if draft.get(LICENCES, key) is not None:
        raise InvalidTransaction(ReasonCode.DUPLICATE, "the sender has a licence")
    debit(draft, sender, body.price)
    sold = {row.price: row.num_sales for row in version.sales}
    sold[body.price] = sold.get(body.price, 0) + 1
    draft.put(
        MODELS,
        body.model,
        replace(
            version,
            sales=tuple(PriceSales(price=price, num_sales=sold[price]) for price in sorted(sold)),
            unclaimed=Units(version.unclaimed + body.price),
        ),
    )
    draft.put(LICENCES, key, Licence(price=body.price, height=height))


def process_claim_royalties(draft: Draft, body: ClaimRoyalties) -> None:
    """Pay an owner its part of all sales, less what it was paid before.

    Raises:
        InvalidMessage: If there is no such version, the shard did not contribute to it, the
            contribution is not proven, nothing is due, or the shard's owners have got all of
            their part.
    """
    version = _get_version(draft, body.model)
    offset, source = _find_source(version, body.shard)
    entry = body.contribution
    verify_contribution(
        entry, index=body.index, siblings=body.siblings, contributions=source.contributions
    )
    earned = compute_royalties(version, start=offset + entry.start, units=entry.units)
    key = royalty_claim_key(body.model, body.shard, entry.account)
    due = earned - _paid(draft, key)
    if due <= 0:
        raise InvalidTransaction(ReasonCode.DUPLICATE, "all of it was paid before")
    # A shard whose committee forges the list takes nothing from the owners on other shards.
    source_key = source_claim_key(body.model, body.shard)
    limit = compute_royalties(version, start=offset, units=source.contributions.total)
    paid = _paid(draft, source_key)
    if entry.start + entry.units > source.contributions.total or due > limit - paid:
        raise InvalidTransaction(
            ReasonCode.BUDGET_SPENT, f"{body.shard} has {limit - paid} units of the sales left"
        )
    draft.put(CLAIMS, key, Claim(total=Units(earned)))
    draft.put(CLAIMS, source_key, Claim(total=Units(paid + due)))
    draft.put(MODELS, body.model, replace(version, unclaimed=Units(version.unclaimed - due)))
    pay_account(draft, entry.account, due)


def compute_royalties(version: ModelVersion, *, start: int, units: int) -> int:
    """What an interval of a version's contributions has earned by all sales."""
    return sum(
        row.num_sales * compute_part(row.price, start=start, units=units, total=version.total)
        for row in version.sales
    )


def _find_source(version: ModelVersion, shard: ChainId) -> tuple[int, ModelSource]:
    """A shard's contributions to a version, and where they begin in the row of all."""
    offset = 0
    for source in version.sources:
        if source.shard == shard:
            return offset, source
        offset += source.contributions.total
    raise InvalidTransaction(ReasonCode.WRONG_SHARD, f"{shard} did not contribute to the model")


def _paid(draft: Draft, key: bytes) -> int:
    claim = draft.get(CLAIMS, key)
    return 0 if claim is None else claim.total


def _get_version(draft: Draft, model: Digest) -> ModelVersion:
    version = draft.get(MODELS, model)
    if version is None:
        raise InvalidTransaction(
            ReasonCode.UNKNOWN_MODEL, f"no checkpoint or merge has the model {model.hex()[:16]}"
        )
    return version


def _register(
    draft: Draft, model: Digest, sources: dict[ChainId, ModelSource], *, shard: ChainId
) -> None:
    if draft.get(MODELS, model) is not None:
        return
    pot = draft.get_existing(POTS, shard_key(shard))
    task = draft.get_existing(TASKS, task_key(pot.task))
    draft.put(
        MODELS,
        model,
        ModelVersion(
            task=pot.task,
            sponsor=task.sponsor,
            sources=tuple(sources[name] for name in sorted(sources)),
            price=None,
            sales=(),
            unclaimed=NOTHING,
        ),
    )


def _sources_of_merge(draft: Draft, epoch: EpochNumber) -> dict[ChainId, ModelSource]:
    """Whose contributions the merge that began `epoch` holds; none before a task's first."""
    merge = draft.get(MERGES, epoch_key(epoch))
    version = None if merge is None or merge.model is None else draft.get(MODELS, merge.model)
    if version is None or version.task != get_last_task(draft).task.task:
        return {}
    return {source.shard: source for source in version.sources}


def _find_checkpoint(draft: Draft, shard: ChainId, digest: Digest) -> Checkpoint | None:
    """A settled checkpoint by its digest, looking back from the shard's last one."""
    number: int = draft.get_existing(SHARDS, shard_key(shard)).number
    while number > 0:
        signed = draft.get_existing(CHECKPOINTS, checkpoint_key(shard, number))
        if checkpoint_digest(signed.checkpoint) == digest:
            return signed.checkpoint
        number -= 1
    return None


def _source(checkpoint: Checkpoint) -> ModelSource:
    return ModelSource(
        shard=checkpoint.shard,
        checkpoint=checkpoint.number,
        contributions=checkpoint.contributions,
    )
