"""The audit of a data folder: opens what is in it, read-only, and runs the audit over that.

What is opened is not locked. A folder in use is audited from a copy, since a writer that goes on
between two reads would look like damage.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from headwater_protocol.chain.genesis import Genesis, decode_genesis
from headwater_protocol.errors import ConfigError
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId
from headwater_shard.audit.failure import AuditFailure, located
from headwater_shard.audit.joined_blobs import JoinedBlobs
from headwater_shard.audit.network import NetworkAudit
from headwater_shard.blobs import BlobStore
from headwater_shard.layout import BLOBS_NAME, GENESIS_NAME, LEDGER_NAME, DataFolder
from headwater_shard.store import LedgerStore


@contextmanager
def open_audit(
    folder: DataFolder, *, only: ChainId | None = None, others: Sequence[DataFolder] = ()
) -> Iterator[NetworkAudit]:
    """Open a folder's ledgers and blobs for an audit.

    Args:
        folder: As a gateway or a simulation wrote it.
        only: Audit this chain alone; nothing is compared between chains then.
        others: Data folders of other gateways, for blobs that this one does not keep.

    Raises:
        ConfigError: If there is no data folder, or the network has no chain `only`.
        AuditFailure: If a file is missing or cannot be opened.
    """
    genesis = load_genesis(folder)
    if only is not None and only not in {MAIN_CHAIN, *genesis.shards}:
        raise ConfigError(
            "--chain",
            f"the network has no chain {only!r}",
            fix=f"choose one of {', '.join([MAIN_CHAIN, *genesis.shards])}",
        )
    with ExitStack() as stack:
        stores: list[BlobStore] = []
        for entry in (folder, *others):
            with located(item=BLOBS_NAME if entry is folder else str(entry.blobs)):
                stores.append(BlobStore(entry.blobs, read_only=True))
            stack.callback(stores[-1].close)
        blobs = JoinedBlobs(stores)
        ledgers: dict[ChainId, LedgerStore] = {}
        for chain in _list_chains(folder, genesis) if only is None else [only]:
            with located(chain=chain):
                ledgers[chain] = LedgerStore.open_read_only(folder.ledger(chain))
            stack.callback(ledgers[chain].close)
        yield NetworkAudit(genesis=genesis, ledgers=ledgers, blobs=blobs)


def load_genesis(folder: DataFolder) -> Genesis:
    """The folder's genesis.

    Raises:
        ConfigError: If there is no folder or no genesis in it.
        AuditFailure: If it cannot be read, does not decode or contradicts itself.
    """
    try:
        is_folder, is_data = folder.path.is_dir(), folder.genesis.exists()
    except OSError as error:
        raise ConfigError(
            "DIR", f"{folder.path}: {error.strerror}", fix="check its permissions"
        ) from error
    if not is_data:
        raise ConfigError(
            "DIR",
            f"{folder.path} holds no {GENESIS_NAME}"
            if is_folder
            else f"{folder.path} is no folder",
            fix="give the data folder of a gateway",
        )
    with located(item=GENESIS_NAME):
        return decode_genesis(folder.genesis.read_bytes())


def _list_chains(folder: DataFolder, genesis: Genesis) -> Sequence[ChainId]:
    """The main chain, and the shards that have a folder here."""
    with located(item="the data folder"):
        found = folder.list_ledgers()
    for chain in found:
        if chain not in {MAIN_CHAIN, *genesis.shards}:
            raise AuditFailure(
                "the genesis has no such chain; move the folder away",
                item=f"{chain}/{LEDGER_NAME}",
            )
    return [MAIN_CHAIN, *(shard for shard in genesis.shards if folder.chain(shard).is_dir())]
