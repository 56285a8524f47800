from dataclasses import replace

import pytest

from headwater_protocol.chain.checkpoint import (
    Checkpoint,
    CheckpointSignature,
    SignedCheckpoint,
    checkpoint_digest,
    checkpoint_message,
    verify_checkpoint,
)
from headwater_protocol.chain.contribution import Contributions
from headwater_protocol.crypto.signing import DirectVerifier, SecretKey
from headwater_protocol.errors import BadEncoding, BadSignature, InsufficientPower, OutOfBounds
from headwater_protocol.identifiers import ChainId, Network
from tests.support.network import key, make_cast
from tests.support.records import example_records

CAST = make_cast(validators_per_shard=4)
SHARD = ChainId("shard-0")
KEYS = sorted(CAST.validators[SHARD], key=lambda entry: entry.validator)
CHECKPOINT = next(record for record in example_records() if isinstance(record, Checkpoint))


def sign(keys: list[SecretKey], checkpoint: Checkpoint = CHECKPOINT) -> SignedCheckpoint:
    message = checkpoint_message(CAST.network, checkpoint)
    return SignedCheckpoint(
        checkpoint=checkpoint,
        signatures=tuple(
            CheckpointSignature(validator=entry.validator, signature=entry.sign(message))
            for entry in keys
        ),
    )


def verify(signed: SignedCheckpoint, network: Network = CAST.network) -> None:
    verify_checkpoint(
        signed,
        network=network,
        committee=CAST.genesis.committee(SHARD),
        verifier=DirectVerifier(),
    )


def test_more_than_two_thirds_settle_a_checkpoint():
    verify(sign(KEYS))
    verify(sign(KEYS[1:]))


def test_two_thirds_or_less_do_not():
    for count in (0, 1, 2):
        with pytest.raises(InsufficientPower):
            verify(sign(KEYS[:count]))


def test_a_signer_is_listed_once_and_in_order():
    for keys in (KEYS[::-1], [KEYS[0], *KEYS]):
        with pytest.raises(BadEncoding):
            verify(sign(keys))


def test_a_stranger_among_the_signers_is_refused():
    keys = sorted([*KEYS, key("stranger")], key=lambda entry: entry.validator)
    with pytest.raises(OutOfBounds, match="no delegate of shard-0"):
        verify(sign(keys))


def test_signatures_over_another_checkpoint_do_not_count():
    with pytest.raises(BadSignature):
        verify(replace(sign(KEYS), checkpoint=replace(CHECKPOINT, num_examples=61)))


def test_signatures_for_another_network_do_not_count():
    with pytest.raises(BadSignature):
        verify(sign(KEYS), Network(bytes(32)))


def test_every_field_is_part_of_the_link():
    digests = {checkpoint_digest(CHECKPOINT)}
    for name in Checkpoint.__slots__:
        value = getattr(CHECKPOINT, name)
        if isinstance(value, bool):
            changed: object = not value
        elif isinstance(value, bytes):
            changed = bytes([value[0] ^ 1]) + value[1:]
        elif isinstance(value, Contributions):
            changed = replace(value, total=value.total + 1)
        else:
            changed = value + 1 if isinstance(value, int) else value + "x"
        digests.add(checkpoint_digest(replace(CHECKPOINT, **{name: changed})))
    assert len(digests) == 1 + len(Checkpoint.__slots__)
