"""Blobs of several gateways, read as one store: none of them has to have all."""

from collections.abc import Iterator, Sequence

from headwater_protocol.identifiers import Digest
from headwater_shard.audit.readers import BlobReader
from headwater_shard.blobs import BlobDamage, MissingBlob


class JoinedBlobs:
    """The stores in their order; the first one that has a blob gives it."""

    def __init__(self, stores: Sequence[BlobReader]) -> None:
        self._stores = tuple(stores)

    def __contains__(self, digest: Digest) -> bool:
        return any(digest in store for store in self._stores)

    def __len__(self) -> int:
        return sum(len(store) for store in self._stores)

    def get(self, digest: Digest) -> bytes:
        """A blob's bytes, whose digest was checked.

        Raises:
            MissingBlob: If no store has it.
            StorageError: If what is there has another digest or cannot be read.
        """
        for store in self._stores:
            if digest in store:
                return store.get(digest)
        raise MissingBlob(f"blob {digest.hex()} is in none of {len(self._stores)} folders")

    def verify(self) -> Iterator[BlobDamage | None]:
        """Check every record of every store; one item a record, None where it holds."""
        for store in self._stores:
            yield from store.verify()
