import subprocess
import sys
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_protocol.crypto.hashing import (
    Domain,
    blob_digest,
    domain_prefix,
    hash_bytes,
    hash_record,
)
from headwater_protocol.crypto.signing import (
    DirectVerifier,
    SecretKey,
    is_signature,
    is_signature_pycryptodome,
    require_libsodium,
    signing_bytes,
    verify_record,
)
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.errors import BadSignature
from headwater_protocol.identifiers import Network
from headwater_protocol.messages.status import Status
from tests.support.network import key

CHECKS = (is_signature, is_signature_pycryptodome)
NETWORK = Network(bytes(range(32)))


def test_rfc_8032_test_1():
    secret = SecretKey(
        bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    )
    public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    signature = (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e"
        "39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )
    assert secret.public_key.hex() == public
    assert secret.sign(b"").hex() == signature
    assert all(check(secret.public_key, b"", bytes.fromhex(signature)) for check in CHECKS)


@settings(max_examples=20, deadline=None)
@given(st.binary(max_size=100), st.integers(0, 511), st.integers(0, 255))
def test_a_signature_with_one_bit_changed_does_not_verify(message, signature_bit, key_bit):
    signer = key("signer")
    signature = bytearray(signer.sign(message))
    public = bytearray(signer.public_key)
    assert all(check(signer.public_key, message, bytes(signature)) for check in CHECKS)
    signature[signature_bit // 8] ^= 1 << signature_bit % 8
    assert not any(check(signer.public_key, message, bytes(signature)) for check in CHECKS)
    public[key_bit // 8] ^= 1 << key_bit % 8
    assert not any(check(bytes(public), message, signer.sign(message)) for check in CHECKS)


@pytest.mark.parametrize("size", [0, 63, 65, 128])
def test_a_signature_of_another_length_does_not_verify(size):
    assert not is_signature(key("a").public_key, b"m", bytes(size))
    assert not is_signature(bytes(size), b"m", key("a").sign(b"m"))


@pytest.mark.parametrize("public", [bytes(32), b"\1" + bytes(31), b"\xff" * 32])
def test_a_key_of_small_order_signs_nothing(public):
    # With such a key the signature (identity, 0) would hold for every message.
    assert not is_signature(public, b"m", b"\1" + bytes(63))
    assert not is_signature(public, b"m", bytes(64))


def test_a_signature_does_not_move_to_another_domain_or_network():
    signer = key("signer")
    status = Status(device=signer.device, session=1, is_online=True)
    signature = signer.sign_record(Domain.STATUS, NETWORK, status)
    verify_record(DirectVerifier(), signer.public_key, Domain.STATUS, NETWORK, status, signature)
    for domain, network in (
        *((domain, NETWORK) for domain in Domain if domain is not Domain.STATUS),
        (Domain.STATUS, Network(bytes(32))),
    ):
        with pytest.raises(BadSignature, match=domain.value):
            verify_record(DirectVerifier(), signer.public_key, domain, network, status, signature)


def test_no_prefix_of_a_domain_begins_another():
    prefixes = [domain_prefix(domain) for domain in Domain]
    for prefix in prefixes:
        assert sum(other.startswith(prefix) for other in prefixes) == 1


def test_a_digest_depends_on_its_domain():
    digests = {hash_bytes(domain, b"x") for domain in Domain} | {blob_digest(b"x")}
    assert len(digests) == len(Domain) + 1
    status = Status(device=key("a").device, session=1, is_online=True)
    assert hash_record(Domain.STATUS, status) == hash_bytes(Domain.STATUS, encode_record(status))
    assert signing_bytes(Domain.VOTE, NETWORK, b"x") == b"headwater/1/vote\0" + NETWORK + b"x"


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_seed_has_32_bytes(size):
    with pytest.raises(ValueError, match="32 bytes"):
        SecretKey(bytes(size))


def test_the_secret_stays_out_of_what_is_printed():
    secret = key("a")
    assert secret.seed.hex()[:8] not in repr(secret)
    assert secret.public_key.hex()[:16] in repr(secret)
    assert secret.account == secret.device == secret.validator == secret.public_key


def test_a_ledger_has_libsodium_here():
    require_libsodium()


def test_a_device_without_pynacl_signs_the_same_and_runs_no_ledger():
    program = """
        import sys
        sys.modules["nacl"] = None
        from headwater_protocol.crypto import signing
        from headwater_protocol.errors import ConfigError
        key = signing.SecretKey(bytes(range(32)))
        signature = key.sign(b"message")
        assert signing.sodium is None
        assert signing.is_signature(key.public_key, b"message", signature)
        assert not signing.is_signature(key.public_key, b"other", signature)
        assert not signing.is_signature(b"\\xff" * 32, b"message", signature)
        try:
            signing.require_libsodium()
        except ConfigError as error:
            print(key.public_key.hex(), signature.hex(), error.key)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=True,
    )
    here = SecretKey(bytes(range(32)))
    assert done.stdout.split() == [here.public_key.hex(), here.sign(b"message").hex(), "PyNaCl"]
