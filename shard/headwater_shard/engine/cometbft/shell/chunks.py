"""Snapshots in a folder: those to give away, and the one that comes in."""

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from headwater_protocol.chain.block import Block, Certificate
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.errors import InvalidMessage, StorageError
from headwater_protocol.identifiers import ChainId, Digest, Network
from headwater_shard.engine.cometbft.snapshots import (
    MAX_CHUNKS,
    MAX_KEPT_SNAPSHOTS,
    Manifest,
    decode_manifest,
    iter_chunks,
)
from headwater_shard.state.state import State

_MANIFEST: Final = "manifest.cbor"
_INCOMING: Final = "incoming"
_DRAFT: Final = "draft"


class ChunkFolder:
    """A folder with one sub-folder for each snapshot, named by its height."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def build(
        self,
        *,
        network: Network,
        chain: ChainId,
        state: State,
        blocks: Iterable[Block],
        height: int,
        certificate: Certificate,
    ) -> Manifest:
        """Write a snapshot; those past `MAX_KEPT_SNAPSHOTS` are removed, the oldest first.

        Raises:
            StorageError: If it cannot be written, or is larger than a snapshot may be.
        """
        draft = self._path / _DRAFT
        digests: list[Digest] = []
        try:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            for index, chunk in enumerate(iter_chunks(state, blocks)):
                if index == MAX_CHUNKS:
                    raise StorageError(f"{self._path}: a snapshot has at most {MAX_CHUNKS} chunks")
                (draft / str(index)).write_bytes(chunk)
                digests.append(Digest(hashlib.sha256(chunk).digest()))
            manifest = Manifest(
                network=network,
                chain=chain,
                height=height,
                certificate=certificate,
                chunks=tuple(digests),
            )
            (draft / _MANIFEST).write_bytes(encode_record(manifest))
            shutil.rmtree(self._path / str(height), ignore_errors=True)
            draft.rename(self._path / str(height))
            for old in self._heights()[:-MAX_KEPT_SNAPSHOTS]:
                shutil.rmtree(self._path / str(old), ignore_errors=True)
        except OSError as error:
            raise StorageError(f"{self._path}: {error}; check the disk") from error
        return manifest

    def list_manifests(self) -> Sequence[Manifest]:
        """The snapshots that can be given away, the oldest first."""
        manifests: list[Manifest] = []
        for height in self._heights():
            try:
                data = (self._path / str(height) / _MANIFEST).read_bytes()
                manifests.append(decode_manifest(data))
            except (OSError, InvalidMessage):
                continue  # One that was cut off is as good as none.
        return manifests

    def load_chunk(self, height: int, index: int) -> bytes | None:
        """One chunk of one of them; None where there is none."""
        try:
            return (self._path / str(int(height)) / str(int(index))).read_bytes()
        except OSError:
            return None

    def begin(self, manifest: Manifest) -> None:
        """Make room for a snapshot that comes in, in place of another."""
        self.clear_incoming()
        try:
            (self._path / _INCOMING).mkdir(parents=True)
        except OSError as error:
            raise StorageError(f"{self._path}: {error}; check the disk") from error

    def put_incoming(self, index: int, chunk: bytes) -> None:
        """Keep a chunk that comes in."""
        try:
            (self._path / _INCOMING / str(index)).write_bytes(chunk)
        except OSError as error:
            raise StorageError(f"{self._path}: {error}; check the disk") from error

    def iter_incoming(self) -> Iterator[bytes]:
        """The chunks that came in, in their order."""
        try:
            names = sorted(int(entry.name) for entry in (self._path / _INCOMING).iterdir())
            for name in names:
                yield (self._path / _INCOMING / str(name)).read_bytes()
        except OSError as error:
            raise StorageError(f"{self._path}: {error}; check the disk") from error

    def clear_incoming(self) -> None:
        """Drop what came in."""
        shutil.rmtree(self._path / _INCOMING, ignore_errors=True)

    def _heights(self) -> list[int]:
        if not self._path.is_dir():
            return []
        return sorted(int(entry.name) for entry in self._path.iterdir() if entry.name.isdecimal())
