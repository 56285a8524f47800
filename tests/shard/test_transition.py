"""What every transaction has to be, on any chain and of any kind."""

from dataclasses import replace

import pytest

from headwater_protocol.chain.transaction import (
    AttestModel,
    SignedTransaction,
    Transfer,
    decode_transaction,
    sign_transaction,
)
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.errors import InvalidBlock
from headwater_protocol.identifiers import (
    MAIN_CHAIN,
    MAX_UNSIGNED,
    ChainId,
    Network,
    Nonce,
    TimeMs,
)
from headwater_protocol.reasons import ReasonCode
from headwater_shard.transition import NONCES
from tests.support.ledgers import (
    commit_body,
    delegates,
    execute,
    next_context,
    open_round,
    reasons,
    refusal,
)
from tests.support.network import Chain, key, make_cast
from tests.support.records import make_bodies

CAST = make_cast(shards=("shard-0", "shard-1"), balances=[("rich", 1_000)])
DEVICE = key("device")
SHARD_KINDS = {
    "enrol-device/1",
    "declare-capability/1",
    "revoke-device/1",
    "commit-updates/1",
    "post-scores/1",
    "attest-model/1",
    "sign-checkpoint/1",
    "adopt-epoch/1",
    "adopt-task/2",
}


def shard_chain() -> Chain:
    chain = Chain(CAST, "shard-0")
    open_round(chain, [DEVICE])
    return chain


def enrol(chain: Chain, name: str = "new", **changes: object) -> bytes:
    return chain.sign(CAST.registrar, chain.enrolment(key(name)), **changes)


def moved(data: bytes, **changes: object) -> bytes:
    """The same transaction with other fields, signed by its registrar again."""
    return sign_transaction(
        CAST.registrar, replace(decode_transaction(data).transaction, **changes)
    )


def altered(data: bytes, **changes: object) -> bytes:
    """Other fields under the old signature."""
    signed = decode_transaction(data)
    return encode_record(replace(signed, transaction=replace(signed.transaction, **changes)))


def resigned(data: bytes, signer) -> bytes:
    signed = decode_transaction(data)
    return encode_record(
        SignedTransaction(
            transaction=signed.transaction,
            signature=signer.sign(b"headwater/1/transaction\0" + encode_record(signed.transaction)),
        )
    )


FOREIGN = {
    "garbage": (lambda chain: b"garbage", ReasonCode.BAD_ENCODING),
    "nothing": (lambda chain: b"", ReasonCode.BAD_ENCODING),
    "trailing byte": (lambda chain: enrol(chain) + b"\0", ReasonCode.BAD_ENCODING),
    "unsigned": (
        lambda chain: encode_record(replace(decode_transaction(enrol(chain)), signature=bytes(64))),
        ReasonCode.BAD_SIGNATURE,
    ),
    "signed without the network": (
        lambda chain: resigned(enrol(chain), CAST.registrar),
        ReasonCode.BAD_SIGNATURE,
    ),
    "another's name": (
        lambda chain: moved(enrol(chain), sender=key("other").account),
        ReasonCode.BAD_SIGNATURE,
    ),
    "another network": (
        lambda chain: moved(enrol(chain), network=Network(bytes(32))),
        ReasonCode.WRONG_NETWORK,
    ),
    "another shard": (lambda chain: moved(enrol(chain), chain="shard-1"), ReasonCode.WRONG_CHAIN),
    "the main chain": (lambda chain: moved(enrol(chain), chain="main"), ReasonCode.WRONG_CHAIN),
    "too large": (lambda chain: bytes(1024 * 1024 + 1), ReasonCode.TOO_LARGE),
}


@pytest.mark.parametrize(("make", "reason"), FOREIGN.values(), ids=FOREIGN.keys())
def test_what_is_no_transaction_of_this_chain_makes_its_block_invalid(make, reason):
    chain = shard_chain()
    data, root = make(chain), chain.app.state_root
    assert chain.app.check_tx(data) is reason
    with pytest.raises(InvalidBlock, match="transaction 1"):
        chain.app.finalize_block(next_context(chain, enrol(chain), data))
    time_ms = TimeMs(chain.now_ms + 10)
    good = enrol(chain)
    assert chain.app.prepare_proposal([data, good], time_ms=time_ms, max_bytes=10_000) == (good,)
    assert chain.app.state_root == root


@pytest.mark.parametrize("body", make_bodies(), ids=lambda body: body.KIND)
def test_a_chain_refuses_the_kinds_of_the_other(body):
    other = Chain(CAST, MAIN_CHAIN) if body.KIND in SHARD_KINDS else shard_chain()
    data = other.sign(CAST.sponsor, body)
    assert refusal(other, data) is ReasonCode.WRONG_CHAIN
    assert other.app.check_tx(data) is ReasonCode.WRONG_CHAIN


