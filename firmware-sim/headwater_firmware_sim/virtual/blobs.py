"""Blobs in memory, for runs that keep nothing."""

from collections.abc import Sequence

from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.identifiers import Digest
from headwater_shard.blobs import MissingBlob


class MemoryBlobStore:
    """All gateways share one, as if each had fetched what it lacks from the others."""

    def __init__(self) -> None:
        self._blobs: dict[Digest, bytes] = {}

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._blobs

    def digests(self) -> tuple[Digest, ...]:
        """The blobs' names, in order of writing."""
        return tuple(self._blobs)

    def close(self) -> None:
        """Nothing is open."""

    def put_all(self, blobs: Sequence[bytes]) -> tuple[Digest, ...]:
        """Store blobs; their names, in the same order."""
        return tuple(self.put(blob) for blob in blobs)

    def put(self, blob: bytes) -> Digest:
        """Store one blob."""
        digest = blob_digest(blob)
        self._blobs[digest] = blob
        return digest

    def get(self, digest: Digest) -> bytes:
        """A blob's bytes.

        Raises:
            MissingBlob: If it is not here.
        """
        blob = self._blobs.get(digest)
        if blob is None:
            raise MissingBlob(f"no blob {digest.hex()}")
        return blob

    def drop(self, digest: Digest) -> None:
        """Forget a blob that nothing will ask for again."""
        self._blobs.pop(digest, None)
