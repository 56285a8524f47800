from dataclasses import replace

import pytest

from headwater_protocol.chain.block import MAX_TRANSACTION_BYTES
from headwater_protocol.chain.claim import UpdateClaim, update_message
from headwater_protocol.chain.transaction import (
    MAX_BATCH_COMMITS,
    CommitUpdates,
    PostScores,
    SignedTransaction,
    Transaction,
    decode_transaction,
    sign_transaction,
    transaction_digest,
    verify_transaction,
)
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.crypto.signing import DirectVerifier
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.errors import BadSignature, InvalidMessage, OutOfBounds, TooLarge
from headwater_protocol.identifiers import ChainId, DeviceId, Network, Nonce
from tests.support.network import key
from tests.support.records import CAST, example_records, make_bodies, sign_body

BODIES = make_bodies()


def make_scores(*, batch: int, scores: tuple[int, ...]) -> PostScores:
    reference = blob_digest(b"reference")
    return PostScores(task="test", round=1, batch=batch, scores=scores, reference=reference)


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.KIND)
def test_a_signed_transaction_comes_back_and_verifies(body):
    transaction = sign_body(body).transaction
    data = sign_transaction(CAST.sponsor, transaction)
    signed = decode_transaction(data)
    assert signed.transaction == transaction
    verify_transaction(signed, DirectVerifier())
    assert encode_record(signed) == data


@pytest.mark.parametrize(
    "changes",
    [
        {"network": Network(bytes(32))},
        {"chain": ChainId("main")},
        {"sender": key("other").account},
        {"nonce": Nonce(6)},
        {"body": BODIES[-1]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_signature_covers_every_field(changes):
    signed = sign_body(BODIES[0])
    changed = replace(signed, transaction=replace(signed.transaction, **changes))
    with pytest.raises(BadSignature):
        verify_transaction(changed, DirectVerifier())


def test_a_transaction_is_named_by_its_encoded_bytes():
    names = {transaction_digest(encode_record(sign_body(body))) for body in BODIES}
    assert len(names) == len(BODIES)


def test_every_field_of_a_claim_is_signed():
    claim = next(record for record in example_records() if isinstance(record, UpdateClaim))
    messages = {update_message(CAST.network, claim), update_message(Network(bytes(32)), claim)}
    for changed in (
        {"shard": ChainId("shard-9")},
        {"round": claim.round + 1},
        {"base": bytes(32)},
        {"device": bytes(32)},
        {"payload": bytes(32)},
        {"num_examples": 1},
    ):
        messages.add(update_message(CAST.network, replace(claim, **changed)))
    assert len(messages) == 8


def test_a_full_batch_fits_a_transaction_and_one_commit_more_is_refused():
    commits = next(body for body in BODIES if isinstance(body, CommitUpdates)).commits
    row = tuple(
        replace(commits[0], device=DeviceId(index.to_bytes(32, "big")))
        for index in range(MAX_BATCH_COMMITS + 1)
    )
    full = encode_record(sign_body(CommitUpdates(round=1, commits=row[:-1])))
    assert len(full) < MAX_TRANSACTION_BYTES
    assert len(decode_transaction(full).transaction.body.commits) == MAX_BATCH_COMMITS
    with pytest.raises(OutOfBounds, match="1001 items"):
        decode_transaction(encode_record(sign_body(CommitUpdates(round=1, commits=row))))
    scores = make_scores(batch=0, scores=(0,) * (MAX_BATCH_COMMITS + 1))
    with pytest.raises(OutOfBounds):
        decode_transaction(encode_record(sign_body(scores)))


@pytest.mark.parametrize(
    "body",
    [
        make_scores(batch=0, scores=(10_001,)),
        make_scores(batch=0, scores=(-10_002,)),
        make_scores(batch=-1, scores=(0,)),
        make_scores(batch=0, scores=()),
        CommitUpdates(round=1, commits=()),
    ],
    ids=["score above", "score below", "batch below", "no scores", "no commits"],
)
def test_a_body_out_of_bounds_is_refused(body):
    with pytest.raises(OutOfBounds):
        decode_transaction(encode_record(sign_body(body)))


def test_bytes_past_the_limit_are_not_parsed():
    with pytest.raises(TooLarge):
        decode_transaction(b"\x40" * (MAX_TRANSACTION_BYTES + 1))
    with pytest.raises(InvalidMessage):
        decode_transaction(b"\x40" * MAX_TRANSACTION_BYTES)


def test_only_the_senders_key_signs():
    transaction: Transaction = sign_body(BODIES[0]).transaction
    forged = SignedTransaction(
        transaction=transaction, signature=key("other").sign(encode_record(transaction))
    )
    with pytest.raises(BadSignature, match=transaction.sender.hex()[:16]):
        verify_transaction(forged, DirectVerifier())
