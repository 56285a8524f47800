"""A virtual run's ledgers and blobs as a data folder, which `headwater-shard audit` replays."""

from pathlib import Path

from headwater_firmware_sim.virtual.chain import ChainDisk
from headwater_firmware_sim.virtual.run import VirtualRun
from headwater_protocol.chain.genesis import encode_genesis
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId
from headwater_shard.application import tables_of
from headwater_shard.audit.failure import AuditFailure
from headwater_shard.audit.network import NetworkAudit
from headwater_shard.audit.readers import LedgerReader, MemoryBlobs, MemoryLedger
from headwater_shard.blobs import BlobStore
from headwater_shard.engine.bft.effects import Finalized
from headwater_shard.engine.border import Execution
from headwater_shard.layout import DataFolder
from headwater_shard.state.state import State
from headwater_shard.store import LedgerStore

BATCH_BLOBS: int = 1_000
"""Blobs of one write."""


def furthest_disk(run: VirtualRun, chain: ChainId) -> ChainDisk:
    """The disk with the most blocks of a chain; the first gateway's where there are several."""
    disks = [gateway.nodes[chain].disk for gateway in run.gateways if chain in gateway.nodes]
    return max(disks, key=lambda disk: len(disk.blocks))


def audit_run(run: VirtualRun) -> str:
    """Replay a run's ledgers from genesis: `ok`, or the first thing that does not hold.

    The run has to have kept its payloads.
    """
    genesis = run.stage.plan.genesis
    ledgers: dict[ChainId, LedgerReader] = {}
    for chain in (MAIN_CHAIN, *genesis.shards):
        disk = furthest_disk(run, chain)
        if disk.state is not None:
            ledgers[chain] = MemoryLedger(
                genesis=genesis, chain=chain, blocks=disk.blocks, state=disk.state
            )
    blobs = MemoryBlobs({digest: run.blobs.get(digest) for digest in run.blobs.digests()})
    audit = NetworkAudit(genesis=genesis, ledgers=ledgers, blobs=blobs)
    try:
        for _ in audit.run():
            pass
    except AuditFailure as failure:
        return str(failure)
    return "ok"


def write_ledgers(run: VirtualRun, path: Path) -> None:
    """Write genesis, ledgers and blobs into the empty folder `path`.

    Raises:
        StorageError: If the disk refuses.
        OSError: As above.
    """
    folder, genesis = DataFolder(path), run.stage.plan.genesis
    folder.genesis.write_bytes(encode_genesis(genesis))
    blobs = BlobStore(folder.blobs)
    try:
        digests = run.blobs.digests()
        for start in range(0, len(digests), BATCH_BLOBS):
            batch = digests[start : start + BATCH_BLOBS]
            blobs.put_all([run.blobs.get(digest) for digest in batch])
    finally:
        blobs.close()
    for chain in (MAIN_CHAIN, *genesis.shards):
        folder.chain(chain).mkdir()
        with LedgerStore.open(
            folder.ledger(chain),
            network=run.stage.plan.network,
            chain=chain,
            genesis=encode_genesis(genesis),
        ) as store:
            store.write(_finalized(furthest_disk(run, chain), chain))


def _finalized(disk: ChainDisk, chain: ChainId) -> list[Finalized]:
    """All blocks as one write; the last one brings the whole state."""
    tip, state = disk.tip, disk.state
    if tip is None or state is None:
        return []
    last = len(disk.blocks)
    return [
        Finalized(
            block=final.block,
            certificate=final.certificate,
            execution=Execution(
                state_root=final.block.header.state_root,
                outcomes=(),
                next_committee=tip.rotation.committee,
                changes=_entries(state, chain) if height == last else {},
            ),
            rotation=tip.rotation,
        )
        for height, final in enumerate(disk.blocks, start=1)
    ]


def _entries(state: State, chain: ChainId) -> dict[str, dict[bytes, bytes | None]]:
    return {
        table.namespace: {key: encode_record(record) for key, record in state.sorted_items(table)}
        for table in tables_of(chain)
    }
