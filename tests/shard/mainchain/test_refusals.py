"""For every kind of transaction of the main chain, the ways to be invalid and their reasons."""

from dataclasses import replace

import pytest

from headwater_protocol.chain.checkpoint import (
    Checkpoint,
    CheckpointSignature,
    SignedCheckpoint,
    checkpoint_digest,
    checkpoint_message,
)
from headwater_protocol.chain.transaction import AttestMerge, PostCheckpoint, Transfer
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.identifiers import Network
from headwater_protocol.reasons import ReasonCode
from headwater_shard.mainchain.records import ACCOUNTS, SHARDS, shard_key
from tests.support.ledgers import (
    attest_merge,
    delegates,
    execute,
    main_of,
    open_round,
    play_round,
    reasons,
    refusal,
    settle,
    sign_checkpoint,
)
from tests.support.network import Chain, key, make_cast, make_task

CAST = make_cast(shards=("shard-0", "shard-1"), balances=[("rich", 1_000)])
RICH, POOR, RELAY = key("rich"), key("poor"), key("relay")
FLEET = [key("d0"), key("d1")]


# Transfers


TRANSFERS = {
    "nothing": (RICH, 0, ReasonCode.OUT_OF_BOUNDS),
    "one unit too much": (RICH, 1_001, ReasonCode.INSUFFICIENT_FUNDS),
    "everything there is": (RICH, 2**63 - 1, ReasonCode.INSUFFICIENT_FUNDS),
    "no account": (POOR, 1, ReasonCode.UNKNOWN_ACCOUNT),
    "no account, nothing": (POOR, 0, ReasonCode.OUT_OF_BOUNDS),
    "a validator's bond": (
        CAST.validators["shard-0"][0],
        1,
        ReasonCode.UNKNOWN_ACCOUNT,
    ),
    "the escrow": (CAST.sponsor, 1_001, ReasonCode.INSUFFICIENT_FUNDS),
}


@pytest.mark.parametrize(("sender", "amount", "reason"), TRANSFERS.values(), ids=TRANSFERS.keys())
def test_a_transfer_is_refused(sender, amount, reason):
    main = Chain(CAST, "main")
    data = main.sign(sender, Transfer(recipient=POOR.account, amount=amount))
    assert refusal(main, data) is reason
    assert main.app.check_tx(data) is reason


def balance(main: Chain, account) -> int | None:
    entry = main.app.state.get(ACCOUNTS, account)
    return None if entry is None else entry.balance


@pytest.mark.parametrize("amount", [1, 999, 1_000])
def test_a_transfer_moves_units_and_makes_the_recipients_account(amount):
    main = Chain(CAST, "main")
    execute(main, main.sign(RICH, Transfer(recipient=POOR.account, amount=amount)))
    assert balance(main, RICH.account) == 1_000 - amount
    assert balance(main, POOR.account) == amount


def test_a_transfer_to_oneself_changes_no_balance():
    main = Chain(CAST, "main")
    execute(main, main.sign(RICH, Transfer(recipient=RICH.account, amount=1_000)))
    assert balance(main, RICH.account) == 1_000


# Checkpoints


def resign(checkpoint: Checkpoint, keys=None, *, network=CAST.network) -> SignedCheckpoint:
    """A checkpoint with good signatures, whatever it says."""
    keys = CAST.validators[checkpoint.shard] if keys is None else keys
    message = checkpoint_message(network, checkpoint)
    rows = [
        CheckpointSignature(validator=entry.validator, signature=entry.sign(message))
        for entry in keys
    ]
    return SignedCheckpoint(
        checkpoint=checkpoint, signatures=tuple(sorted(rows, key=lambda row: row.validator))
    )


@pytest.fixture(scope="module")
def settled() -> tuple[Chain, SignedCheckpoint, SignedCheckpoint]:
    """A main chain that holds shard-0's first checkpoint, that one, and the second."""
    shard = Chain(CAST, "shard-0")
    main = Chain(CAST, "main")
    open_round(shard, FLEET)
    play_round(shard, FLEET)
    play_round(shard, FLEET)
    first = settle(main, shard)
    play_round(shard, FLEET)
    play_round(shard, FLEET)
    second = sign_checkpoint(shard)
    assert second.checkpoint.is_final
    return main, first, second


