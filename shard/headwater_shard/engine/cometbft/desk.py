"""The snapshot connection of ABCI: giving snapshots away, and taking one in."""

import hashlib
from collections.abc import Callable, Iterable

from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.errors import HeadwaterError, InvalidMessage
from headwater_shard.application import LedgerApplication
from headwater_shard.engine.bft.history import FinalizedBlock
from headwater_shard.engine.cometbft.snapshots import (
    FORMAT,
    ChunkStore,
    Ledger,
    Manifest,
    decode_manifest,
    is_listed,
    iter_blocks,
    manifest_digest,
    pair_certificates,
    verify_snapshot,
)
from headwater_shard.engine.cometbft.wire import abci_pb2

Install = Callable[[Ledger, Iterable[FinalizedBlock]], None]
"""Puts a checked ledger on disk, all or nothing, and makes it the replica's."""


class SnapshotDesk:
    """Answers the four calls; one snapshot comes in at a time."""

    def __init__(
        self,
        *,
        application: LedgerApplication,
        verifier: Verifier,
        chunks: ChunkStore,
        install: Install,
    ) -> None:
        self._application = application
        self._verifier = verifier
        self._chunks = chunks
        self._install = install
        self._incoming: Manifest | None = None
        self._app_hash = b""
        self._arrived: set[int] = set()
        self.refused: str | None = None
        """Why the last snapshot was refused."""

    def list_snapshots(self) -> abci_pb2.ResponseListSnapshots:
        """Those that others can verify by now."""
        response = abci_pb2.ResponseListSnapshots()
        for manifest in self._chunks.list_manifests():
            if is_listed(manifest, height=self._application.height):
                response.snapshots.add(
                    height=manifest.height,
                    format=FORMAT,
                    chunks=len(manifest.chunks),
                    hash=manifest_digest(manifest),
                    metadata=encode_record(manifest),
                )
        return response

    def load_chunk(
        self, request: abci_pb2.RequestLoadSnapshotChunk
    ) -> abci_pb2.ResponseLoadSnapshotChunk:
        """One chunk; empty where there is none."""
        chunk = None
        if request.format == FORMAT:
            chunk = self._chunks.load_chunk(request.height, request.chunk)
        return abci_pb2.ResponseLoadSnapshotChunk(chunk=chunk or b"")

    def offer(self, request: abci_pb2.RequestOfferSnapshot) -> abci_pb2.ResponseOfferSnapshot:
        """Whether a snapshot is worth fetching; only a ledger that is empty takes one."""
        results = abci_pb2.ResponseOfferSnapshot.Result
        offered = request.snapshot
        if self._application.height:
            return abci_pb2.ResponseOfferSnapshot(result=results.ABORT)
        if offered.format != FORMAT:
            return abci_pb2.ResponseOfferSnapshot(result=results.REJECT_FORMAT)
        try:
            manifest = decode_manifest(offered.metadata)
        except InvalidMessage as error:
            self.refused = str(error)
            return abci_pb2.ResponseOfferSnapshot(result=results.REJECT_SENDER)
        if (manifest.network, manifest.chain, manifest.height, len(manifest.chunks)) != (
            self._application.network,
            self._application.chain,
            offered.height,
            offered.chunks,
        ) or manifest_digest(manifest) != offered.hash:
            self.refused = "the manifest is of another snapshot"
            return abci_pb2.ResponseOfferSnapshot(result=results.REJECT)
        self._incoming, self._app_hash = manifest, request.app_hash
        self._arrived.clear()
        self._chunks.begin(manifest)
        return abci_pb2.ResponseOfferSnapshot(result=results.ACCEPT)

    def apply_chunk(
        self, request: abci_pb2.RequestApplySnapshotChunk
    ) -> abci_pb2.ResponseApplySnapshotChunk:
        """Keep a chunk; with the last one, check the whole and start from it.

        Raises:
            StorageError: If it cannot be kept.
        """
        results = abci_pb2.ResponseApplySnapshotChunk.Result
        manifest = self._incoming
        if manifest is None or request.index >= len(manifest.chunks):
            return abci_pb2.ResponseApplySnapshotChunk(result=results.ABORT)
        if hashlib.sha256(request.chunk).digest() != manifest.chunks[request.index]:
            return abci_pb2.ResponseApplySnapshotChunk(
                result=results.RETRY,
                refetch_chunks=[request.index],
                reject_senders=[request.sender],
            )
        self._chunks.put_incoming(request.index, request.chunk)
        self._arrived.add(request.index)
        if len(self._arrived) < len(manifest.chunks):
            return abci_pb2.ResponseApplySnapshotChunk(result=results.ACCEPT)
        self._incoming = None
        try:
            ledger = verify_snapshot(
                manifest,
                self._chunks.iter_incoming(),
                committee=self._application.committee,
                app_hash=self._app_hash,
                verifier=self._verifier,
            )
        except HeadwaterError as error:
            self.refused = str(error)
            self._chunks.clear_incoming()
            return abci_pb2.ResponseApplySnapshotChunk(
                result=results.REJECT_SNAPSHOT, reject_senders=[request.sender]
            )
        blocks = iter_blocks(self._chunks.iter_incoming())
        self._install(ledger, pair_certificates(blocks, manifest.certificate))
        self._chunks.clear_incoming()
        return abci_pb2.ResponseApplySnapshotChunk(result=results.ACCEPT)
