"""As much of an X.509 certificate as a device needs: its fingerprint, its begin and its end.

Whether it is valid is for the TLS library to say; this only reads when to renew it.
"""

import base64
import binascii
import calendar
import hashlib
import re
import time
from typing import Final

from Crypto.Util.asn1 import DerSequence

from headwater_protocol.errors import BadEncoding

_BLOCK: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----\s(.+?)\s-----END CERTIFICATE-----", re.DOTALL
)
_VERSION_TAG: Final = 0xA0
_UTC_TIME: Final = 0x17
_GENERALIZED_TIME: Final = 0x18


def decode_pem(pem: bytes) -> bytes:
    """The DER bytes of the first certificate in `pem`.

    Raises:
        BadEncoding: If there is none.
    """
    found = _BLOCK.search(pem)
    try:
        if found is not None:
            return base64.b64decode(b"".join(found[1].split()), validate=True)
    except binascii.Error:
        pass
    raise BadEncoding("there is no certificate in PEM")


def compute_fingerprint(pem: bytes) -> bytes:
    """SHA-256 of the certificate's DER bytes; errors as `decode_pem`."""
    return hashlib.sha256(decode_pem(pem)).digest()


def read_validity_ms(pem: bytes) -> tuple[int, int]:
    """From when to when the certificate is valid, UTC.

    Raises:
        BadEncoding: If it cannot be read.
    """
    try:
        certificate = DerSequence().decode(decode_pem(pem))
        content = DerSequence().decode(certificate[0])
        fields = [content[index] for index in range(len(content))]
        if isinstance(fields[0], bytes) and fields[0][0] == _VERSION_TAG:
            fields.pop(0)
        # Serial number, signature algorithm, issuer, validity.
        validity = DerSequence().decode(fields[3])
        return _read_time_ms(bytes(validity[0])), _read_time_ms(bytes(validity[1]))
    except (ValueError, IndexError, TypeError) as error:
        raise BadEncoding(f"no certificate: {error}") from None


def _read_time_ms(encoded: bytes) -> int:
    tag, size, text = encoded[0], encoded[1], encoded[2:].decode("ascii")
    if size != len(text) or not text.endswith("Z"):
        raise ValueError("a time is cut short")
    if tag == _UTC_TIME:
        century = "19" if int(text[:2]) >= 50 else "20"
        text = century + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("a time is written in another way")
    return calendar.timegm(time.strptime(text, "%Y%m%d%H%M%SZ")) * 1_000
