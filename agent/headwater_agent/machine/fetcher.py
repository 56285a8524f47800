"""The blobs that a round needs: asked for by digest, taken in pieces, checked, kept one round.

Which pieces a broker still retains is unknown, so a blob that stalls is asked for again as a whole;
the pieces that came before are kept and only the missing ones matter.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from headwater_agent.errors import WrongDigest
from headwater_agent.machine.backoff import Jitter, compute_wait_ms
from headwater_agent.machine.limits import DeviceLimits
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.errors import OutOfBounds
from headwater_protocol.identifiers import Digest
from headwater_protocol.messages.chunk import BlobAssembly, Chunk, count_chunks


@dataclass(slots=True)
class _Fetch:
    assembly: BlobAssembly
    attempt: int = 0
    retry_ms: int = 0
    seen: set[int] = field(default_factory=set)
    """Indices that came, so that only a new piece counts as progress; at most one a chunk."""


class BlobFetcher:
    """Holds the blobs of the current round, at most as many as were asked for at once.

    Args:
        limits: Waits between requests.
        jitter: Spreads them.
        kept: Blobs from before a restart.
    """

    __slots__ = (
        "_blobs",
        "_fetches",
        "_jitter",
        "_limits",
    )

    def __init__(self, *, limits: DeviceLimits, jitter: Jitter, kept: tuple[bytes, ...]) -> None:
        self._limits = limits
        self._jitter = jitter
        self._blobs = {blob_digest(data): data for data in kept}
        self._fetches: dict[Digest, _Fetch] = {}

    @property
    def missing(self) -> tuple[Digest, ...]:
        """Digests asked for and not here, sorted."""
        return tuple(sorted(self._fetches))

    def get(self, digest: Digest) -> bytes:
        """The blob, which was asked for and is complete."""
        return self._blobs[digest]

    def want(self, wanted: Mapping[Digest, int], now_ms: int) -> None:
        """Ask for these digests, each with its largest size in bytes, and forget all others."""
        self._blobs = {digest: data for digest, data in self._blobs.items() if digest in wanted}
        self._fetches = {
            digest: self._fetches.get(digest)
            or _Fetch(
                assembly=BlobAssembly(digest, max_bytes=max_bytes),
                retry_ms=now_ms + self._wait_ms(0),
            )
            for digest, max_bytes in sorted(wanted.items())
            if digest not in self._blobs
        }

    def stop(self) -> tuple[Digest, ...]:
        """Give up what is missing and return its digests; what is here stays."""
        missing = self.missing
        self._fetches.clear()
        return missing

    def add(self, chunk: Chunk, now_ms: int) -> bool:
        """Take a piece; True once its blob is complete.

        Raises:
            OutOfBounds: If nobody asked for the blob.
            TooLarge: If it claims to be larger than its limit.
            WrongDigest: If the pieces are complete and are another blob.
        """
        if chunk.blob in self._blobs:
            return False
        fetch = self._fetches.get(chunk.blob)
        if fetch is None:
            raise OutOfBounds("a piece of a blob that was not asked for")
        data = fetch.assembly.add(chunk)
        if data is not None:
            self._blobs[chunk.blob] = data
            # A map that was emptied stays as large as it was, until the next round.
            self._fetches = {
                digest: other for digest, other in self._fetches.items() if digest != chunk.blob
            }
            return True
        if len(fetch.assembly.missing) == count_chunks(chunk.blob_bytes):
            # The assembly dropped all its pieces; the timer asks for them again.
            fetch.seen.clear()
            raise WrongDigest("a complete blob has another digest than was asked for")
        if chunk.index not in fetch.seen:
            fetch.seen.add(chunk.index)
            fetch.retry_ms = now_ms + self._wait_ms(fetch.attempt)
        return False

    def next_timer(self) -> int | None:
        """When the next blob is to be asked for again."""
        if not self._fetches:
            return None
        return min(fetch.retry_ms for fetch in self._fetches.values())

    def take_due(self, now_ms: int) -> tuple[Digest, ...]:
        """Digests to be asked for again now, sorted; their next request is planned."""
        due = tuple(
            digest for digest, fetch in sorted(self._fetches.items()) if fetch.retry_ms <= now_ms
        )
        for digest in due:
            fetch = self._fetches[digest]
            fetch.attempt += 1
            fetch.retry_ms = now_ms + self._wait_ms(fetch.attempt)
        return due

    def resume(self, now_ms: int) -> None:
        """After a reconnect everything was asked for again; the waits start anew."""
        for _, fetch in sorted(self._fetches.items()):
            fetch.attempt = 0
            fetch.retry_ms = now_ms + self._wait_ms(0)

    def shift(self, shift_ms: int) -> None:
        """The clock jumped: waits last as long as they would have."""
        for _, fetch in sorted(self._fetches.items()):
            fetch.retry_ms += shift_ms

    def _wait_ms(self, attempt: int) -> int:
        return compute_wait_ms(
            attempt=attempt,
            first_ms=self._limits.first_refetch_ms,
            max_ms=self._limits.max_refetch_ms,
            jitter=self._jitter,
        )
