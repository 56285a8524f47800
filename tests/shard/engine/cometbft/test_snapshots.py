"""Snapshots: what was given away comes in again, and nothing else does."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_protocol.chain.genesis import encode_genesis
from headwater_protocol.crypto.signing import DirectVerifier
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.errors import HeadwaterError, StorageError
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId, Digest, Height
from headwater_shard.application import LedgerApplication, make_ledger
from headwater_shard.engine.cometbft import snapshots
from headwater_shard.engine.cometbft.desk import SnapshotDesk
from headwater_shard.engine.cometbft.mapping import compute_app_hash
from headwater_shard.engine.cometbft.shell.chunks import ChunkFolder
from headwater_shard.engine.cometbft.snapshots import (
    FORMAT,
    MAX_KEPT_SNAPSHOTS,
    Ledger,
    Manifest,
    iter_blocks,
    iter_chunks,
    manifest_digest,
    pair_certificates,
    verify_snapshot,
)
from headwater_shard.engine.cometbft.wire import abci_pb2
from headwater_shard.store import LedgerStore
from tests.support.comet import restored, transfer
from tests.support.comet_driver import Driver, Member
from tests.support.network import make_cast

NUM_BLOCKS = 9
RESULTS = abci_pb2.ResponseOfferSnapshot.Result
APPLIED = abci_pb2.ResponseApplySnapshotChunk.Result


class Scene:
    """A chain of nine blocks, and a snapshot of the last."""

    def __init__(self) -> None:
        self.cast = make_cast(validators_per_shard=4, balances=[("alice", 10_000)])
        self.driver = Driver(self.cast)
        for height in range(1, NUM_BLOCKS + 1):
            self.driver.block(transfer(self.cast, height))
        self.state = self.member.settled[-1].state
        self.blocks = [final.block for final in self.member.disk]
        self.chunks = list(iter_chunks(self.state, self.blocks))
        self.manifest = self.describe(self.chunks)
        self.app_hash = bytes(compute_app_hash(self.state))

    @property
    def member(self) -> Member:
        return self.driver.members[0]

    def describe(self, chunks: list[bytes]) -> Manifest:
        return Manifest(
            network=self.cast.network,
            chain=MAIN_CHAIN,
            height=NUM_BLOCKS,
            certificate=self.member.disk[-1].certificate,
            chunks=tuple(Digest(hashlib.sha256(chunk).digest()) for chunk in chunks),
        )

    def verify(self, manifest: Manifest | None = None, chunks: list[bytes] | None = None) -> Ledger:
        return verify_snapshot(
            manifest or self.manifest,
            self.chunks if chunks is None else chunks,
            committee=self.cast.genesis.committee(MAIN_CHAIN),
            app_hash=self.app_hash,
            verifier=DirectVerifier(),
        )


@pytest.fixture(scope="module")
def scene() -> Scene:
    """Not to be changed."""
    patch = pytest.MonkeyPatch()
    patch.setattr(snapshots, "CHUNK_BYTES", 2_000)
    made = Scene()
    patch.undo()
    return made


def test_a_snapshot_comes_back_whole(scene: Scene) -> None:
    assert len(scene.chunks) > 3
    ledger = scene.verify()
    assert ledger.state.root == scene.state.root
    assert ledger.tip.block == scene.blocks[-1]
    assert ledger.tip.rotation == scene.member.disk[-1].rotation
    assert list(iter_blocks(scene.chunks)) == scene.blocks
    pairs = list(pair_certificates(iter_blocks(scene.chunks), scene.manifest.certificate))
    assert [pair.certificate for pair in pairs] == [
        final.certificate for final in scene.member.disk
    ]


@given(data=st.data())
def test_any_changed_byte_is_found(data: st.DataObject) -> None:
    scene = data.draw(st.shared(st.builds(get_scene), key="scene"))
    whole = bytearray(b"".join(scene.chunks))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(HeadwaterError):
        scene.verify(chunks=[bytes(whole)])


_SCENES: list[Scene] = []


def get_scene() -> Scene:
    if not _SCENES:
        _SCENES.append(Scene())
    return _SCENES[0]


@given(data=st.data())
def test_any_cut_is_found(data: st.DataObject) -> None:
    scene = data.draw(st.shared(st.builds(get_scene), key="scene"))
    whole = b"".join(scene.chunks)
    end = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(HeadwaterError):
        scene.verify(chunks=[whole[:end]])


def test_what_nobody_vouches_for_is_refused(scene: Scene) -> None:
    few = scene.manifest.certificate.signatures[:2]
    for manifest in (
        replace(scene.manifest, height=NUM_BLOCKS - 1),
        replace(scene.manifest, height=NUM_BLOCKS + 1),
        replace(scene.manifest, certificate=replace(scene.manifest.certificate, signatures=few)),
        replace(scene.manifest, certificate=scene.member.disk[-2].certificate),
    ):
        with pytest.raises(HeadwaterError):
            scene.verify(manifest)
    older = scene.member.settled[-2].state
    with pytest.raises(HeadwaterError, match="trusted"):
        scene.verify(chunks=list(iter_chunks(older, scene.blocks)))
    with pytest.raises(HeadwaterError):
        scene.verify(chunks=list(iter_chunks(scene.state, scene.blocks[:-1])))
    with pytest.raises(HeadwaterError):
        scene.verify(chunks=list(iter_chunks(scene.state, [*scene.blocks, scene.blocks[-1]])))


class Desk:
    """A desk over an empty ledger, or over `app`."""

    def __init__(self, scene: Scene, folder: Path, *, is_empty: bool = True) -> None:
        self.app = (
            LedgerApplication(make_ledger(scene.cast.genesis, MAIN_CHAIN), DirectVerifier())
            if is_empty
            else scene.member.replica.application
        )
        self.chunks = ChunkFolder(folder / "snapshots")
        self.store = LedgerStore.open(
            folder / "ledger.sqlite",
            network=scene.cast.network,
            chain=MAIN_CHAIN,
            genesis=encode_genesis(scene.cast.genesis),
        )
        self.desk = SnapshotDesk(
            application=self.app,
            verifier=DirectVerifier(),
            chunks=self.chunks,
            install=lambda ledger, blocks: self.store.install(
                blocks, ledger.state.encoded_entries(), ledger.tip.rotation
            ),
        )

    def offer(self, scene: Scene, manifest: Manifest, **changes: object) -> int:
        offered = abci_pb2.Snapshot(
            height=manifest.height,
            format=FORMAT,
            chunks=len(manifest.chunks),
            hash=manifest_digest(manifest),
            metadata=encode_record(manifest),
        )
        for name, value in changes.items():
            setattr(offered, name, value)
        request = abci_pb2.RequestOfferSnapshot(snapshot=offered, app_hash=scene.app_hash)
        return self.desk.offer(request).result

    def apply(self, index: int, chunk: bytes) -> abci_pb2.ResponseApplySnapshotChunk:
        return self.desk.apply_chunk(
            abci_pb2.RequestApplySnapshotChunk(index=index, chunk=chunk, sender="peer")
        )


def test_a_node_takes_a_snapshot_in_whatever_order_it_comes(scene: Scene, tmp_path: Path) -> None:
    desk = Desk(scene, tmp_path)
    assert desk.offer(scene, scene.manifest) == RESULTS.ACCEPT
    last = len(scene.chunks) - 1
    refused = desk.apply(1, scene.chunks[0])
    assert (refused.result, list(refused.refetch_chunks)) == (APPLIED.RETRY, [1])
    assert list(refused.reject_senders) == ["peer"]
    for index in reversed(range(last + 1)):
        assert desk.apply(index, scene.chunks[index]).result == APPLIED.ACCEPT
    assert desk.store.height == NUM_BLOCKS
    app = restored(scene.cast, MAIN_CHAIN, desk.store)
    assert app.state.root == scene.state.root
    tip = desk.store.load_tip()
    assert tip is not None
    assert tip.rotation == scene.member.disk[-1].rotation
    assert desk.apply(0, scene.chunks[0]).result == APPLIED.ABORT
    desk.store.close()


def test_offers_that_cannot_be_are_refused(scene: Scene, tmp_path: Path) -> None:
    desk = Desk(scene, tmp_path)
    manifest = scene.manifest
    assert desk.apply(0, scene.chunks[0]).result == APPLIED.ABORT
    assert desk.offer(scene, manifest, format=FORMAT + 1) == RESULTS.REJECT_FORMAT
    assert desk.offer(scene, manifest, metadata=b"?") == RESULTS.REJECT_SENDER
    assert desk.offer(scene, manifest, hash=b"other") == RESULTS.REJECT
    assert desk.offer(scene, manifest, chunks=1) == RESULTS.REJECT
    elsewhere = replace(manifest, chain=ChainId("shard-0"))
    assert desk.offer(scene, elsewhere) == RESULTS.REJECT
    desk.store.close()
    used = Desk(scene, tmp_path, is_empty=False)
    assert used.offer(scene, manifest) == RESULTS.ABORT
    used.store.close()


def test_a_snapshot_that_lies_leaves_the_ledger_empty(scene: Scene, tmp_path: Path) -> None:
    desk = Desk(scene, tmp_path)
    chunks = list(iter_chunks(scene.member.settled[-2].state, scene.blocks))
    manifest = scene.describe(chunks)
    assert desk.offer(scene, manifest) == RESULTS.ACCEPT
    results = [desk.apply(index, chunk) for index, chunk in enumerate(chunks)]
    assert results[-1].result == APPLIED.REJECT_SNAPSHOT
    assert desk.store.height == desk.app.height == 0
    assert desk.offer(scene, scene.manifest) == RESULTS.ACCEPT
    desk.store.close()


def test_snapshots_on_disk_are_few_and_listed_when_others_can_check_them(
    scene: Scene, tmp_path: Path
) -> None:
    desk = Desk(scene, tmp_path, is_empty=False)
    for height in (5, 6, 7, 8):
        desk.chunks.build(
            network=scene.cast.network,
            chain=MAIN_CHAIN,
            state=scene.member.settled[height - 1].state,
            blocks=scene.blocks[:height],
            height=height,
            certificate=scene.member.disk[height - 1].certificate,
        )
    assert len(desk.chunks.list_manifests()) == MAX_KEPT_SNAPSHOTS
    listed = desk.desk.list_snapshots().snapshots
    assert [entry.height for entry in listed] == [7]
    request = abci_pb2.RequestLoadSnapshotChunk(height=7, format=FORMAT, chunk=0)
    assert desk.desk.load_chunk(request).chunk
    for missing in ({"chunk": 99}, {"height": 4}, {"format": 9}):
        asked = abci_pb2.RequestLoadSnapshotChunk(height=7, format=FORMAT, chunk=0)
        for name, value in missing.items():
            setattr(asked, name, value)
        assert desk.desk.load_chunk(asked).chunk == b""
    desk.store.close()


def test_a_store_with_blocks_takes_no_snapshot(scene: Scene, tmp_path: Path) -> None:
    desk = Desk(scene, tmp_path)
    first = scene.member.disk[0]
    desk.store.append(first.block, first.certificate, first.execution.changes, first.rotation)
    with pytest.raises(StorageError, match="empty"):
        desk.store.install([], [], first.rotation)
    assert desk.store.height == Height(1)
    desk.store.close()
