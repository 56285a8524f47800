"""Storing payloads with other gateways before a device is promised anything.

A receipt says that no crash loses the update, so its payload has to be on more than one disk. It
goes to the first holders that the placement names; one that does not take it is replaced by the
next. With copies on two gateways the promise stands; with fewer the device is told to send again.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp

from headwater_gateway.web.blobs import (
    LENGTH_BYTES,
    MAX_ROW_BLOBS,
    MAX_ROW_BYTES,
    join_row,
)
from headwater_gateway.web.peers import Peers
from headwater_protocol.chain.committee import Committee
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.identifiers import Digest, ValidatorId
from headwater_protocol.messages.http_request import HttpMethod
from headwater_shard.placement import COPIES, rank_holders

logger = logging.getLogger(__name__)

MAX_PARALLEL_PUTS: Final = 16
PUT_TIMEOUT_S: Final = 5.0
"""For one row of blobs to one holder."""
MAX_TARGETS: Final = 6
"""Gateways that are asked to take one blob; the others would fail alike."""
PROMISED_COPIES: Final = 2
"""Gateways, this one included, that have a payload before its update goes on the ledger; where the
committee is on one gateway only, that one."""


@dataclass(slots=True)
class ReplicationCounters:
    """Over the life of the process."""

    stored: int = 0
    refused: int = 0
    """Copies that a gateway did not take."""
    short: int = 0
    """Blobs with fewer copies than were wanted."""
    lonely: int = 0
    """Blobs that nobody else took; their senders were told to send again."""


@dataclass(slots=True)
class _Plan:
    """Where one blob is to go."""

    targets: Sequence[str]
    wanted: int
    """Gateways that should have it, this one included."""
    copies: int = 1
    asked: int = 0
    """Of the targets."""


class Replicator:
    """Gives what was taken in to those who keep it."""

    def __init__(
        self,
        peers: Peers,
        *,
        own: frozenset[ValidatorId],
        get: Callable[[Digest], bytes],
        timeout_s: float = PUT_TIMEOUT_S,
    ) -> None:
        """Set up.

        Args:
            peers: Where the others are.
            own: Delegates hosted here, whose copy is there already.
            get: Reads a blob from the store; called on a thread.
            timeout_s: For one row of blobs to one holder.
        """
        self._peers = peers
        self._own = own
        self._get = get
        self._timeout_s = timeout_s
        self._room = asyncio.Semaphore(MAX_PARALLEL_PUTS)
        self.counters = ReplicationCounters()

    async def replicate(
        self, blobs: Sequence[Digest], committee: Committee
    ) -> Mapping[Digest, bool]:
        """Store blobs with their holders; for each whether there are enough copies to promise it.

        Raises:
            StorageError: If a blob cannot be read here.
        """
        others = {delegate.validator for delegate in committee.delegates} - self._own
        if not any(other in self._peers.urls for other in others):
            # Either all delegates are here, or this gateway was told of nobody else.
            return dict.fromkeys(blobs, True)
        plans = {blob: self._plan(blob, committee) for blob in dict.fromkeys(blobs)}
        while by_url := _next_targets(plans):
            stored = await asyncio.gather(*(self._send(url, row) for url, row in by_url.items()))
            for row in stored:
                for blob in row:
                    plans[blob].copies += 1
        kept = {blob: plan.copies >= PROMISED_COPIES for blob, plan in plans.items()}
        num_lonely = sum(not is_kept for is_kept in kept.values())
        self.counters.lonely += num_lonely
        self.counters.short += sum(plan.copies < plan.wanted for plan in plans.values())
        if num_lonely:
            logger.warning(
                "event=payloads_lonely count=%d detail=no other gateway took them", num_lonely
            )
        return kept

    def _plan(self, blob: Digest, committee: Committee) -> _Plan:
        ranked = rank_holders(blob, committee)
        first = ranked[:COPIES]
        gateways = {self._peers.urls.get(holder) for holder in first if holder not in self._own}
        known = self._peers.order(ranked)
        # A committee may be on fewer gateways than there are to be copies.
        wanted = max(1 + len(gateways - {None}), min(PROMISED_COPIES, 1 + len(known)))
        return _Plan(targets=known[:MAX_TARGETS], wanted=wanted)

    async def _send(self, url: str, blobs: Sequence[Digest]) -> list[Digest]:
        """Those of `blobs` that a gateway has now; once it fails, it is not sent the rest."""
        stored: list[Digest] = []
        rows = await asyncio.to_thread(self._make_rows, blobs)
        for names, row in rows:
            if len(row) == 1:
                body, digest, path = row[0], names[0], f"/blobs/{names[0].hex()}"
            else:
                body = join_row(row)
                digest = blob_digest(body)
                path = f"/blobs?body={digest.hex()}"
            if not await self._put(url, path, body, digest):
                self.counters.refused += len(blobs) - len(stored)
                break
            stored += names
            self.counters.stored += len(names)
        return stored

    def _make_rows(self, blobs: Sequence[Digest]) -> list[tuple[list[Digest], list[bytes]]]:
        """The blobs with their bytes, in rows that a gateway takes at a time."""
        rows: list[tuple[list[Digest], list[bytes]]] = []
        row_bytes = 0
        for blob in blobs:
            data = self._get(blob)
            row_bytes += LENGTH_BYTES + len(data)
            if not rows or row_bytes > MAX_ROW_BYTES or len(rows[-1][0]) == MAX_ROW_BLOBS:
                rows.append(([], []))
                row_bytes = LENGTH_BYTES + len(data)
            rows[-1][0].append(blob)
            rows[-1][1].append(data)
        return rows

    async def _put(self, url: str, path: str, body: bytes, digest: Digest) -> bool:
        async with self._room:
            try:
                async with (
                    asyncio.timeout(self._timeout_s),
                    self._peers.session().put(
                        url + path,
                        data=body,
                        headers=self._peers.headers(HttpMethod.PUT, path, digest),
                        allow_redirects=False,
                    ) as response,
                ):
                    is_stored = response.status in {201, 204}
                    detail = f"answered {response.status}"
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                is_stored, detail = False, f"{type(error).__name__}: {error}"
        if is_stored:
            self._peers.praise(url)
        else:
            self._peers.blame(url)
            logger.info("event=put_refused peer=%s detail=%s", url, detail)
        return is_stored


def _next_targets(plans: Mapping[Digest, _Plan]) -> dict[str, list[Digest]]:
    """Whom to give which blobs now; nobody where all are placed or nobody is left."""
    by_url: dict[str, list[Digest]] = {}
    for blob, plan in plans.items():
        lacking = max(0, plan.wanted - plan.copies)
        for url in plan.targets[plan.asked : plan.asked + lacking]:
            by_url.setdefault(url, []).append(blob)
        plan.asked += lacking
    return by_url
