"""The other gateways as HTTP peers: where each is, how requests are signed, who failed lately."""

import ssl
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import aiohttp

from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.errors import ConfigError, TransportError
from headwater_protocol.identifiers import Digest, Network, TimeMs, ValidatorId
from headwater_protocol.messages.http_request import HttpMethod, HttpRequest, format_authorization

CONNECT_TIMEOUT_S: Final = 3.0
IDLE_TIMEOUT_S: Final = 10.0
"""Without a byte."""
MAX_CONNECTIONS_PER_PEER: Final = 8
PENALTY_MS: Final = 60_000
"""For which a peer that failed is asked last."""


class PeerFailed(TransportError):
    """A peer did not do what was asked; another one may."""


class Peers:
    """Where gateways are, and one pool of connections to all of them."""

    def __init__(
        self,
        *,
        urls: Mapping[ValidatorId, str],
        own: Iterable[ValidatorId],
        network: Network,
        speaker: Callable[[], SecretKey],
        now_ms: Callable[[], int],
        authority: Path | None = None,
    ) -> None:
        """Set up; connections are made when they are needed.

        Args:
            urls: Of the gateways by the delegates that they host.
            own: Delegates hosted here; whatever is said of them is ignored.
            network: Part of what is signed.
            speaker: The key that signs requests, a delegate's in office where there is one.
            now_ms: The clock.
            authority: A PEM file with who signed the peers' certificates; None trusts the system's.

        Raises:
            ConfigError: If the authority cannot be read.
        """
        hosted = set(own)
        self._urls = {peer: url for peer, url in urls.items() if peer not in hosted}
        self._network = network
        self._speaker = speaker
        self._now_ms = now_ms
        self._tls = _load_authority(authority)
        self._session: aiohttp.ClientSession | None = None
        self._failed_ms: dict[str, int] = {}

    @property
    def urls(self) -> Mapping[ValidatorId, str]:
        """By delegate."""
        return self._urls

    @property
    def num_gateways(self) -> int:
        """Distinct ones."""
        return len(set(self._urls.values()))

    def order(self, holders: Iterable[ValidatorId]) -> list[str]:
        """The gateways of `holders` in their order, each once, those that failed lately last."""
        urls = dict.fromkeys(self._urls[holder] for holder in holders if holder in self._urls)
        return sorted(
            urls, key=lambda url: self._failed_ms.get(url, -1) + PENALTY_MS > self._now_ms()
        )

    def blame(self, url: str) -> None:
        """A peer failed."""
        self._failed_ms[url] = self._now_ms()

    def praise(self, url: str) -> None:
        """A peer did what was asked."""
        self._failed_ms.pop(url, None)

    def headers(self, method: HttpMethod, path: str, body: Digest) -> dict[str, str]:
        """The headers of a signed request."""
        request = HttpRequest(method=method, path=path, body=body, time_ms=TimeMs(self._now_ms()))
        return {
            "Authorization": format_authorization(self._speaker(), self._network, request),
            "Accept-Encoding": "identity",
        }

    def session(self) -> aiohttp.ClientSession:
        """The pool; to be used on the event loop."""
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit_per_host=MAX_CONNECTIONS_PER_PEER,
                ssl=True if self._tls is None else self._tls,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=IDLE_TIMEOUT_S
                ),
            )
        return self._session

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


def _load_authority(path: Path | None) -> ssl.SSLContext | None:
    if path is None:
        return None
    try:
        return ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            "web.tls_authority", f"{path}: {error}", fix="name a PEM file with certificates"
        ) from error
