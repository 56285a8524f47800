"""Tokens: what an operator gives a device so that it may join, and knows whom to trust.

```
hw1.<base32 of version-less bytes, lower case, without padding>

 20  the first bytes of the network's genesis digest
 20  the first bytes of SHA-256 of the authority's certificate (DER)
  6  the token's id, public
 16  its secret
  2  the first bytes of the SHA-256 of all before, against slips of the pen
```

A device that holds one needs nothing else: it takes only a genesis and an authority that these
digests name. 160 bits are far beyond a second preimage, and the one who could look for collisions
is the operator who is trusted with both.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Annotated, Final, NewType

from headwater_protocol.crypto.hashing import Domain, hash_bytes
from headwater_protocol.encoding.record import Length
from headwater_protocol.errors import BadEncoding
from headwater_protocol.identifiers import Digest, Network

PREFIX: Final = "hw1."
ABBREVIATED_BYTES: Final = 20
ID_BYTES: Final = 6
SECRET_BYTES: Final = 16
CHECK_BYTES: Final = 2
TOKEN_BYTES: Final = 2 * ABBREVIATED_BYTES + ID_BYTES + SECRET_BYTES + CHECK_BYTES
MAX_TOKEN_CHARACTERS: Final = 256

TokenId = NewType("TokenId", Annotated[bytes, Length(ID_BYTES)])
"""Names a token in lists and logs."""

TokenSecret = NewType("TokenSecret", Annotated[bytes, Length(SECRET_BYTES)])
"""Whoever has it can enrol one device. A registrar keeps a salted digest of it alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A parsed token."""

    network: bytes
    """20 bytes."""
    authority: bytes
    """20 bytes."""
    token: TokenId
    secret: TokenSecret

    def __repr__(self) -> str:
        return f"Token({self.token.hex()})"

    def names_network(self, network: Network) -> bool:
        """Whether it is a token of `network`."""
        return network[:ABBREVIATED_BYTES] == self.network

    def names_authority(self, fingerprint: bytes) -> bool:
        """Whether it names the authority whose certificate has this SHA-256."""
        return fingerprint[:ABBREVIATED_BYTES] == self.authority


def format_token(
    *, network: Network, fingerprint: bytes, token: TokenId, secret: TokenSecret
) -> str:
    """The text of a token.

    Args:
        network: The digest of the genesis.
        fingerprint: SHA-256 of the authority's certificate.
        token: Its id.
        secret: Its secret.
    """
    data = network[:ABBREVIATED_BYTES] + fingerprint[:ABBREVIATED_BYTES] + token + secret
    text = base64.b32encode(data + _checksum(data)).decode("ascii")
    return PREFIX + text.rstrip("=").lower()


def parse_token(text: str) -> Token:
    """The token in a text; case does not matter.

    Raises:
        BadEncoding: If it is none, or a character is wrong.
    """
    if len(text) > MAX_TOKEN_CHARACTERS or not text.lower().startswith(PREFIX):
        raise BadEncoding(f"a token begins with {PREFIX}")
    body = text[len(PREFIX) :].upper()
    try:
        data = base64.b32decode(body + "=" * (-len(body) % 8))
    except (binascii.Error, ValueError):
        raise BadEncoding("a token has letters and the digits 2 to 7 alone") from None
    content, check = data[:-CHECK_BYTES], data[-CHECK_BYTES:]
    if len(data) != TOKEN_BYTES or _checksum(content) != check:
        raise BadEncoding("the token is cut short or has a wrong character")
    if base64.b32encode(data).decode("ascii").rstrip("=") != body:
        raise BadEncoding("the token is written in another way than it was given out")
    rest = content[2 * ABBREVIATED_BYTES :]
    return Token(
        network=content[:ABBREVIATED_BYTES],
        authority=content[ABBREVIATED_BYTES : 2 * ABBREVIATED_BYTES],
        token=TokenId(rest[:ID_BYTES]),
        secret=TokenSecret(rest[ID_BYTES:]),
    )


def token_digest(salt: bytes, secret: TokenSecret) -> Digest:
    """What a registrar keeps of a secret; `salt` has 16 bytes.

    The secret is 128 random bits, so one hash is as hard to reverse as a thousand.
    """
    return hash_bytes(Domain.TOKEN, salt, secret)


def _checksum(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:CHECK_BYTES]
