"""The store of a gateway, within the operator's quota."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from headwater_gateway.web.config import Keep, StorageConfig
from headwater_protocol.identifiers import Digest
from headwater_shard.blobs import BlobStore, Mark

GRACE_MS: Final = 10 * 60_000
"""A blob that was stored is spared so long at least: no ledger may name it yet."""

MARK_MS: Final = 60_000
"""Between two moments that the shelf remembers."""

LOW_WATER_PERCENT: Final = 80
"""Of the quota: where eviction ends, so that it is not due again at once."""


class Shelf:
    """A `BlobStore` that drops what is settled once the quota is reached, if it may."""

    def __init__(
        self, store: BlobStore, config: StorageConfig, *, now_ms: Callable[[], int]
    ) -> None:
        self._store = store
        self._config = config
        self._now_ms = now_ms
        self._marks: deque[tuple[int, Mark]] = deque([(now_ms(), store.mark)])
        self._tidying = threading.Lock()
        self.evicted_bytes = 0
        """Over the life of the process."""

    @property
    def store(self) -> BlobStore:
        """What is behind it."""
        return self._store

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._store

    def get(self, digest: Digest) -> bytes:
        """As `BlobStore.get`."""
        return self._store.get(digest)

    def size_of(self, digest: Digest) -> int | None:
        """As `BlobStore.size_of`."""
        return self._store.size_of(digest)

    def put(self, blob: bytes) -> Digest:
        """As `BlobStore.put`; within the quota or not, since a promise may depend on it."""
        return self._store.put(blob)

    def put_all(self, blobs: Sequence[bytes]) -> tuple[Digest, ...]:
        """As `BlobStore.put_all`."""
        return self._store.put_all(blobs)

    def has_room(self, blob_bytes: int) -> bool:
        """Whether so many bytes more may be stored for others."""
        quota_bytes = self._config.quota_bytes
        return quota_bytes is None or self._store.total_bytes + blob_bytes <= quota_bytes

    def tidy(self, needed: frozenset[Digest]) -> int:
        """Drop what is neither needed nor young, if there is too much; the bytes dropped.

        Raises:
            StorageError: If the disk refuses; nothing is lost then.
        """
        # Two at a time would only do the same twice; what the later one needs is younger than both.
        if not self._tidying.acquire(blocking=False):
            return 0
        try:
            return self._tidy(needed)
        finally:
            self._tidying.release()

    def _tidy(self, needed: frozenset[Digest]) -> int:
        now_ms = self._now_ms()
        if now_ms >= self._marks[-1][0] + MARK_MS:
            self._marks.append((now_ms, self._store.mark))
        old = [mark for at_ms, mark in self._marks if at_ms + GRACE_MS <= now_ms]
        # The last of them stays: it is still right when the quota is reached later.
        for _ in old[:-1]:
            self._marks.popleft()
        if not old:
            return 0
        quota_bytes = self._config.quota_bytes
        if self._config.keep is Keep.ALL or quota_bytes is None:
            return 0
        # With what is being taken in meanwhile, the quota is reached a little before it is full.
        target_bytes = quota_bytes * LOW_WATER_PERCENT // 100
        if self._store.total_bytes <= target_bytes:
            return 0
        freed = self._store.evict(needed.__contains__, before=old[-1], target_bytes=target_bytes)
        self.evicted_bytes += freed
        return freed
