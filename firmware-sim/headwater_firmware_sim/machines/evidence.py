"""What a network of processes left behind: heights, application hashes, updates, receipts.

Everything is read from where a stranger would find it: the ledgers of each gateway, the headers of
its CometBFT nodes, and the receipts that each device keeps.
"""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headwater_agent.storage.reading import read_proofs, read_stored
from headwater_firmware_sim.machines.network import ProcessNetwork
from headwater_protocol.chain.transaction import CommitUpdates, decode_transaction
from headwater_protocol.errors import StorageError, TransportError
from headwater_protocol.identifiers import (
    MAIN_CHAIN,
    ChainId,
    DeviceId,
    Digest,
    Height,
    RoundNumber,
    ValidatorId,
)
from headwater_protocol.messages.receipt import Receipt, Stage
from headwater_protocol.reasons import ReasonCode
from headwater_shard.application import tables_of
from headwater_shard.engine.cometbft.shell.rpc import CometRpc
from headwater_shard.layout import DataFolder
from headwater_shard.mainchain.records import CANDIDATES
from headwater_shard.state.state import State, load_state
from headwater_shard.store import LedgerStore

MAX_HEADERS: Final = 20
"""Of one answer of CometBFT's `blockchain`."""
RPC_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """That an update is on the ledger: a receipt for it, or for what became of it."""

    shard: ChainId
    round: RoundNumber
    device: DeviceId
    payload: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Updates:
    """What devices signed, what they were promised, and what became of it."""

    sent: int
    """Signed and sent."""
    receipts: int
    """Promises among the answers."""
    lost: tuple[Promise, ...]
    """Promised, and not on the ledger."""


def read_height(folder: DataFolder, chain: ChainId) -> int:
    """The last block on a gateway's disk; 0 where there is none, or none can be read just now."""
    path = folder.ledger(chain)
    if not path.is_file():
        return 0
    try:
        with LedgerStore.open_read_only(path) as store:
            return store.height
    except StorageError:
        return 0


def read_heights(network: ProcessNetwork) -> dict[tuple[str, ChainId], int]:
    """The last block of each chain on each gateway's disk, by the gateway's name and the chain."""
    return {
        (gateway.name, chain): read_height(network.data(index), chain)
        for index, gateway in enumerate(network.gateways)
        for chain in network.chains
    }


def read_state(folder: DataFolder, chain: ChainId) -> State:
    """The current state of a chain on a gateway's disk.

    Raises:
        StorageError: If it cannot be read.
        InvalidMessage: If an entry does not decode.
    """
    with LedgerStore.open_read_only(folder.ledger(chain)) as store:
        return load_state(tables_of(chain), store.load_entries())


def read_roots(folder: DataFolder, chain: ChainId) -> dict[int, str]:
    """The state root after each block on a gateway's disk, by height."""
    with LedgerStore.open_read_only(folder.ledger(chain)) as store:
        return {
            final.block.header.height: final.block.header.state_root.hex()
            for final in store.iter_blocks(Height(1))
        }


def read_app_hashes(folder: DataFolder, chain: ChainId) -> dict[int, str]:
    """The application hash in each header that a gateway's CometBFT node has, by height.

    Raises:
        TransportError: If the node does not answer.
    """
    rpc = CometRpc(folder.chain(chain) / "cometbft" / "rpc.sock", timeout_s=RPC_TIMEOUT_S)
    hashes: dict[int, str] = {}
    try:
        last = rpc.status().height
        while last > 0:
            answer = rpc.call("blockchain", minHeight="1", maxHeight=str(last))
            metas = answer.get("block_metas") or []
            if not metas:
                break
            for meta in metas[:MAX_HEADERS]:
                hashes[int(meta["header"]["height"])] = str(meta["header"]["app_hash"])
            last = min(hashes) - 1
    except (KeyError, TypeError, ValueError) as error:
        raise TransportError(f"a header of {chain} without {error}") from error
    finally:
        rpc.close()
    return hashes


