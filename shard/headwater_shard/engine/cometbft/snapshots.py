"""Snapshots: a ledger in chunks, with which a new node starts near the tip.

A snapshot is the whole ledger: the entries of the state and every block. A node that has taken one
can be audited like any other, and checking it needs no execution: the entries lead to the root that
the last header commits to, the headers name each other back to the first, and each block carries
the certificate of the one before. Who may certify follows from the epochs in the state, which
CometBFT's light client vouches for.

Taken are heights at which the committee does not change, so that the last header's certifiers are
those that the state names.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Protocol

from headwater_protocol.chain.block import (
    MAX_BLOCK_BYTES,
    NO_DIGEST,
    Block,
    Certificate,
    header_digest,
    verify_certificate,
)
from headwater_protocol.chain.committee import Committee, committee_digest
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.encoding.record import (
    Count,
    Length,
    Pattern,
    Range,
    decode_record,
    encode_record,
)
from headwater_protocol.errors import BadEncoding, InvalidBlock, OutOfBounds
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId, Digest, Height, Network
from headwater_shard.application import tables_of
from headwater_shard.engine.bft.history import FinalizedBlock, Tip
from headwater_shard.engine.bft.leader import Rotation, initial_rotation, next_rotation
from headwater_shard.engine.bft.validation import verify_body
from headwater_shard.engine.cometbft.frames import FrameBuffer, encode_frame
from headwater_shard.engine.cometbft.mapping import compute_app_hash
from headwater_shard.mainchain.records import EPOCHS as MAIN_EPOCHS
from headwater_shard.shardchain.records import EPOCHS as SHARD_EPOCHS
from headwater_shard.state.state import State, load_state

FORMAT: Final = 1
CHUNK_BYTES: Final = 4 * 1024 * 1024
"""Of one chunk but the last; CometBFT passes on up to 16 MB."""

MAX_CHUNKS: Final = 4_096
"""16 GiB; the names of the chunks fit what CometBFT passes on as metadata."""

MAX_MANIFEST_BYTES: Final = 1024 * 1024
MAX_KEPT_SNAPSHOTS: Final = 2
MIN_BLOCKS_BEHIND: Final = 2
"""CometBFT's light client needs two headers after a snapshot's."""

_ENTRY: Final = b"e"
_BLOCK: Final = b"b"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a snapshot is, as it is offered; nothing in it is trusted."""

    KIND: ClassVar[str] = "comet-snapshot/1"

    network: Network
    chain: ChainId
    height: Annotated[int, Range(1, 2**63 - 1)]
    certificate: Certificate
    """Of the last block."""
    chunks: Annotated[tuple[Digest, ...], Count(1, MAX_CHUNKS)]
    """SHA-256 of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotEntry:
    """One entry of the state."""

    KIND: ClassVar[str] = "snapshot-entry/1"

    namespace: Annotated[str, Pattern("[a-z-]{1,32}")]
    key: Annotated[bytes, Length(0, 1_024)]
    value: Annotated[bytes, Length(0, MAX_BLOCK_BYTES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """A snapshot that was checked."""

    state: State
    tip: Tip


class ChunkStore(Protocol):
    """Where chunks of snapshots are."""

    def list_manifests(self) -> Sequence[Manifest]:
        """The snapshots that can be given away."""
        ...

    def load_chunk(self, height: int, index: int) -> bytes | None:
        """One chunk of one of them; None where there is none."""
        ...

    def begin(self, manifest: Manifest) -> None:
        """Make room for a snapshot that comes in, in place of another."""
        ...

    def put_incoming(self, index: int, chunk: bytes) -> None:
        """Keep a chunk that comes in."""
        ...

    def iter_incoming(self) -> Iterator[bytes]:
        """The chunks that came in, in their order."""
        ...

    def clear_incoming(self) -> None:
        """Drop what came in."""
        ...


def manifest_digest(manifest: Manifest) -> bytes:
    """How CometBFT tells snapshots apart."""
    return hashlib.sha256(encode_record(manifest)).digest()


def iter_chunks(state: State, blocks: Iterable[Block]) -> Iterator[bytes]:
    """The chunks of a snapshot: the entries of the state after the last of `blocks`, then these.

    Args:
        state: After the last block.
        blocks: All from the first.
    """
    pending = bytearray()
    for frame in _frames(state, blocks):
        pending += frame
        while len(pending) >= CHUNK_BYTES:
            yield bytes(pending[:CHUNK_BYTES])
            del pending[:CHUNK_BYTES]
    if pending:
        yield bytes(pending)


def _frames(state: State, blocks: Iterable[Block]) -> Iterator[bytes]:
    for namespace, key, value in state.encoded_entries():
        entry = SnapshotEntry(namespace=namespace, key=key, value=value)
        yield encode_frame(_ENTRY + encode_record(entry))
    for block in blocks:
        yield encode_frame(_BLOCK + encode_record(block))


def _payloads(chunks: Iterable[bytes]) -> Iterator[bytes]:
    buffer = FrameBuffer(max_bytes=MAX_BLOCK_BYTES + 1)
    for chunk in chunks:
        buffer.feed(chunk)
        yield from buffer.frames()
    if not buffer.is_empty:
        raise BadEncoding("a snapshot ends within an item")


def iter_blocks(chunks: Iterable[bytes]) -> Iterator[Block]:
    """The blocks in a snapshot's chunks, in order.

    Raises:
        InvalidMessage: If they do not decode.
    """
    for payload in _payloads(chunks):
        if payload[:1] == _BLOCK:
            yield decode_record(Block, payload[1:], max_bytes=MAX_BLOCK_BYTES)


def pair_certificates(blocks: Iterable[Block], last: Certificate) -> Iterator[FinalizedBlock]:
    """Each block with the certificate that the next one carries, the last one with `last`."""
    before: Block | None = None
    for block in blocks:
        if before is not None and block.last_certificate is not None:
            yield FinalizedBlock(block=before, certificate=block.last_certificate)
        before = block
    if before is not None:
        yield FinalizedBlock(block=before, certificate=last)


def verify_snapshot(
    manifest: Manifest,
    chunks: Iterable[bytes],
    *,
    committee: Committee,
    app_hash: bytes,
    verifier: Verifier,
) -> Ledger:
    """Check a snapshot whose chunks are those that its manifest names.

    Args:
        manifest: Of the network and chain that are wanted.
        chunks: In their order.
        committee: The first one, from the genesis.
        app_hash: Of the state, trusted.
        verifier: Checks signatures.

    Raises:
        InvalidMessage: If anything does not follow from what is trusted.
        StorageError: If a namespace is unknown.
    """
    entries: list[tuple[str, bytes, bytes]] = []
    state: State | None = None
    committees: dict[Digest, Committee] = {}
    rotation = initial_rotation(committee)
    tip: Block | None = None
    for payload in _payloads(chunks):
        if payload[:1] == _ENTRY and state is None:
            entry = decode_record(SnapshotEntry, payload[1:])
            entries.append((entry.namespace, entry.key, entry.value))
            continue
        if payload[:1] != _BLOCK:
            raise BadEncoding("a snapshot has its entries first and then its blocks")
        if state is None:
            state = load_state(tables_of(manifest.chain), entries)
            if compute_app_hash(state) != app_hash:
                raise InvalidBlock("the state is not the one that is trusted")
            committees = list_committees(state, manifest.chain, committee)
        block = decode_record(Block, payload[1:], max_bytes=MAX_BLOCK_BYTES)
        _verify_next(block, tip, manifest, rotation, verifier)
        following = committees.get(block.header.next_committee)
        if following is None:
            raise InvalidBlock(f"block {block.header.height} names an unknown committee")
        rotation, tip = next_rotation(rotation, following), block
    if state is None or tip is None or tip.header.height != manifest.height:
        raise BadEncoding("a snapshot without its blocks")
    if tip.header.state_root != state.root:
        raise InvalidBlock("the state is not the one that the last block leads to")
    if rotation.certifiers is None or rotation.certifiers != rotation.committee:
        raise OutOfBounds("a snapshot at which the committee changes")
    verify_certificate(
        manifest.certificate, header=tip.header, committee=rotation.certifiers, verifier=verifier
    )
    return Ledger(
        state=state, tip=Tip(block=tip, certificate=manifest.certificate, rotation=rotation)
    )


def _verify_next(
    block: Block, before: Block | None, manifest: Manifest, rotation: Rotation, verifier: Verifier
) -> None:
    header = block.header
    height = 1 if before is None else before.header.height + 1
    previous = NO_DIGEST if before is None else header_digest(before.header)
    found = (header.network, header.chain, header.height, header.previous, header.committee)
    expected = (
        manifest.network,
        manifest.chain,
        height,
        previous,
        committee_digest(rotation.committee),
    )
    if found != expected:
        raise InvalidBlock(f"block {header.height} does not follow block {height - 1}")
    verify_body(block)
    if before is None or rotation.certifiers is None:
        if block.last_certificate is not None:
            raise InvalidBlock("a first block has no certificate before it")
        return
    if block.last_certificate is None:
        raise InvalidBlock(f"block {height} lacks the certificate of the block before")
    verify_certificate(
        block.last_certificate,
        header=before.header,
        committee=rotation.certifiers,
        verifier=verifier,
    )


def list_committees(state: State, chain: ChainId, first: Committee) -> dict[Digest, Committee]:
    """All committees that certified the chain, by what headers call them."""
    known = [first]
    if chain == MAIN_CHAIN:
        known += [epoch.committee for _, epoch in state.items(MAIN_EPOCHS)]
    else:
        found = [epoch.committee_of(chain) for _, epoch in state.items(SHARD_EPOCHS)]
        known += [committee for committee in found if committee is not None]
    return {committee_digest(committee): committee for committee in known}


def decode_manifest(data: bytes) -> Manifest:
    """The manifest that a peer offers.

    Raises:
        InvalidMessage: If it does not decode.
    """
    return decode_record(Manifest, data, max_bytes=MAX_MANIFEST_BYTES)


def is_suited(block: Block) -> bool:
    """Whether a snapshot may be taken after `block`: the committee stays."""
    return block.header.committee == block.header.next_committee


def is_listed(manifest: Manifest, *, height: Height) -> bool:
    """Whether a snapshot can be verified by others when the chain has `height`."""
    return manifest.height + MIN_BLOCKS_BEHIND <= height
