"""HTTPS to a registrar, with the standard library alone.

The first thing a device asks for is the authority's certificate, on a connection that it does not
trust and tells nothing. It takes that certificate only if its token names it, and from then on
only connections that this authority vouches for.
"""

import http.client
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

from headwater_agent.enrol.certificate import compute_fingerprint
from headwater_protocol.chain.genesis import MAX_GENESIS_BYTES
from headwater_protocol.encoding.record import decode_record
from headwater_protocol.errors import BadEncoding, ConfigError, InvalidMessage, TransportError
from headwater_protocol.identifiers import DeviceId, EpochNumber
from headwater_protocol.light.update import MAX_EPOCH_UPDATE_BYTES, EpochUpdate
from headwater_protocol.messages.credential import (
    MAX_CREDENTIAL_BYTES,
    MAX_PEM_BYTES,
    MAX_STATUS_BYTES,
    PATH,
    Credential,
    EnrolmentStatus,
)
from headwater_protocol.reasons import MEANINGS, ReasonCode
from headwater_protocol.tls import explain_tls

DEFAULT_PORT: Final = 8443
TIMEOUT_S: Final = 20.0
MAX_ERROR_BYTES: Final = 4 * 1024
MAX_DETAIL_CHARACTERS: Final = 300

R = TypeVar("R")


class RegistrarRefusal(InvalidMessage):
    """The registrar does not do what it was asked; `refusal` is its reason.

    Args:
        refusal: One of the protocol's codes.
        detail: The registrar's words.
    """

    def __init__(self, refusal: ReasonCode, detail: str) -> None:
        super().__init__(f"{refusal.value}: {MEANINGS[refusal]} ({detail})")
        self.refusal = refusal


class RegistrarClient:
    """Asks one registrar.

    Args:
        url: `https://host[:port]`.
        tls: What it takes for the registrar; None trusts nobody, and serves `fetch_authority`.

    Raises:
        ConfigError: If it is no such URL.
    """

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        self.url = url
        self._host, self._port = parse_url(url)
        self._tls = tls or _make_blind_tls()

    def fetch_authority(self) -> bytes:
        """The certificate that the other side shows as its authority's, in PEM; not to be trusted.

        Raises:
            TransportError: If it cannot be reached.
            InvalidMessage: If it answers something else.
        """
        return self._get("authority", max_bytes=MAX_PEM_BYTES)

    def fetch_genesis(self) -> bytes:
        """The encoded genesis; not verified. Errors as `fetch_authority`."""
        return self._get("genesis", max_bytes=MAX_GENESIS_BYTES)

    def fetch_status(self, device: DeviceId) -> EnrolmentStatus:
        """How far an enrolment is; not verified. Errors as `fetch_authority`."""
        data = self._get(f"devices/{device.hex()}", max_bytes=MAX_STATUS_BYTES)
        return decode_record(EnrolmentStatus, data, max_bytes=MAX_STATUS_BYTES)

    def fetch_epoch(self, epoch: EpochNumber) -> EpochUpdate:
        """What leads to an epoch; not verified. Errors as `fetch_authority`."""
        data = self._get(f"epochs/{epoch}", max_bytes=MAX_EPOCH_UPDATE_BYTES)
        return decode_record(EpochUpdate, data, max_bytes=MAX_EPOCH_UPDATE_BYTES)

    def join(self, request: bytes) -> Credential:
        """Send a signed request to join.

        Raises:
            RegistrarRefusal: With the reason.
            TransportError: If there is no answer; the same request may be sent again.
            InvalidMessage: If the answer is no answer.
        """
        return self._post("devices", request)

    def renew(self, request: bytes) -> Credential:
        """Send a signed request to renew; errors as `join`."""
        return self._post("certificates", request)

    def _get(self, name: str, *, max_bytes: int) -> bytes:
        return self._ask("GET", name, None, max_bytes=max_bytes)

    def _post(self, name: str, body: bytes) -> Credential:
        data = self._ask("POST", name, body, max_bytes=MAX_CREDENTIAL_BYTES)
        return decode_record(Credential, data, max_bytes=MAX_CREDENTIAL_BYTES)

    def _ask(self, method: str, name: str, body: bytes | None, *, max_bytes: int) -> bytes:
        connection = http.client.HTTPSConnection(
            self._host, self._port, timeout=TIMEOUT_S, context=self._tls
        )
        headers = {"Connection": "close"}
        if body is not None:
            headers["Content-Type"] = "application/cbor"
        try:
            connection.request(method, f"{PATH}/{name}", body=body, headers=headers)
            answer = connection.getresponse()
            is_good = answer.status == http.client.OK
            data = answer.read((max_bytes if is_good else MAX_ERROR_BYTES) + 1)
        except (OSError, http.client.HTTPException) as error:
            text = str(error) or type(error).__name__
            raise TransportError(f"{self.url}: {explain_tls(text) or text}") from error
        finally:
            connection.close()
        if not is_good:
            raise _read_refusal(answer.status, data, self.url)
        if len(data) > max_bytes:
            raise BadEncoding(f"{self.url}: an answer of more than {max_bytes} bytes")
        return data


def parse_url(url: str) -> tuple[str, int]:
    """Host and port of `https://host[:port]`.

    Raises:
        ConfigError: If it is something else; plain HTTP is never used.
    """
    fix = f"write it as https://host:{DEFAULT_PORT}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError("URL", f"{url!r}: {error}", fix=fix) from None
    if parts.scheme == "http":
        raise ConfigError("URL", "is plain http, which anybody on the way can change", fix=fix)
    if parts.scheme != "https" or not parts.hostname or port == 0:
        raise ConfigError("URL", f"{url[:200]!r} is no registrar", fix=fix)
    if parts.path.strip("/") or parts.query or parts.username:
        raise ConfigError("URL", f"{url[:200]!r} holds more than an address", fix=fix)
    return parts.hostname, port or DEFAULT_PORT


def make_tls(authority_pem: bytes) -> ssl.SSLContext:
    """TLS that takes only what this authority vouches for.

    Raises:
        BadEncoding: If it is no certificate.
    """
    compute_fingerprint(authority_pem)
    try:
        context = ssl.create_default_context(cadata=authority_pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise BadEncoding(f"no authority's certificate: {error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def load_tls(path: Path) -> ssl.SSLContext:
    """TLS that takes only what the authorities in a file vouch for.

    Raises:
        ConfigError: If the file holds none.
    """
    try:
        context = ssl.create_default_context(cafile=str(path))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError("--ca", f"{path}: {error}", fix="name a PEM file") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _make_blind_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _read_refusal(status: int, data: bytes, url: str) -> InvalidMessage:
    try:
        values = json.loads(data)
        if not isinstance(values, Mapping):
            raise ValueError("no object")
        reason = ReasonCode(values["reason"])
        detail = str(values.get("detail", ""))[:MAX_DETAIL_CHARACTERS]
    except (ValueError, KeyError, RecursionError):
        return BadEncoding(f"{url} answers {status}; is it a registrar?")
    return RegistrarRefusal(reason, detail if detail.isprintable() else repr(detail))
