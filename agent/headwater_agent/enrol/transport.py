"""The transport key: what a broker knows a device by, made on the device and never kept apart.

It is another key than the device's own, so that whoever reads a broker's memory or a TLS library's
finds nothing that signs updates.
"""

import os
from typing import Final

from Crypto.PublicKey import ECC

from headwater_agent.enrol.certificate import decode_pem, read_validity_ms
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.errors import BadEncoding
from headwater_protocol.messages.credential import Credential

_ED25519_KEY: Final = bytes.fromhex("302a300506032b6570032100")
"""What stands before the 32 bytes of an Ed25519 key in a certificate, RFC 8410."""


def make_transport_key() -> SecretKey:
    """A new one."""
    return SecretKey(os.urandom(32))


def format_credential(key: SecretKey, credential: Credential) -> bytes:
    """Key and certificate as one PEM file, for both `cert_file` and `key_file`.

    Raises:
        BadEncoding: If the certificate is none, or another key's.
    """
    read_validity_ms(credential.certificate)
    if _ED25519_KEY + key.public_key not in decode_pem(credential.certificate):
        raise BadEncoding("the certificate is for another key")
    private = ECC.construct(curve="Ed25519", seed=key.seed).export_key(format="PEM")
    return private.encode() + b"\n" + credential.certificate
