"""What an audit reads: ledgers and blobs, on disk or in memory."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from headwater_protocol.chain.genesis import Genesis, encode_genesis, genesis_network
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.errors import StorageError
from headwater_protocol.identifiers import ChainId, Digest, Height, Network
from headwater_shard.application import tables_of
from headwater_shard.audit.failure import Mismatch
from headwater_shard.blobs import BlobDamage, MissingBlob
from headwater_shard.engine.bft.history import FinalizedBlock
from headwater_shard.state.state import State


class LedgerReader(Protocol):
    """A stored chain; `LedgerStore` is one.

    Any call may raise `StorageError` on damaged input. Blocks come out of their canonical bytes:
    whoever decodes them refuses bytes that do not encode to themselves.
    """

    @property
    def network(self) -> Network:
        """Which network the store says it belongs to."""
        ...

    @property
    def chain(self) -> ChainId:
        """Which chain the store says it holds."""
        ...

    @property
    def height(self) -> Height:
        """The last block stored; 0 before the first."""
        ...

    def load_genesis(self) -> bytes:
        """The encoded genesis."""
        ...

    def iter_blocks(self, from_height: Height) -> Iterator[FinalizedBlock]:
        """The blocks from `from_height` on, in order."""
        ...

    def load_entries(self) -> Iterator[tuple[str, bytes, bytes]]:
        """The current state: namespace, key, value."""
        ...


class BlobReader(Protocol):
    """A store of blobs; `BlobStore` is one."""

    def __contains__(self, digest: Digest) -> bool:
        """Whether the blob is there."""
        ...

    def __len__(self) -> int:
        """How many are there."""
        ...

    def get(self, digest: Digest) -> bytes:
        """A blob's bytes, whose digest is checked."""
        ...

    def verify(self) -> Iterator[BlobDamage | None]:
        """Check every record's framing and bytes; one item a record, None where it holds."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLedger:
    """A ledger that was never written, for a simulation."""

    genesis: Genesis
    chain: ChainId
    blocks: Sequence[FinalizedBlock]
    """From height 1."""
    state: State
    """After the last block."""

    @property
    def network(self) -> Network:
        """The digest of the genesis."""
        return genesis_network(self.genesis)

    @property
    def height(self) -> Height:
        """The last block; 0 before the first."""
        return Height(len(self.blocks))

    def load_genesis(self) -> bytes:
        """The encoded genesis."""
        return encode_genesis(self.genesis)

    def iter_blocks(self, from_height: Height) -> Iterator[FinalizedBlock]:
        """The blocks from `from_height` on, in order."""
        return iter(self.blocks[max(0, from_height - 1) :])

    def load_entries(self) -> Iterator[tuple[str, bytes, bytes]]:
        """The current state: namespace, key, value."""
        return iter_entries(self.chain, self.state)


class MemoryBlobs:
    """Blobs that were never written, by their digests."""

    __slots__ = ("_blobs",)

    def __init__(self, blobs: Mapping[Digest, bytes]) -> None:
        self._blobs = blobs

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._blobs

    def __len__(self) -> int:
        return len(self._blobs)

    def get(self, digest: Digest) -> bytes:
        """A blob's bytes, whose digest is checked.

        Raises:
            MissingBlob: If it is not here.
            StorageError: If it has another digest.
        """
        blob = self._blobs.get(digest)
        if blob is None:
            raise MissingBlob(f"no blob {digest.hex()}")
        if blob_digest(blob) != digest:
            raise StorageError(f"the bytes are not blob {digest.hex()}")
        return blob

    def verify(self) -> Iterator[BlobDamage | None]:
        """Check every blob's bytes."""
        for offset, digest in enumerate(sorted(self._blobs)):
            is_same = blob_digest(self._blobs[digest]) == digest
            yield (
                None
                if is_same
                else BlobDamage(segment="memory", offset=offset, problem=f"not {digest.hex()}")
            )


def iter_entries(chain: ChainId, state: State) -> Iterator[tuple[str, bytes, bytes]]:
    """All entries of a ledger's state, in order of namespaces and keys."""
    for table in tables_of(chain):
        for key, record in state.sorted_items(table):
            yield table.namespace, key, encode_record(record)


def require_same_entries(
    chain: ChainId, state: State, stored: Iterable[tuple[str, bytes, bytes]]
) -> int:
    """Check that a store's current entries are those of the replayed state.

    Returns:
        How many there are.

    Raises:
        Mismatch: The first entry that differs, is missing or is one too many.
    """
    count = 0
    expected = iter_entries(chain, state)
    for namespace, key, value in stored:
        wanted = next(expected, None)
        if wanted is None or (namespace, key) < wanted[:2]:
            raise Mismatch(
                "the stored state has it, the replayed state does not", item=_name(namespace, key)
            )
        if (namespace, key) != wanted[:2]:
            raise Mismatch(
                "the stored state lacks it, the replayed state has it", item=_name(*wanted[:2])
            )
        if value != wanted[2]:
            raise Mismatch(
                "the stored entry is not that of the replayed state", item=_name(namespace, key)
            )
        count += 1
    left = next(expected, None)
    if left is not None:
        raise Mismatch(
            "the stored state lacks it, the replayed state has it", item=_name(*left[:2])
        )
    return count


def _name(namespace: str, key: bytes) -> str:
    return f"entry {namespace}/{key.hex()}"
