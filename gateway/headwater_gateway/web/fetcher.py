"""Fetching blobs from the gateways that hold them.

A peer is trusted with nothing: not with a size, not with its pace, not with an address to go to
instead, and not with the bytes, which are hashed as they come. Whoever fails is asked last for a
while. A transfer that breaks goes on where it broke, with the next holder if need be; where the
digest of such a patchwork is wrong, each holder is asked for the whole.
"""

import asyncio
import hashlib
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import aiohttp

from headwater_gateway.web.peers import PeerFailed, Peers
from headwater_protocol.identifiers import Digest, ValidatorId
from headwater_protocol.messages.chunk import MAX_BLOB_BYTES
from headwater_protocol.messages.http_request import NO_BODY, HttpMethod

logger = logging.getLogger(__name__)

MAX_PARALLEL_FETCHES: Final = 8
"""So that liars hold at most as many times `MAX_BLOB_BYTES` of memory."""
FETCH_TIMEOUT_S: Final = 15.0
"""For a blob from one holder, and a second more for each `SLOWEST_BYTES` of it."""
SLOWEST_BYTES: Final = 256 * 1024
"""A second at least; a peer that drips is left."""
FIRST_PAUSE_S: Final = 0.05
LAST_PAUSE_S: Final = 1.0
"""Before the next holder is asked, the first and the longest pause; jittered."""
MAX_RESUMES: Final = 3
"""Times that one holder may go on where it broke."""


@dataclass(slots=True)
class FetchCounters:
    """Over the life of the process."""

    fetched: int = 0
    fetched_bytes: int = 0
    failed: int = 0
    """Fetches for which no holder served the blob."""
    bad_peers: int = 0
    """Answers that were no such blob."""


@dataclass(slots=True)
class _Partial:
    """What came of a blob so far."""

    data: bytearray = field(default_factory=bytearray)
    sources: set[str] = field(default_factory=set)


class BlobFetcher:
    """Gets blobs into the store, each once at a time."""

    def __init__(
        self,
        peers: Peers,
        *,
        has: Callable[[Digest], bool],
        put: Callable[[bytes], Digest],
        timeout_s: float = FETCH_TIMEOUT_S,
        max_bytes: int = MAX_BLOB_BYTES,
        rng: random.Random | None = None,
    ) -> None:
        """Set up.

        Args:
            peers: Whom to ask.
            has: Whether the store has a blob.
            put: Stores one durably; called on a thread.
            timeout_s: For a small blob from one holder.
            max_bytes: Of a blob; a longer body is cut off.
            rng: Spreads the pauses; None takes one of its own.
        """
        self._peers = peers
        self._has = has
        self._put = put
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes
        self._rng = rng or random.Random()  # noqa: S311  # nothing secret
        self._room = asyncio.Semaphore(MAX_PARALLEL_FETCHES)
        self._under_way: dict[Digest, asyncio.Task[bool]] = {}
        self.counters = FetchCounters()

    async def fetch(self, blob: Digest, holders: Sequence[ValidatorId]) -> bool:
        """Have `blob` in the store; whether it is there now.

        Whoever asks for a blob that is being fetched waits for that fetch.

        Raises:
            StorageError: If the disk refuses.
        """
        if self._has(blob):
            return True
        task = self._under_way.get(blob)
        if task is None:
            task = asyncio.create_task(self._fetch(blob, holders), name=f"fetch {blob.hex()[:16]}")
            self._under_way[blob] = task
            task.add_done_callback(lambda _: self._under_way.pop(blob, None))
        # One that waits and is cancelled must not end the fetch of the others.
        return await asyncio.shield(task)

    async def close(self) -> None:
        """End what is under way."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _fetch(self, blob: Digest, holders: Sequence[ValidatorId]) -> bool:
        async with self._room:
            data = await self._ask_all(blob, self._peers.order(holders))
        if data is None:
            self.counters.failed += 1
            return False
        await asyncio.to_thread(self._put, data)
        self.counters.fetched += 1
        self.counters.fetched_bytes += len(data)
        return True

    async def _ask_all(self, blob: Digest, urls: Sequence[str]) -> bytes | None:
        partial = _Partial()
        pause_s = FIRST_PAUSE_S
        waiting = list(urls)
        is_patchwork_refused = False
        while waiting:
            url = waiting.pop(0)
            if is_patchwork_refused:
                partial = _Partial()
            try:
                data = await self._ask(blob, url, partial)
            except PeerFailed as error:
                self._peers.blame(url)
                logger.info("event=fetch_refused blob=%s peer=%s detail=%s", blob.hex(), url, error)
                await asyncio.sleep(pause_s * self._rng.uniform(0.5, 1.0))
                pause_s = min(LAST_PAUSE_S, pause_s * 2)
                continue
            if hashlib.sha256(data).digest() == blob:
                self._peers.praise(url)
                return data
            self.counters.bad_peers += 1
            sources, partial = partial.sources, _Partial()
            if len(sources) == 1:
                self._peers.blame(url)
                logger.warning("event=wrong_blob blob=%s peer=%s", blob.hex(), url)
            elif not is_patchwork_refused:
                # One of them lied, and nobody knows which: ask each of them for the whole.
                is_patchwork_refused = True
                waiting = [*(one for one in urls if one in sources), *waiting]
        return None

    async def _ask(self, blob: Digest, url: str, partial: _Partial) -> bytes:
        """The bytes that `partial` has with what this holder adds; their digest is not checked.

        Raises:
            PeerFailed: If it does not serve the blob to its end.
        """
        for _ in range(1 + MAX_RESUMES):
            before = len(partial.data)
            try:
                await self._transfer(blob, url, partial)
            except (aiohttp.ClientPayloadError, ConnectionError) as error:
                if len(partial.data) == before:
                    raise PeerFailed(f"broke off: {error!r}") from error
                continue
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise PeerFailed(f"{type(error).__name__}: {error}") from error
            return bytes(partial.data)
        raise PeerFailed(f"broke off {1 + MAX_RESUMES} times")

    async def _transfer(self, blob: Digest, url: str, partial: _Partial) -> None:
        path = f"/blobs/{blob.hex()}"
        headers = self._peers.headers(HttpMethod.GET, path, NO_BODY)
        if partial.data:
            headers["Range"] = f"bytes={len(partial.data)}-"
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_s
        async with asyncio.timeout_at(deadline) as limit:
            async with self._peers.session().get(
                url + path, headers=headers, allow_redirects=False
            ) as response:
                if response.status == 200:
                    partial.data.clear()
                    partial.sources.clear()
                elif response.status != 206 or not partial.data:
                    raise PeerFailed(f"answered {response.status}")
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    raise PeerFailed("answered with an encoded body")
                announced = response.content_length
                if announced is None:
                    raise PeerFailed("announced no size")
                if len(partial.data) + announced > self._max_bytes:
                    raise PeerFailed(f"announced {announced} bytes, the limit is {self._max_bytes}")
                limit.reschedule(deadline + announced / SLOWEST_BYTES)
                async for piece in response.content.iter_any():
                    partial.data += piece
                    partial.sources.add(url)
                    if len(partial.data) > self._max_bytes:
                        partial.data.clear()
                        raise PeerFailed(f"sent more than {self._max_bytes} bytes")
