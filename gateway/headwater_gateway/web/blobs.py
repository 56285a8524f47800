"""`/blobs/<hex>`: a gateway's blobs for those who may read them, and a place for its peers'.

`GET` and `HEAD` take one byte range, so that a transfer that broke goes on. `PUT` is for delegates
in office, signed over the digest, and what comes is hashed before it is stored. A repeated request
is harmless: a blob is named by its content.

A fleet's payloads are small and many, so `PUT /blobs?body=<hex>` takes a row of them, framed as
`length (4 bytes, big-endian) || bytes`, signed over the digest of the whole, with one sync.
"""

import asyncio
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from aiohttp import hdrs, web

from headwater_gateway.web.access import States, is_member, may_get
from headwater_gateway.web.server import Refused
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.identifiers import AccountId, Digest, Network
from headwater_protocol.messages.chunk import MAX_BLOB_BYTES
from headwater_protocol.messages.http_request import NO_BODY, HttpMethod, verify_authorization
from headwater_protocol.reasons import ReasonCode
from headwater_shard.blobs import MissingBlob

PUT_WINDOW_MS: Final = 60_000
MAX_PUT_BYTES: Final = 1024 * 1024 * 1024
"""That one delegate may store here in `PUT_WINDOW_MS`; one that fills disks is told to wait."""

BODY_TIMEOUT_S: Final = 60.0
"""For the body of a `PUT`."""

MAX_ROW_BYTES: Final = 4 * 1024 * 1024
MAX_ROW_BLOBS: Final = 1_000
"""Of one row of blobs."""

LENGTH_BYTES: Final = 4

SEND_BYTES: Final = 256 * 1024
"""Written to a socket at a time."""

MAX_BUFFERED_BYTES: Final = 4 * MAX_BLOB_BYTES
"""Of bodies that are being received, all together."""

_DIGEST: Final = re.compile("[0-9a-f]{64}")
_RANGE: Final = re.compile(r"bytes=([0-9]{1,12})-([0-9]{1,12})?")


class BlobShelf(Protocol):
    """The store behind the routes, with what the operator lets it take."""

    def get(self, digest: Digest) -> bytes:
        """A blob's bytes; raises `MissingBlob` or `StorageError`."""
        ...

    def size_of(self, digest: Digest) -> int | None:
        """A blob's size in bytes; None if it is not here."""
        ...

    def has_room(self, blob_bytes: int) -> bool:
        """Whether so many bytes more may be stored for others."""
        ...

    def put(self, blob: bytes) -> Digest:
        """Store a blob durably; raises `StorageError`."""
        ...

    def put_all(self, blobs: Sequence[bytes]) -> tuple[Digest, ...]:
        """Store blobs durably, with one sync; raises `StorageError`."""
        ...


@dataclass(slots=True)
class WebCounters:
    """What was served and taken over the life of the process."""

    served: int = 0
    served_bytes: int = 0
    taken: int = 0
    taken_bytes: int = 0
    refused: int = 0


