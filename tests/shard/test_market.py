"""The market for models: owners, prices, licences, royalties and access."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_protocol.chain.contribution import (
    Contribution,
    commit_contributions,
    compute_part,
    list_contributions,
    prove_contribution,
    verify_contribution,
)
from headwater_protocol.chain.market import (
    BlobClass,
    BuyLicence,
    ClaimRoyalties,
    GrantAccess,
    RevokeAccess,
    SetPrice,
)
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.errors import BadProof
from headwater_protocol.identifiers import ChainId, Digest, Units
from headwater_protocol.reasons import ReasonCode
from headwater_shard.claiming import ClaimProgress, due_reward_claim, make_royalty_claim
from headwater_shard.mainchain.market.access import may_read
from headwater_shard.mainchain.market.records import MAX_PRICES, MODELS, ModelVersion, PriceSales
from tests.support.ledgers import execute, refusal
from tests.support.market import Market, make_market
from tests.support.network import key

PRICE = Units(97)
"""A prime, so that no split is even by chance."""


def version_of(market: Market, model: Digest) -> ModelVersion:
    version = market.main.app.state.get(MODELS, model)
    assert version is not None
    return version


def sell(market: Market, model: Digest, *buyers: str, price: int = PRICE) -> None:
    body = SetPrice(model=model, price=Units(price))
    execute(market.main, market.main.sign(market.cast.sponsor, body))
    for name in buyers:
        buy = BuyLicence(model=model, price=Units(price))
        execute(market.main, market.main.sign(key(name), buy))


def royalty(market: Market, model: Digest, account: bytes, shard: str = "shard-0"):
    return make_royalty_claim(
        ChainId(shard),
        market.shard(shard).app.state,
        market.main.app.state,
        model=model,
        account=account,
    )


def claim_royalties(market: Market, model: Digest, shard: str = "shard-0") -> None:
    for account in sorted(market.rewards(shard)):
        body = royalty(market, model, account, shard)
        assert body is not None
        market.main.block(market.main.sign(key("alice"), body))


def test_a_settled_model_belongs_to_whom_the_shard_has_paid():
    market = make_market()
    model = market.play(scores=[300, 200, 100])
    version = version_of(market, model)
    assert version.sponsor == market.cast.sponsor.account
    assert version.total == sum(market.rewards().values()) == 1_000
    assert version.price is None


def test_a_price_is_split_to_the_unit_however_often_it_is_paid_and_claimed():
    market = make_market(names=("alice", "bob", "carol"))
    supply = market.supply
    model = market.play(scores=[331, 199, 101])
    sell(market, model, "alice")
    claim_royalties(market, model)
    assert version_of(market, model).unclaimed == 0
    sell(market, model, "bob", price=13)
    sell(market, model, "carol")
    assert version_of(market, model).sales == (
        PriceSales(price=Units(13), num_sales=1),
        PriceSales(price=PRICE, num_sales=2),
    )
    claim_royalties(market, model)
    claim_royalties(market, model)  # A repeat changes nothing.
    assert version_of(market, model).unclaimed == 0
    assert market.supply == supply
    for device in market.devices[ChainId("shard-0")]:
        share = 207 * market.rewards()[device.device] / 1_000
        assert abs(market.balance(device) - 1_000 - share) <= 3


def test_a_merged_model_belongs_to_the_contributors_of_all_its_shards():
    market = make_market(shards=("shard-0", "shard-1"))
    supply = market.supply
    merged = blob_digest(b"merged")
    market.play("shard-0")
    market.play("shard-1", scores=[30, 20, 10], merged=merged)
    version = version_of(market, merged)
    assert [source.shard for source in version.sources] == ["shard-0", "shard-1"]
    assert version.total == 2_000
    sell(market, merged, "alice", "bob")
    claim_royalties(market, merged, "shard-0")
    # Half of each of the two prices, rounded alike.
    assert version_of(market, merged).unclaimed in {96, 98}
    claim_royalties(market, merged, "shard-1")
    assert version_of(market, merged).unclaimed == 0
    assert market.supply == supply


def test_a_model_that_is_settled_twice_keeps_its_first_owners():
    market = make_market()
    model = market.play()
    first = version_of(market, model)
    market.play(merged=model)
    assert version_of(market, model) == first


@settings(max_examples=60, deadline=None)
@given(
    totals=st.dictionaries(
        st.binary(min_size=32, max_size=32), st.integers(1, 2**40), min_size=1, max_size=40
    ),
    prices=st.lists(st.integers(1, 2**40), min_size=1, max_size=5),
)
def test_the_parts_of_a_price_sum_to_it_and_are_fair(totals, prices):
    entries = list_contributions(totals.items())
    total = sum(totals.values())
    for price in prices:
        parts = [
            compute_part(price, start=entry.start, units=entry.units, total=total)
            for entry in entries
        ]
        assert sum(parts) == price
        for entry, part in zip(entries, parts, strict=True):
            assert price * entry.units // total <= part <= -(-price * entry.units // total)


@settings(max_examples=40, deadline=None)
@given(
    totals=st.dictionaries(
        st.binary(min_size=32, max_size=32), st.integers(1, 100), min_size=1, max_size=20
    ),
    data=st.data(),
)
def test_a_contribution_is_proven_and_a_changed_one_is_not(totals, data):
    entries = list_contributions(totals.items())
    contributions = commit_contributions(entries)
    index = data.draw(st.integers(0, len(entries) - 1))
    entry, siblings = entries[index], prove_contribution(entries, index)
    verify_contribution(entry, index=index, siblings=siblings, contributions=contributions)
    more = replace(entry, units=Units(entry.units + 1))
    with pytest.raises(BadProof):
        verify_contribution(more, index=index, siblings=siblings, contributions=contributions)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("unknown", ReasonCode.UNKNOWN_MODEL),
        ("not the sponsor", ReasonCode.NOT_PERMITTED),
        ("zero", ReasonCode.OUT_OF_BOUNDS),
        ("too many prices", ReasonCode.OUT_OF_BOUNDS),
    ],
)
def test_a_price_is_refused(how, reason):
    market = make_market()
    model = market.play()
    body, sender = SetPrice(model=model, price=PRICE), market.cast.sponsor
    match how:
        case "unknown":
            body = replace(body, model=blob_digest(b"?"))
        case "not the sponsor":
            sender = key("alice")
        case "zero":
            body = replace(body, price=Units(0))
        case "too many prices":
            rows = tuple(
                PriceSales(price=Units(1_000 + step), num_sales=1) for step in range(MAX_PRICES)
            )
            version = replace(version_of(market, model), sales=rows)
            market.main.app._state = market.main.app.state.updated({"models": {model: version}})
            kept = SetPrice(model=model, price=Units(1_000))
            execute(market.main, market.main.sign(sender, kept))
    assert refusal(market.main, market.main.sign(sender, body)) is reason


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("unknown", ReasonCode.UNKNOWN_MODEL),
        ("not for sale", ReasonCode.NOT_FOR_SALE),
        ("withdrawn", ReasonCode.NOT_FOR_SALE),
        ("no owners", ReasonCode.NOT_FOR_SALE),
        ("price changed", ReasonCode.PRICE_CHANGED),
        ("twice", ReasonCode.DUPLICATE),
        ("overdraft", ReasonCode.INSUFFICIENT_FUNDS),
        ("nobody", ReasonCode.UNKNOWN_ACCOUNT),
    ],
)
def test_a_purchase_is_refused(how, reason):
    market = make_market()
    scores = [-1, -1, -1] if how == "no owners" else None
    model = market.play(scores=scores)
    if how == "no owners":
        model = market.cast.genesis.task.initial_model
    body, buyer = BuyLicence(model=model, price=PRICE), key("alice")
    match how:
        case "unknown":
            body = replace(body, model=blob_digest(b"?"))
        case "withdrawn":
            sell(market, model)
            off = SetPrice(model=model, price=None)
            execute(market.main, market.main.sign(market.cast.sponsor, off))
        case "no owners" | "price changed":
            sell(market, model)
            body = replace(body, price=Units(PRICE - 1)) if how == "price changed" else body
        case "twice":
            sell(market, model, "alice")
        case "overdraft":
            sell(market, model, price=1_001)
            body = replace(body, price=Units(1_001))
        case "nobody":
            sell(market, model)
            buyer = key("nobody")
    assert refusal(market.main, market.main.sign(buyer, body)) is reason


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("unknown", ReasonCode.UNKNOWN_MODEL),
        ("other shard", ReasonCode.WRONG_SHARD),
        ("more units", ReasonCode.BAD_PROOF),
        ("other start", ReasonCode.BAD_PROOF),
        ("other account", ReasonCode.BAD_PROOF),
        ("other index", ReasonCode.BAD_PROOF),
        ("past the end", ReasonCode.BAD_PROOF),
        ("nothing sold", ReasonCode.DUPLICATE),
        ("twice", ReasonCode.DUPLICATE),
    ],
)
def test_a_royalty_claim_is_refused(how, reason):
    market = make_market(shards=("shard-0", "shard-1"))
    model = market.play()
    if how != "nothing sold":
        sell(market, model, "alice", "bob", price=500)
    account = market.devices[ChainId("shard-0")][0].account
    body = royalty(market, model, account)
    assert isinstance(body, ClaimRoyalties)
    entry = body.contribution
    match how:
        case "unknown":
            body = replace(body, model=blob_digest(b"?"))
        case "other shard":
            body = replace(body, shard=ChainId("shard-1"))
        case "more units":
            changed = replace(entry, units=Units(entry.units + 1))
            body = replace(body, contribution=changed)
        case "other start":
            changed = replace(entry, start=Units(entry.start + 1))
            body = replace(body, contribution=changed)
        case "other account":
            changed = replace(entry, account=key("alice").account)
            body = replace(body, contribution=changed)
        case "other index":
            body = replace(body, index=body.index ^ 1)
        case "past the end":
            body = replace(body, index=99)
        case "twice":
            execute(market.main, market.main.sign(key("bob"), body))
    assert refusal(market.main, market.main.sign(key("bob"), body)) is reason


def test_a_forged_list_of_owners_takes_nothing_from_another_shard():
    market = make_market(shards=("shard-0", "shard-1"))
    model = market.play()
    sell(market, model, "alice")
    alice = key("alice").account
    # Two owners of the same interval, as only a dishonest committee would sign them.
    entries = tuple(
        Contribution(account=account, start=Units(0), units=Units(100))
        for account in sorted((alice, key("bob").account))
    )
    forged = replace(commit_contributions(entries), total=Units(100))
    source = replace(version_of(market, model).sources[0], contributions=forged)
    honest = replace(source, shard=ChainId("shard-1"))
    version = replace(version_of(market, model), sources=(source, honest))
    market.main.app._state = market.main.app.state.updated({"models": {model: version}})
    bodies = [
        ClaimRoyalties(
            model=model,
            shard=ChainId("shard-0"),
            contribution=entry,
            index=index,
            siblings=prove_contribution(entries, index),
        )
        for index, entry in enumerate(entries)
    ]
    execute(market.main, market.main.sign(key("bob"), bodies[0]))
    sign = market.main.sign(key("bob"), bodies[1])
    assert refusal(market.main, sign) is ReasonCode.BUDGET_SPENT
    assert version_of(market, model).unclaimed == PRICE - PRICE // 2


def test_the_public_sees_digests_and_members_see_blobs():
    market = make_market(names=("alice", "bob", "carol"))
    model, other = market.play(), market.play()
    payload = blob_digest(b"payload")
    alice, bob, carol = (key(name).account for name in ("alice", "bob", "carol"))

    def reads(account, blob_class=BlobClass.MODELS, blob=None):  # type: ignore[no-untyped-def]
        return may_read(market.main.app.state, account, blob_class, blob)

    assert not reads(alice, blob=model)
    sell(market, model, "alice")
    assert reads(alice, blob=model)
    assert not reads(alice, blob=other)
    assert not reads(alice)
    sponsor = market.cast.sponsor
    one = GrantAccess(account=bob, blob=other, blob_class=BlobClass.MODELS)
    every = GrantAccess(account=carol, blob=None, blob_class=BlobClass.PAYLOADS)
    execute(market.main, *(market.main.sign(sponsor, body) for body in (one, every)))
    assert reads(bob, blob=other)
    assert not reads(bob, blob=model)
    assert reads(carol, BlobClass.PAYLOADS, payload)
    assert reads(carol, BlobClass.PAYLOADS)
    assert not reads(carol, BlobClass.PROGRAMS)
    assert not reads(carol, blob=model)
    assert reads(sponsor.account, blob=model)
    assert reads(market.cast.all_validators[0].account, BlobClass.PAYLOADS, payload)
    revoke = RevokeAccess(account=bob, blob=other, blob_class=BlobClass.MODELS)
    execute(market.main, market.main.sign(sponsor, revoke))
    assert not reads(bob, blob=other)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("no sponsor", ReasonCode.NOT_PERMITTED),
        ("no sponsor, unknown blob", ReasonCode.NOT_PERMITTED),
        ("twice", ReasonCode.DUPLICATE),
        ("never granted", ReasonCode.NO_GRANT),
        ("revoked by another", ReasonCode.NOT_PERMITTED),
    ],
)
def test_a_grant_is_refused(how, reason):
    market = make_market()
    model = market.play()
    sponsor = market.cast.sponsor
    fields = {"account": key("bob").account, "blob": model, "blob_class": BlobClass.MODELS}
    grant, revoke = GrantAccess(**fields), RevokeAccess(**fields)
    if how in {"twice", "revoked by another"}:
        execute(market.main, market.main.sign(sponsor, grant))
    match how:
        case "no sponsor":
            transaction = market.main.sign(key("alice"), grant)
        case "no sponsor, unknown blob":
            other = replace(grant, blob=blob_digest(b"?"))
            transaction = market.main.sign(key("alice"), other)
        case "twice":
            transaction = market.main.sign(sponsor, grant)
        case "never granted":
            transaction = market.main.sign(sponsor, revoke)
        case _:
            transaction = market.main.sign(key("alice"), revoke)
    assert refusal(market.main, transaction) is reason


def test_claims_in_batches_are_the_same_with_what_a_relay_keeps(monkeypatch):
    monkeypatch.setattr("headwater_shard.claiming.MAX_CLAIMS", 2)
    market, progress = make_market(), ClaimProgress()
    for scores in ([300, 200, 100], [100, 300, 200]):
        market.play(scores=scores)
        num_batches = 0
        while True:
            states = market.shard("shard-0").app.state, market.main.app.state
            kept = due_reward_claim(ChainId("shard-0"), *states, progress=progress)
            assert kept == due_reward_claim(ChainId("shard-0"), *states)
            if kept is None:
                break
            execute(market.main, market.main.sign(market.cast.sponsor, kept))
            num_batches += 1
        assert num_batches > 1
        assert progress.num_paid > 0
