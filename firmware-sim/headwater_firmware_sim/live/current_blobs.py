"""The blobs of a gateway that may crash and start again with a store of its own."""

from collections.abc import Callable, Sequence

from headwater_protocol.identifiers import Digest
from headwater_shard.blobs import Blobs


class CurrentBlobs:
    """Hands everything on to the store that is open now."""

    def __init__(self, current: Callable[[], Blobs]) -> None:
        self._current = current

    def put_all(self, blobs: Sequence[bytes]) -> tuple[Digest, ...]:
        """As the store."""
        return self._current().put_all(blobs)

    def put(self, blob: bytes) -> Digest:
        """As the store."""
        return self._current().put(blob)

    def get(self, digest: Digest) -> bytes:
        """As the store."""
        return self._current().get(digest)