class BlobRoutes:
    """The routes for blobs."""

    def __init__(
        self,
        *,
        network: Network,
        shelf: BlobShelf,
        states: Callable[[], States],
        verifier: Verifier,
        now_ms: Callable[[], int],
        counters: WebCounters,
    ) -> None:
        """Set up.

        Args:
            network: That signatures have to be for.
            shelf: Read and written on threads.
            states: The last finalized states.
            verifier: Checks signatures.
            now_ms: The clock.
            counters: Counted into.
        """
        self._network = network
        self._shelf = shelf
        self._states = states
        self._verifier = verifier
        self._now_ms = now_ms
        self._counters = counters
        self._put_bytes: dict[AccountId, int] = {}
        self._window_ms = 0
        self._buffered_bytes = 0

    def table(self) -> list[web.RouteDef]:
        """For `WebServer`."""
        path = "/blobs/{digest:[0-9a-f]{64}}"
        return [
            web.get(path, self._get, allow_head=False),
            web.head(path, self._get),
            web.put(path, self._put),
            web.put("/blobs", self._put_row),
        ]

    async def _get(self, request: web.Request) -> web.StreamResponse:
        digest = _digest_of(request)
        account = self._who(request, NO_BODY)
        if not may_get(self._states(), account, digest):
            self._counters.refused += 1
            raise Refused(ReasonCode.NOT_PERMITTED, f"{account.hex()[:16]} may not read this blob")
        size = self._shelf.size_of(digest)
        if size is None:
            raise Refused(ReasonCode.UNAVAILABLE, f"no blob {digest.hex()}")
        start, end = _parse_range(request.headers.get(hdrs.RANGE), size)
        response = web.StreamResponse(status=206 if end - start < size else 200)
        response.content_type = "application/octet-stream"
        response.content_length = end - start
        response.headers[hdrs.ACCEPT_RANGES] = "bytes"
        response.headers[hdrs.ETAG] = f'"{digest.hex()}"'
        response.headers[hdrs.CACHE_CONTROL] = "private, immutable"
        if response.status == 206:
            response.headers[hdrs.CONTENT_RANGE] = f"bytes {start}-{end - 1}/{size}"
        if request.method == hdrs.METH_HEAD:
            return response
        try:
            data = memoryview(await asyncio.to_thread(self._shelf.get, digest))
        except MissingBlob as error:
            raise Refused(ReasonCode.UNAVAILABLE, f"no blob {digest.hex()}") from error
        await response.prepare(request)
        for offset in range(start, end, SEND_BYTES):
            await response.write(data[offset : min(end, offset + SEND_BYTES)])
        await response.write_eof()
        self._counters.served += 1
        self._counters.served_bytes += end - start
        return response

    async def _put(self, request: web.Request) -> web.StreamResponse:
        digest = _digest_of(request)
        account = self._who(request, digest)
        if not is_member(self._states(), account):
            self._counters.refused += 1
            raise Refused(ReasonCode.NOT_PERMITTED, f"{account.hex()[:16]} is no delegate")
        size = request.content_length
        if size is None:
            raise Refused(ReasonCode.BAD_ENCODING, "Content-Length is missing")
        if not 0 < size <= MAX_BLOB_BYTES:
            raise Refused(ReasonCode.TOO_LARGE, f"a blob has 1 to {MAX_BLOB_BYTES} bytes")
        if self._shelf.size_of(digest) is not None:
            # A blob that is here already may be about to be needed again: storing it says so.
            data = await asyncio.to_thread(self._shelf.get, digest)
            await asyncio.to_thread(self._shelf.put, data)
            return web.Response(status=204)
        self._require_room(account, size)
        data = await self._receive(request, size)
        if blob_digest(data) != digest:
            self._counters.refused += 1
            raise Refused(ReasonCode.WRONG_DIGEST, "the body has another SHA-256")
        await asyncio.to_thread(self._shelf.put, data)
        self._counters.taken += 1
        self._counters.taken_bytes += size
        return web.Response(status=201)

    async def _put_row(self, request: web.Request) -> web.StreamResponse:
        name = request.query.get("body", "")
        if _DIGEST.fullmatch(name) is None:
            raise Refused(ReasonCode.BAD_ENCODING, "name the body's digest, as /blobs?body=<hex>")
        digest = Digest(bytes.fromhex(name))
        account = self._who(request, digest)
        if not is_member(self._states(), account):
            self._counters.refused += 1
            raise Refused(ReasonCode.NOT_PERMITTED, f"{account.hex()[:16]} is no delegate")
        size = request.content_length
        if size is None or not 0 < size <= MAX_ROW_BYTES:
            raise Refused(ReasonCode.TOO_LARGE, f"a row of blobs has 1 to {MAX_ROW_BYTES} bytes")
        self._require_room(account, size)
        data = await self._receive(request, size)
        if blob_digest(data) != digest:
            self._counters.refused += 1
            raise Refused(ReasonCode.WRONG_DIGEST, "the body has another SHA-256")
        blobs = split_row(data)
        await asyncio.to_thread(self._shelf.put_all, blobs)
        self._counters.taken += len(blobs)
        self._counters.taken_bytes += sum(map(len, blobs))
        return web.Response(status=201)

    def _who(self, request: web.Request, body: Digest) -> AccountId:
        header = request.headers.get(hdrs.AUTHORIZATION)
        if header is None:
            raise Refused(ReasonCode.BAD_SIGNATURE, "blobs are for members; sign the request")
        return verify_authorization(
            header,
            network=self._network,
            method=HttpMethod(request.method),
            path=request.raw_path,
            body=body,
            now_ms=self._now_ms(),
            verifier=self._verifier,
        )

    def _require_room(self, account: AccountId, size: int) -> None:
        now_ms = self._now_ms()
        if now_ms >= self._window_ms + PUT_WINDOW_MS:
            self._window_ms = now_ms
            self._put_bytes.clear()
        taken = self._put_bytes.get(account, 0)
        if taken + size > MAX_PUT_BYTES:
            raise Refused(ReasonCode.BUSY, f"{taken} bytes in a minute; wait")
        if not self._shelf.has_room(size):
            raise Refused(ReasonCode.BUSY, "the quota for blobs is used up")
        if self._buffered_bytes + size > MAX_BUFFERED_BYTES:
            raise Refused(ReasonCode.BUSY, "too many transfers are under way")
        # Delegates in office only, so the map is as small as the committees.
        self._put_bytes[account] = taken + size

    async def _receive(self, request: web.Request, size: int) -> bytes:
        """The body, of exactly the announced size."""
        self._buffered_bytes += size
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                data = bytearray()
                async for piece in request.content.iter_any():
                    data += piece
                    if len(data) > size:
                        break
        finally:
            self._buffered_bytes -= size
        if len(data) != size:
            raise Refused(ReasonCode.BAD_ENCODING, f"{len(data)} bytes came, {size} announced")
        return bytes(data)