def find_disagreement(tables: Mapping[str, Mapping[int, str]]) -> str | None:
    """The first height at which two tables differ; None where all agree on what they share."""
    seen: dict[int, tuple[str, str]] = {}
    for name in sorted(tables):
        for height, value in tables[name].items():
            other, known = seen.setdefault(height, (name, value))
            if known != value:
                return f"height {height}: {other} has {known[:16]}, {name} has {value[:16]}"
    return None


def read_updates(network: ProcessNetwork) -> Updates:
    """Updates and promises of all devices, compared with the ledger of the first gateway."""
    sent = sum(read_stored(path).totals["rounds_signed"] for path in network.plan.device_databases)
    promises = read_promises(network)
    commits = {
        shard: read_commits(network.data(0).ledger(shard)) for shard in network.genesis.shards
    }
    lost = tuple(
        promise
        for promise in promises
        if commits[promise.shard].get((promise.round, promise.device)) != promise.payload
    )
    return Updates(sent=sent, receipts=len(promises), lost=lost)


def read_promises(network: ProcessNetwork) -> list[Promise]:
    """What gateways promised to devices, as the devices have it in writing."""
    return [
        promise
        for path in network.plan.device_databases
        for promise in {
            _promise(signed.receipt)
            for signed in read_proofs(path, since_round=1)
            if signed.receipt.stage is Stage.VERDICT or signed.receipt.reason is ReasonCode.OK
        }
    ]


def read_commits(path: Path) -> dict[tuple[RoundNumber, DeviceId], Digest]:
    """The updates that a shard's blocks took, by round and device.

    Raises:
        StorageError: If the ledger cannot be read.
    """
    found: dict[tuple[RoundNumber, DeviceId], Digest] = {}
    with LedgerStore.open_read_only(path) as store:
        for final in store.iter_blocks(Height(1)):
            for data in final.block.transactions:
                body = decode_transaction(data).transaction.body
                if isinstance(body, CommitUpdates):
                    for commit in body.commits:
                        found.setdefault((body.round, commit.device), commit.payload)
    return found


def list_jailed(network: ProcessNetwork, index: int) -> frozenset[ValidatorId]:
    """Candidates that the main chain of a gateway jailed or struck off."""
    main = read_state(network.data(index), MAIN_CHAIN)
    return frozenset(
        ValidatorId(key)
        for key, candidate in main.items(CANDIDATES)
        if candidate.jailed_until or candidate.is_tombstoned
    )


def copy_for_audit(folder: DataFolder, target: DataFolder) -> None:
    """Copy ledgers and blobs of a gateway that runs, all whole.

    Blobs come last: whatever a copied block names was stored before it.

    Raises:
        StorageError: If something cannot be read or written.
    """
    try:
        target.path.mkdir(parents=True)
        target.genesis.write_bytes(folder.genesis.read_bytes())
        for chain in folder.list_ledgers():
            target.chain(chain).mkdir()
            source = sqlite3.connect(f"file:{folder.ledger(chain)}?mode=ro", uri=True)
            copy = sqlite3.connect(target.ledger(chain))
            try:
                source.backup(copy)
            finally:
                copy.close()
                source.close()
        copy_blobs(folder, target)
    except (OSError, sqlite3.Error) as error:
        raise StorageError(f"{folder.path}: {error}") from error


def copy_blobs(folder: DataFolder, target: DataFolder) -> None:
    """Copy the blob segments of a gateway that runs.

    Raises:
        OSError: If one cannot be read or written.
    """
    target.blobs.mkdir(parents=True)
    for path in sorted(folder.blobs.glob("segment-*.blobs")):
        (target.blobs / path.name).write_bytes(path.read_bytes())


def _promise(receipt: Receipt) -> Promise:
    return Promise(
        shard=receipt.shard,
        round=receipt.round,
        device=receipt.device,
        payload=receipt.payload,
    )
