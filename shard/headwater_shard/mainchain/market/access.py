"""Who may read what: everybody sees digests and proofs, members see blobs."""

from headwater_protocol.chain.market import BlobClass, GrantAccess, RevokeAccess
from headwater_protocol.identifiers import AccountId, Digest, Height
from headwater_protocol.reasons import ReasonCode
from headwater_shard.mainchain.market.records import (
    ACCESS,
    LICENCES,
    MODELS,
    TASKS,
    AccessGrant,
    grant_key,
    licence_key,
)
from headwater_shard.mainchain.records import CANDIDATES
from headwater_shard.state.draft import Draft
from headwater_shard.state.state import State
from headwater_shard.transition import InvalidTransaction, require_role


def may_read(
    state: State, account: AccountId, blob_class: BlobClass, blob: Digest | None = None
) -> bool:
    """Whether a gateway hands `account` a blob, or for None any blob of a class.

    Validators and sponsors read everything of their own network and tasks; others what they were
    granted, one blob or a class, and models that they hold a licence for. A model belongs to the
    sponsor of its task; other blobs to every sponsor of the network.

    Args:
        state: Of the main chain.
        account: Who asks, authenticated by the caller.
        blob_class: What kind of blob it is.
        blob: Which one.
    """
    if state.get(CANDIDATES, account) is not None:
        return True
    version = None if blob is None else state.get(MODELS, blob)
    if version is not None and blob is not None and blob_class is BlobClass.MODELS:
        if state.get(LICENCES, licence_key(blob, account)) is not None:
            return True
        sponsors = [version.sponsor]
    else:
        sponsors = sorted({task.sponsor for _, task in state.items(TASKS)})
    wanted = (None, blob)
    return account in sponsors or any(
        state.get(ACCESS, grant_key(sponsor, account, blob_class, which)) is not None
        for sponsor in sponsors
        for which in wanted
    )


def process_grant(draft: Draft, body: GrantAccess, sender: AccountId, height: Height) -> None:
    """Let an account read.

    Raises:
        InvalidTransaction: If the sender sponsors no task, or not that of the model, or the account
            has the grant.
    """
    _require_sponsor(draft, body, sender)
    key = grant_key(sender, body.account, body.blob_class, body.blob)
    if draft.get(ACCESS, key) is not None:
        raise InvalidTransaction(ReasonCode.DUPLICATE, "the account has this grant")
    draft.put(ACCESS, key, AccessGrant(height=height))


def process_revoke(draft: Draft, body: RevokeAccess, sender: AccountId) -> None:
    """Take the sender's grant back; a licence that was paid for stays.

    Raises:
        InvalidTransaction: If the sender sponsors no task, or gave no such grant.
    """
    _require_sponsor(draft, body, sender)
    key = grant_key(sender, body.account, body.blob_class, body.blob)
    if draft.get(ACCESS, key) is None:
        raise InvalidTransaction(ReasonCode.NO_GRANT, "the sender gave no such grant")
    draft.delete(ACCESS, key)


def _require_sponsor(draft: Draft, body: GrantAccess | RevokeAccess, sender: AccountId) -> None:
    version = None if body.blob is None else draft.get(MODELS, body.blob)
    if version is not None:
        require_role(holds=version.sponsor == sender, sender=sender, role="sponsor of the model")
        return
    require_role(
        holds=any(task.sponsor == sender for _, task in draft.items(TASKS)),
        sender=sender,
        role="sponsor",
    )
