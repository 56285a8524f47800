"""Signatures are checked once each."""

import pytest

from headwater_protocol.crypto.signing import DirectVerifier
from headwater_shard.audit import once
from headwater_shard.audit.once import OnceVerifier
from tests.support.network import key


class Counting(DirectVerifier):
    def __init__(self) -> None:
        self.calls = 0

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        self.calls += 1
        return super().verify(public_key, message, signature)


def test_a_good_signature_is_checked_once_and_counted_once() -> None:
    signer, inner = key("alice"), Counting()
    verifier = OnceVerifier(inner)
    signature = signer.sign(b"message")
    assert all(verifier.verify(signer.public_key, b"message", signature) for _ in range(3))
    assert (inner.calls, verifier.num_verified) == (1, 1)


def test_a_bad_signature_stays_bad() -> None:
    signer, verifier = key("alice"), OnceVerifier(DirectVerifier())
    signature = signer.sign(b"message")
    assert not any(verifier.verify(signer.public_key, b"massage", signature) for _ in range(2))
    assert not verifier.verify(key("bob").public_key, b"message", signature)
    assert verifier.num_verified == 0


def test_lengths_cannot_shift_between_key_signature_and_message() -> None:
    signer, verifier = key("alice"), OnceVerifier(DirectVerifier())
    signature = signer.sign(b"message")
    assert verifier.verify(signer.public_key, b"message", signature)
    assert not verifier.verify(signer.public_key, b"essage", signature + b"m")
    assert not verifier.verify(signer.public_key + signature[:1], b"message", signature[1:])


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(once, "MAX_REMEMBERED", 2)
    signer, inner = key("alice"), Counting()
    verifier = OnceVerifier(inner)
    rows = [(bytes([number]), signer.sign(bytes([number]))) for number in range(3)]
    for message, signature in rows:
        assert verifier.verify(signer.public_key, message, signature)
    assert verifier.verify(signer.public_key, *rows[2])
    assert inner.calls == 3
    assert verifier.verify(signer.public_key, *rows[0])
    assert inner.calls == 4
