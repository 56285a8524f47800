"""A signed HTTP request: who asks a gateway for what, and when.

The signature covers the method, the path, the digest of the body and the time, in a domain of its
own, so it cannot be used for anything else, nor for another request. Within the clock window it can
be sent again; that is harmless, because what it asks for is named by its content.

It travels in one header: `Authorization: Headwater <key>:<time_ms>:<signature>`, key and signature
in hexadecimal digits.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar, Final

from headwater_protocol.crypto.hashing import Domain
from headwater_protocol.crypto.signing import SecretKey, Verifier, verify_record
from headwater_protocol.encoding.record import Pattern
from headwater_protocol.errors import BadEncoding, BadSignature
from headwater_protocol.identifiers import AccountId, Digest, Network, Signature, TimeMs

SCHEME: Final = "Headwater"

CLOCK_WINDOW_MS: Final = 120_000
"""How far the signed time may be from the gateway's clock, either way."""

NO_BODY: Final = Digest(bytes(32))
"""In place of a body's digest where there is none."""

_HEADER: Final = re.compile(SCHEME + r" ([0-9a-f]{64}):([0-9]{1,18}):([0-9a-f]{128})")


class HttpMethod(StrEnum):
    """What a request can be."""

    GET = "GET"
    HEAD = "HEAD"
    PUT = "PUT"
    POST = "POST"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """What is signed."""

    KIND: ClassVar[str] = "http-request/1"

    method: HttpMethod
    path: Annotated[str, Pattern("/[!-~]{0,255}")]
    """With the query, as it stands in the request."""
    body: Digest
    """SHA-256 of the body, or `NO_BODY`."""
    time_ms: TimeMs
    """The asker's clock."""


def format_authorization(key: SecretKey, network: Network, request: HttpRequest) -> str:
    """The header's value for a request that `key` signs."""
    signature = key.sign_record(Domain.HTTP_REQUEST, network, request)
    return f"{SCHEME} {key.public_key.hex()}:{request.time_ms}:{signature.hex()}"


def verify_authorization(
    header: str,
    *,
    network: Network,
    method: HttpMethod,
    path: str,
    body: Digest,
    now_ms: int,
    verifier: Verifier,
) -> AccountId:
    """Who signed a request.

    Args:
        header: The value of `Authorization`.
        network: The network that the signature has to be for.
        method: Of the request.
        path: Of the request, with the query.
        body: Digest of the request's body, or `NO_BODY`.
        now_ms: The gateway's clock.
        verifier: Checks the signature.

    Raises:
        BadEncoding: If the header is not of that form.
        BadSignature: If it was signed at another time or for another request, or not by the key.
    """
    match = _HEADER.fullmatch(header)
    if match is None:
        raise BadEncoding(f"Authorization is not {SCHEME} key:time_ms:signature")
    account = AccountId(bytes.fromhex(match[1]))
    request = HttpRequest(method=method, path=path, body=body, time_ms=TimeMs(int(match[2])))
    away_ms = abs(now_ms - request.time_ms)
    if away_ms > CLOCK_WINDOW_MS:
        raise BadSignature(
            f"signed {away_ms} ms away from this gateway's clock, allowed {CLOCK_WINDOW_MS}"
        )
    signature = Signature(bytes.fromhex(match[3]))
    verify_record(verifier, account, Domain.HTTP_REQUEST, network, request, signature)
    return account