def join_row(blobs: Iterable[bytes]) -> bytes:
    """The body of `PUT /blobs`."""
    return b"".join(len(blob).to_bytes(LENGTH_BYTES, "big") + blob for blob in blobs)


def split_row(data: bytes) -> list[bytes]:
    """The blobs of a body.

    Raises:
        Refused: If it is no such row, a blob is empty, or there are too many.
    """
    blobs: list[bytes] = []
    position = 0
    while position < len(data):
        start = position + LENGTH_BYTES
        position = start + int.from_bytes(data[position:start], "big")
        if not start < position <= len(data) or len(blobs) == MAX_ROW_BLOBS:
            raise Refused(
                ReasonCode.BAD_ENCODING, f"a row of 1 to {MAX_ROW_BLOBS} blobs, none of them empty"
            )
        blobs.append(data[start:position])
    return blobs


def _digest_of(request: web.Request) -> Digest:
    # The route takes 64 hexadecimal digits and nothing else.
    return Digest(bytes.fromhex(request.match_info["digest"]))


def _parse_range(header: str | None, size: int) -> tuple[int, int]:
    """The first byte and the one after the last of what is asked for.

    Raises:
        Refused: If there is nothing there, or more than one range is asked for.
    """
    if header is None:
        return 0, size
    match = _RANGE.fullmatch(header)
    if match is None:
        raise Refused(ReasonCode.BAD_ENCODING, "one range, as bytes=first-last")
    start = int(match[1])
    end = size if match[2] is None else min(size, int(match[2]) + 1)
    if not start < end:
        raise Refused(ReasonCode.OUT_OF_BOUNDS, f"the blob has {size} bytes")
    return start, end
