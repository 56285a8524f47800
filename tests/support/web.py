"""Gateways' HTTP in one process, on real sockets: services over memory, and hostile peers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from headwater_gateway.web.access import States
from headwater_gateway.web.blobs import BlobRoutes, WebCounters
from headwater_gateway.web.fetcher import BlobFetcher
from headwater_gateway.web.peers import Peers
from headwater_gateway.web.server import WebServer
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.crypto.signing import DirectVerifier, SecretKey
from headwater_protocol.identifiers import Digest, Network, TimeMs, ValidatorId
from headwater_protocol.messages.http_request import (
    NO_BODY,
    HttpMethod,
    HttpRequest,
    format_authorization,
)
from headwater_shard.blobs import MissingBlob
from tests.support.network import Cast

NOW_MS = 1_700_000_000_000


@dataclass
class MemoryShelf:
    """Blobs in memory, within a quota."""

    blobs: dict[Digest, bytes] = field(default_factory=dict)
    room_bytes: int = 10**9

    def __contains__(self, digest: Digest) -> bool:
        return digest in self.blobs

    def get(self, digest: Digest) -> bytes:
        if digest not in self.blobs:
            raise MissingBlob(digest.hex())
        return self.blobs[digest]

    def size_of(self, digest: Digest) -> int | None:
        return len(self.blobs[digest]) if digest in self.blobs else None

    def has_room(self, blob_bytes: int) -> bool:
        return blob_bytes <= self.room_bytes

    def put_all(self, blobs: Sequence[bytes]) -> tuple[Digest, ...]:
        return tuple(self.put(blob) for blob in blobs)

    def put(self, blob: bytes) -> Digest:
        digest = blob_digest(blob)
        self.blobs[digest] = blob
        return digest


@asynccontextmanager
async def serving(
    network: Network, states: States, shelf: MemoryShelf, *, now_ms: int = NOW_MS
) -> AsyncIterator[str]:
    """A gateway's blobs on a free port; the URL."""
    routes = BlobRoutes(
        network=network,
        shelf=shelf,
        states=lambda: states,
        verifier=DirectVerifier(),
        now_ms=lambda: now_ms,
        counters=WebCounters(),
    )
    server = WebServer(host="127.0.0.1", port=0, routes=[routes.table()])
    url = await server.start()
    try:
        yield url
    finally:
        await server.stop()


def signed(
    key: SecretKey,
    network: Network,
    path: str,
    *,
    method: HttpMethod = HttpMethod.GET,
    body: Digest = NO_BODY,
    time_ms: int = NOW_MS,
) -> dict[str, str]:
    """The header of a signed request."""
    request = HttpRequest(method=method, path=path, body=body, time_ms=TimeMs(time_ms))
    return {"Authorization": format_authorization(key, network, request)}


def path_of(blob: Digest) -> str:
    return f"/blobs/{blob.hex()}"


Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def misbehaving(behaviour: Behaviour) -> AsyncIterator[str]:
    """A peer that answers every request as it likes; the URL."""
    app = web.Application(client_max_size=10**9)
    app.router.add_route("*", "/{rest:.*}", behaviour)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def make_peers(
    cast: Cast, urls: Mapping[ValidatorId, str], key: SecretKey, *, now_ms: int = NOW_MS
) -> Peers:
    return Peers(
        urls=urls,
        own=[key.validator],
        network=cast.network,
        speaker=lambda: key,
        now_ms=lambda: now_ms,
    )


def make_fetcher(
    peers: Peers, shelf: MemoryShelf, *, timeout_s: float = 5.0, max_bytes: int = 10**6
) -> BlobFetcher:
    return BlobFetcher(
        peers, has=shelf.__contains__, put=shelf.put, timeout_s=timeout_s, max_bytes=max_bytes
    )


async def close_all(*things: BlobFetcher | Peers) -> None:
    for thing in things:
        await thing.close()


def run(coroutine: Awaitable[None], *, timeout_s: float = 20.0) -> None:
    """Run a test's coroutine, which must end."""

    async def bounded() -> None:
        async with asyncio.timeout(timeout_s):
            await coroutine

    asyncio.run(bounded())