def changed(**changes: object):
    """The second checkpoint, changed and signed by the whole shard."""
    return lambda first, second: resign(replace(second.checkpoint, **changes))


OWN = CAST.validators["shard-0"]
CHECKPOINTS = {
    "the same again": (lambda first, second: first, ReasonCode.DUPLICATE),
    "another one of a settled number": (
        lambda first, second: resign(replace(first.checkpoint, model=bytes(32))),
        ReasonCode.BROKEN_LINK,
    ),
    "a number left out": (changed(number=3), ReasonCode.BROKEN_LINK),
    "another predecessor": (changed(previous=bytes(32)), ReasonCode.BROKEN_LINK),
    "the same height": (
        lambda first, second: resign(replace(second.checkpoint, height=first.checkpoint.height)),
        ReasonCode.OUT_OF_BOUNDS,
    ),
    "a lower height": (changed(height=1), ReasonCode.OUT_OF_BOUNDS),
    "an epoch to come": (changed(epoch=1), ReasonCode.WRONG_EPOCH),
    "an unknown shard": (
        lambda first, second: resign(replace(second.checkpoint, shard="shard-9"), OWN),
        ReasonCode.WRONG_SHARD,
    ),
    "the main chain as a shard": (
        lambda first, second: resign(replace(second.checkpoint, shard="main"), OWN),
        ReasonCode.WRONG_SHARD,
    ),
    "no signature": (
        lambda first, second: replace(second, signatures=()),
        ReasonCode.LOW_POWER,
    ),
    "too little power": (
        lambda first, second: resign(second.checkpoint, OWN[:2]),
        ReasonCode.LOW_POWER,
    ),
    "the delegates of another shard": (
        lambda first, second: resign(second.checkpoint, CAST.validators["shard-1"]),
        ReasonCode.OUT_OF_BOUNDS,
    ),
    "a stranger among the signers": (
        lambda first, second: resign(second.checkpoint, [*OWN, RELAY]),
        ReasonCode.OUT_OF_BOUNDS,
    ),
    "a signer twice": (
        lambda first, second: resign(second.checkpoint, [*OWN[:2], *OWN[:2]]),
        ReasonCode.BAD_ENCODING,
    ),
    "signers out of order": (
        lambda first, second: replace(second, signatures=second.signatures[::-1]),
        ReasonCode.BAD_ENCODING,
    ),
    "a signature over another": (
        lambda first, second: replace(
            second, checkpoint=replace(second.checkpoint, num_examples=10**6)
        ),
        ReasonCode.BAD_SIGNATURE,
    ),
    "a signature for another network": (
        lambda first, second: resign(second.checkpoint, network=Network(bytes(32))),
        ReasonCode.BAD_SIGNATURE,
    ),
    "one forged signature among enough": (
        lambda first, second: replace(
            second,
            signatures=(
                replace(second.signatures[0], signature=second.signatures[1].signature),
                *second.signatures[1:],
            ),
        ),
        ReasonCode.BAD_SIGNATURE,
    ),
}


@pytest.mark.parametrize(("make", "reason"), CHECKPOINTS.values(), ids=CHECKPOINTS.keys())
def test_a_checkpoint_is_refused(settled, make, reason):
    main, first, second = settled
    data = main.sign(RELAY, PostCheckpoint(signed=make(first, second)))
    assert refusal(main, data) is reason
    assert main.app.check_tx(data) is reason


def test_anybody_settles_a_good_checkpoint(settled):
    main, _, second = settled
    data = main.sign(RELAY, PostCheckpoint(signed=second))
    assert main.app.check_tx(data) is ReasonCode.OK


