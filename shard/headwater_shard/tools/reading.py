"""Reading the ledgers of a data folder, without locking them."""

from dataclasses import dataclass

from headwater_protocol.chain.block import BlockHeader, Certificate
from headwater_protocol.chain.genesis import Genesis
from headwater_protocol.errors import ConfigError
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId
from headwater_shard.application import make_ledger, tables_of
from headwater_shard.audit.folder import load_genesis
from headwater_shard.layout import DataFolder
from headwater_shard.state.state import State, load_state
from headwater_shard.store import LedgerStore


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredChain:
    """A ledger as a folder holds it."""

    chain: ChainId
    state: State
    header: BlockHeader | None
    """Of the last block; None before the first."""
    certificate: Certificate | None


def read_genesis(folder: DataFolder) -> Genesis:
    """The folder's genesis.

    Raises:
        ConfigError: If there is none.
        AuditFailure: If it does not decode.
    """
    return load_genesis(folder)


def read_chain(folder: DataFolder, genesis: Genesis, chain: ChainId) -> StoredChain:
    """A chain's last state; that of the genesis where the folder has no ledger of it yet.

    Raises:
        ConfigError: If the network has no such chain.
        StorageError: If the ledger cannot be read.
    """
    if chain not in {MAIN_CHAIN, *genesis.shards}:
        raise ConfigError(
            "CHAIN",
            f"the network has no chain {chain!r}",
            fix=f"choose one of {', '.join([MAIN_CHAIN, *genesis.shards])}",
        )
    path = folder.ledger(chain)
    start = StoredChain(
        chain=chain,
        state=make_ledger(genesis, chain).genesis_state(),
        header=None,
        certificate=None,
    )
    if not path.is_file():
        return start
    with LedgerStore.open_read_only(path) as store:
        tip = store.load_tip()
        if tip is None:
            return start
        state = load_state(tables_of(chain), store.load_entries())
    return StoredChain(
        chain=chain, state=state, header=tip.block.header, certificate=tip.certificate
    )


def list_chains(genesis: Genesis, only: ChainId | None) -> tuple[ChainId, ...]:
    """The shards to list, or the one that is asked for."""
    return genesis.shards if only is None else (only,)