@pytest.mark.parametrize("body", make_bodies(), ids=lambda body: body.KIND)
def test_no_kind_is_taken_unsigned_by_another_or_from_another_network_or_chain(body):
    chain = shard_chain() if body.KIND in SHARD_KINDS else Chain(CAST, MAIN_CHAIN)
    elsewhere = MAIN_CHAIN if body.KIND in SHARD_KINDS else ChainId("shard-0")
    good = chain.sign(CAST.sponsor, body)
    root = chain.app.state_root
    for data, reason in (
        (encode_record(replace(decode_transaction(good), signature=bytes(64))), "bad_signature"),
        (altered(good, sender=key("other").account), "bad_signature"),
        (altered(good, nonce=Nonce(10**6)), "bad_signature"),
        (chain.sign(CAST.sponsor, body, network=Network(bytes(32))), "wrong_network"),
        (chain.sign(CAST.sponsor, body, chain=elsewhere), "wrong_chain"),
    ):
        assert chain.app.check_tx(data).value == reason
        with pytest.raises(InvalidBlock):
            chain.app.finalize_block(next_context(chain, data))
        assert chain.app.state_root == root


@pytest.mark.parametrize("step", [0, -1, -3])
def test_a_nonce_that_does_not_increase_is_refused(step):
    chain = shard_chain()
    execute(chain, enrol(chain, "first", nonce=Nonce(1_000)))
    stale = enrol(chain, "second", nonce=Nonce(1_000 + step))
    assert refusal(chain, stale) is ReasonCode.WRONG_NONCE
    assert chain.app.check_tx(stale) is ReasonCode.WRONG_NONCE


def test_nonces_may_skip_and_are_each_senders_own():
    chain = shard_chain()
    execute(chain, enrol(chain, "first", nonce=Nonce(1_000)))
    execute(chain, enrol(chain, "second", nonce=Nonce(MAX_UNSIGNED)))
    other = chain.sign(key("anybody"), chain.enrolment(key("third")), nonce=Nonce(0))
    execute(chain, other)
    entry = chain.app.state.get(NONCES, CAST.registrar.account)
    assert entry is not None
    assert entry.nonce == MAX_UNSIGNED


def test_a_refused_transaction_does_not_use_up_its_nonce():
    chain = Chain(CAST, MAIN_CHAIN)
    too_much = Transfer(recipient=key("a").account, amount=1_001)
    assert reasons(chain.block(chain.sign(key("rich"), too_much, nonce=Nonce(7)))) == [
        ReasonCode.INSUFFICIENT_FUNDS
    ]
    enough = Transfer(recipient=key("a").account, amount=1_000)
    execute(chain, chain.sign(key("rich"), enough, nonce=Nonce(7)))


def test_a_replayed_transaction_changes_nothing():
    main = Chain(CAST, MAIN_CHAIN)
    transfer = main.sign(key("rich"), Transfer(recipient=key("a").account, amount=1))
    execute(main, transfer)
    assert refusal(main, transfer) is ReasonCode.WRONG_NONCE

    chain = shard_chain()
    enrolment = enrol(chain)
    execute(chain, enrolment)
    assert refusal(chain, enrolment) is ReasonCode.WRONG_NONCE
    commits = chain.sign(delegates(chain)[0], commit_body(chain, [DEVICE]))
    execute(chain, commits)
    assert refusal(chain, commits) is ReasonCode.WRONG_NONCE


def test_a_transaction_twice_in_a_block_counts_once():
    main = Chain(CAST, MAIN_CHAIN)
    transfer = main.sign(key("rich"), Transfer(recipient=key("a").account, amount=600))
    assert reasons(main.block(transfer, transfer)) == [ReasonCode.OK, ReasonCode.WRONG_NONCE]


def test_transactions_of_a_block_see_those_before_them():
    main = Chain(CAST, MAIN_CHAIN)
    there = main.sign(key("rich"), Transfer(recipient=key("a").account, amount=600))
    back = main.sign(key("a"), Transfer(recipient=key("rich").account, amount=600))
    assert reasons(main.app.finalize_block(next_context(main, back, there))) == [
        ReasonCode.UNKNOWN_ACCOUNT,
        ReasonCode.OK,
    ]
    assert reasons(main.app.finalize_block(next_context(main, there, back))) == [
        ReasonCode.OK,
        ReasonCode.OK,
    ]


def test_a_role_is_checked_by_key_and_not_by_claim():
    chain = shard_chain()
    body = AttestModel(round=chain.round.number, model=bytes(32))
    for sender in (DEVICE, CAST.registrar, CAST.validators["shard-1"][0]):
        assert refusal(chain, chain.sign(sender, body)) is ReasonCode.NOT_PERMITTED