def test_nothing_follows_a_final_checkpoint():
    cast = make_cast(task=make_task(rounds=1))
    shard, main = Chain(cast, "shard-0"), Chain(cast, "main")
    open_round(shard, FLEET)
    play_round(shard, FLEET)
    final = settle(main, shard).checkpoint
    after = replace(final, number=2, previous=checkpoint_digest(final), height=final.height + 5)
    message = checkpoint_message(cast.network, after)
    signatures = tuple(
        CheckpointSignature(validator=entry.validator, signature=entry.sign(message))
        for entry in delegates(shard)
    )
    signed = SignedCheckpoint(checkpoint=after, signatures=signatures)
    data = main.sign(RELAY, PostCheckpoint(signed=signed))
    assert refusal(main, data) is ReasonCode.OUT_OF_BOUNDS


def test_a_shard_cannot_go_back_to_a_merge_that_it_left(settled):
    _main, _, _ = settled
    fresh = Chain(CAST, "main")
    rows: list[SignedCheckpoint] = []
    for merged in (0, 1, 0):
        last = rows[-1].checkpoint if rows else None
        rows.append(
            resign(
                Checkpoint(
                    shard="shard-0",
                    number=len(rows) + 1,
                    epoch=0,
                    merged=merged,
                    round=len(rows) + 1,
                    height=len(rows) + 1,
                    state_root=bytes(32),
                    model=bytes(32),
                    num_examples=1,
                    is_final=False,
                    previous=checkpoint_digest(last) if last else bytes(32),
                )
            )
        )
    execute(fresh, fresh.sign(RELAY, PostCheckpoint(signed=rows[0])))
    fresh.block(after_ms=60_001)
    attest_merge(fresh, blob_digest(b"m"))
    execute(fresh, fresh.sign(RELAY, PostCheckpoint(signed=rows[1])))
    back = fresh.sign(RELAY, PostCheckpoint(signed=rows[2]))
    assert refusal(fresh, back) is ReasonCode.WRONG_EPOCH
    entry = fresh.app.state.get(SHARDS, shard_key("shard-0"))
    assert entry is not None
    assert (entry.number, entry.merged) == (2, 1)


# Attestations of a merge


@pytest.fixture(scope="module")
def merging() -> Chain:
    shard, main = Chain(CAST, "shard-0"), Chain(CAST, "main")
    open_round(shard, FLEET)
    play_round(shard, FLEET)
    play_round(shard, FLEET)
    settle(main, shard)
    main.block(after_ms=60_001)
    assert main_of(main).is_merging
    first = delegates(main)[0]
    execute(main, main.sign(first, AttestMerge(epoch=1, model=blob_digest(b"m"))))
    return main


ATTESTATIONS = {
    "not a delegate": (lambda main: RICH, 1, b"m", ReasonCode.NOT_PERMITTED),
    "a registrar": (lambda main: CAST.registrar, 1, b"m", ReasonCode.NOT_PERMITTED),
    "the epoch before": (lambda main: delegates(main)[1], 0, b"m", ReasonCode.WRONG_EPOCH),
    "an epoch to come": (lambda main: delegates(main)[1], 2, b"m", ReasonCode.WRONG_EPOCH),
    "again": (lambda main: delegates(main)[0], 1, b"m", ReasonCode.DUPLICATE),
    "another model": (lambda main: delegates(main)[0], 1, b"n", ReasonCode.DUPLICATE),
}


@pytest.mark.parametrize(
    ("sender", "epoch", "model", "reason"), ATTESTATIONS.values(), ids=ATTESTATIONS.keys()
)
def test_an_attestation_is_refused(merging, sender, epoch, model, reason):
    body = AttestMerge(epoch=epoch, model=blob_digest(model))
    assert refusal(merging, merging.sign(sender(merging), body)) is reason


def test_no_merge_is_attested_before_it_opens():
    main = Chain(CAST, "main")
    body = AttestMerge(epoch=1, model=blob_digest(b"m"))
    data = main.sign(delegates(main)[0], body)
    assert refusal(main, data) is ReasonCode.WRONG_EPOCH
    assert reasons(main.block(data)) == [ReasonCode.WRONG_EPOCH]
