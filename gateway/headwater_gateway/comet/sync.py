"""How a node without blocks finds a snapshot: it asks the gateways of other delegates.

CometBFT wants the addresses of two nodes and the hash of a header that they agree on. Here these
are unix sockets in the node's folder; behind each, calls go to one peer's `/comet/<chain>` over
HTTPS. The hash only picks the chain: what a snapshot brings is checked against our own genesis,
certificate by certificate, before any of it is used.
"""

import asyncio
import json
import logging
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web

from headwater_gateway.comet.routes import MAX_ANSWER_BYTES, MAX_CALL_BYTES, read_answer
from headwater_protocol.errors import ConfigError
from headwater_protocol.identifiers import ChainId
from headwater_shard.engine.cometbft.shell.home import StateSync

logger = logging.getLogger(__name__)

ASK_TIMEOUT_S: Final = 3.0
FORWARD_TIMEOUT_S: Final = 10.0
MAX_ASKED: Final = 16
"""Peers that are asked for a snapshot."""
MIN_SERVERS: Final = 2
"""CometBFT compares the answers of two."""
MAX_SERVERS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncPeers:
    """The gateways to ask."""

    urls: tuple[str, ...]
    authority: Path | None = None
    """Who signed their certificates; None trusts the system's."""

    def make_tls(self) -> ssl.SSLContext:
        """What their certificates are checked with.

        Raises:
            ConfigError: If the authority cannot be read.
        """
        try:
            return ssl.create_default_context(cafile=self.authority)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                "web.tls_authority",
                f"{self.authority}: {error}",
                fix="name a PEM file with certificates",
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSnapshot:
    """A height that some peers have a snapshot of, and its header's hash."""

    height: int
    header_hash: str
    """CometBFT's, in hexadecimal digits."""
    urls: tuple[str, ...]
    """The peers that say so."""


def find_snapshot(peers: SyncPeers, chain: ChainId) -> FoundSnapshot | None:
    """Ask the peers, all at once; None where none has a snapshot or two disagree on its header.

    Raises:
        ConfigError: If the authority cannot be read.
    """
    tls = peers.make_tls()
    urls = tuple(dict.fromkeys(peers.urls))[:MAX_ASKED]
    if not urls:
        return None
    with ThreadPoolExecutor(len(urls)) as pool:
        listed = list(pool.map(lambda url: _list_snapshots(url, chain, tls), urls))
        height = max((entry for heights in listed for entry in heights), default=0)
        if not height:
            return None
        hashes = list(pool.map(lambda url: _header_hash(url, chain, height, tls), urls))
    known = {url: value for url, value in zip(urls, hashes, strict=True) if value is not None}
    if len(set(known.values())) != 1:
        logger.warning("%s: %d headers of block %d", chain, len(set(known.values())), height)
        return None
    (header_hash,) = set(known.values())
    return FoundSnapshot(height=height, header_hash=header_hash, urls=tuple(known)[:MAX_SERVERS])


class SyncLines:
    """The sockets behind which the peers are, served on a thread until they are closed."""

    def __init__(self, peers: SyncPeers, found: FoundSnapshot, chain: ChainId, home: Path) -> None:
        """Listen.

        Args:
            peers: Gives the authority.
            found: Where to send calls.
            chain: Which one is asked for.
            home: The node's folder, where the sockets are.

        Raises:
            ConfigError: If the authority cannot be read, or a socket not be opened.
        """
        urls = found.urls * (1 if len(found.urls) >= MIN_SERVERS else MIN_SERVERS)
        self._sockets = [home / f"sync-{index}.sock" for index in range(len(urls))]
        self._targets = [f"{url}/comet/{chain}" for url in urls]
        self._tls = peers.make_tls()
        self._found = found
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._error: OSError | None = None
        self._is_ready = threading.Event()
        home.mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._run, name=f"sync-{chain}", daemon=True)
        self._thread.start()
        self._is_ready.wait()
        if self._error is not None:
            raise ConfigError(
                str(home), f"cannot listen there: {self._error}", fix="check permissions"
            )

    @property
    def state_sync(self) -> StateSync:
        """For the node's configuration."""
        return StateSync(
            rpc_servers=tuple(f"unix://{path.absolute()}" for path in self._sockets),
            trust_height=self._found.height,
            trust_hash=self._found.header_hash,
        )

    def close(self) -> None:
        """Stop listening."""
        if self._loop is not None and self._stop is not None:
            with suppress(RuntimeError):  # It may have ended.
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except OSError as error:
            self._error = error
        finally:
            self._is_ready.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        runners: list[web.AppRunner] = []
        connector = aiohttp.TCPConnector(ssl=self._tls)
        async with aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=FORWARD_TIMEOUT_S)
        ) as session:
            try:
                for path, target in zip(self._sockets, self._targets, strict=True):
                    path.unlink(missing_ok=True)
                    app = web.Application(client_max_size=MAX_CALL_BYTES)
                    app.router.add_post("/{any:.*}", _Forwarder(session, target).answer)
                    runner = web.AppRunner(app, access_log=None)
                    runners.append(runner)
                    await runner.setup()
                    await web.UnixSite(runner, str(path)).start()
                self._is_ready.set()
                await self._stop.wait()
            finally:
                for runner in runners:
                    await runner.cleanup()


class _Forwarder:
    """Passes calls on to one peer."""

    def __init__(self, session: aiohttp.ClientSession, target: str) -> None:
        self._session = session
        self._target = target

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            async with self._session.post(
                self._target, data=body, allow_redirects=False
            ) as response:
                answer = await read_answer(response)
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return web.Response(status=502, text=f"{self._target}: {error!r}")
        return web.Response(status=status, body=answer, content_type="application/json")


def _list_snapshots(url: str, chain: ChainId, tls: ssl.SSLContext) -> Sequence[int]:
    answer = _ask(f"{url}/comet/{chain}", None, tls)
    heights = answer.get("snapshots")
    if not isinstance(heights, list):
        return ()
    return [height for height in heights if type(height) is int and height > 0]


def _header_hash(url: str, chain: ChainId, height: int, tls: ssl.SSLContext) -> str | None:
    call = {"jsonrpc": "2.0", "id": 1, "method": "commit", "params": {"height": str(height)}}
    answer = _ask(f"{url}/comet/{chain}", call, tls)
    try:
        found = answer["result"]["signed_header"]["commit"]["block_id"]["hash"]
    except (KeyError, TypeError):
        return None
    return found if isinstance(found, str) and found else None


def _ask(url: str, call: dict[str, object] | None, tls: ssl.SSLContext) -> dict[str, Any]:
    """A peer's answer; empty where it gives none."""
    data = None if call is None else json.dumps(call).encode()
    request = urllib.request.Request(  # noqa: S310  # peers are http or https, checked when read
        url, data=data, headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=ASK_TIMEOUT_S, context=tls) as response:  # noqa: S310
            answer = json.loads(response.read(MAX_ANSWER_BYTES))
    except (OSError, ValueError, urllib.error.URLError) as error:
        logger.debug("%s: %s", url, error)
        return {}
    return answer if isinstance(answer, dict) else {}
