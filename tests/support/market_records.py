"""Examples of the records of the market, for tests of encodings."""

from collections.abc import Iterator

from headwater_protocol.chain.account import Account, PenaltyBalance, RewardBalance
from headwater_protocol.chain.contribution import (
    commit_contributions,
    list_contributions,
    prove_contribution,
)
from headwater_protocol.chain.market import (
    BlobClass,
    BuyLicence,
    ClaimRewards,
    ClaimRoyalties,
    CloseTask,
    GrantAccess,
    LockDeposit,
    MarketBody,
    OpenTask,
    RevokeAccess,
    RewardClaim,
    SetPrice,
    SettleDeposit,
    SponsoredTask,
)
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.identifiers import AccountId, ChainId, Digest, Units
from headwater_protocol.merkle.trie import MapProof
from tests.support.network import key, make_task

SHARD = ChainId("shard-0")
ACCOUNTS = tuple(sorted(key(name).account for name in ("alice", "bob", "carol")))
ENTRIES = list_contributions((account, 10 + index) for index, account in enumerate(ACCOUNTS))
CONTRIBUTIONS = commit_contributions(ENTRIES)
MODEL = blob_digest(b"model")
PROOF = MapProof(
    siblings=(Digest(bytes(32)), blob_digest(b"sibling")),
    other_key_hash=None,
    other_value_hash=None,
)
ROOTS = (blob_digest(b"root"), Digest(bytes(32)))


TASK = SponsoredTask(
    number=2,
    task=make_task(),
    sponsor=key("sponsor").account,
    open_shards=1,
    returned=Units(0),
    is_closing=True,
)


def make_market_bodies() -> list[MarketBody]:
    """One of each kind; the proofs in them need not hold."""
    account, device = AccountId(ACCOUNTS[0]), key("device-0").device
    return [
        OpenTask(task=make_task()),
        CloseTask(task=TASK.task.task),
        ClaimRewards(
            shard=SHARD,
            checkpoint=3,
            namespace_roots=ROOTS,
            claims=(RewardClaim(account=account, total=Units(7), proof=PROOF),),
        ),
        LockDeposit(device=device, shard=SHARD, amount=Units(100)),
        SettleDeposit(
            device=device,
            checkpoint=3,
            penalty=Units(25),
            namespace_roots=ROOTS,
            proof=PROOF,
        ),
        SetPrice(model=MODEL, price=Units(97)),
        BuyLicence(model=MODEL, price=Units(97)),
        ClaimRoyalties(
            model=MODEL,
            shard=SHARD,
            contribution=ENTRIES[1],
            index=1,
            siblings=prove_contribution(ENTRIES, 1),
        ),
        GrantAccess(account=account, blob=MODEL, blob_class=BlobClass.MODELS),
        RevokeAccess(account=account, blob=None, blob_class=BlobClass.PAYLOADS),
    ]


def example_market_records() -> Iterator[object]:
    """The records that no transaction is."""
    yield ENTRIES[1]
    yield TASK
    yield Account(balance=Units(1))
    yield RewardBalance(total=Units(2))
    yield PenaltyBalance(total=Units(3))
