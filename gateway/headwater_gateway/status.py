"""What a gateway's stores hold, read without touching them; the gateway may run meanwhile."""

from dataclasses import asdict, dataclass

from headwater_gateway.config import GatewayConfig
from headwater_gateway.journal import is_complete
from headwater_protocol.chain.round import Round
from headwater_protocol.errors import ConfigError, InvalidMessage, StorageError
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId
from headwater_protocol.messages.announcement import round_key
from headwater_shard.application import tables_of
from headwater_shard.layout import DataFolder
from headwater_shard.mainchain.records import MAIN, MAIN_KEY, SHARDS
from headwater_shard.shardchain.records import DEVICES, ROUNDS, SHARD, SHARD_KEY
from headwater_shard.state.state import State, load_state
from headwater_shard.store import LedgerStore


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardStatus:
    """One shard."""

    shard: ChainId
    height: int
    devices: int
    """Enrolled."""
    round: int
    """The open round, or the last one; 0 before the first."""
    phase: str
    """Of that round; `waiting` before the first."""
    updates: int
    """Of that round, on the ledger."""
    accepted: int
    checkpoints: int
    """Emitted."""
    settled: int
    """Checkpoints that the main chain has."""
    epoch: int
    """Merges that its model contains."""
    is_finished: bool
    model: str
    """The digest of the last closed round's model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayStatus:
    """The main chain and the shards that are served here."""

    network: str
    main_height: int
    epoch: int
    """Merges done."""
    is_complete: bool
    """Whether all rounds are closed, settled and merged."""
    shards: tuple[ShardStatus, ...]

    def to_json(self) -> dict[str, object]:
        """Plain values for `--json`."""
        return asdict(self)


def read_status(config: GatewayConfig) -> GatewayStatus:
    """The status of the data folder that `config` names.

    Raises:
        ConfigError: If the gateway never ran.
        StorageError: If a store is unusable.
    """
    folder = DataFolder(config.folder)
    if not folder.main_ledger.is_file():
        raise ConfigError(
            "folder",
            f"{config.folder} holds no ledger yet",
            fix="start the gateway with headwater-gateway run",
        )
    main_height, main = _read(folder, MAIN_CHAIN)
    settled = {ChainId(key.decode()): entry.number for key, entry in main.items(SHARDS)}
    chain = main.get(MAIN, MAIN_KEY)
    return GatewayStatus(
        network=config.network.hex(),
        main_height=main_height,
        epoch=0 if chain is None else chain.epoch,
        is_complete=is_complete(main),
        shards=tuple(
            _describe(shard.shard, *_read(folder, shard.shard), settled.get(shard.shard, 0))
            for shard in sorted(config.shards, key=lambda entry: entry.shard)
        ),
    )


def _read(folder: DataFolder, chain: ChainId) -> tuple[int, State]:
    path = folder.ledger(chain)
    with LedgerStore.open_read_only(path) as store:
        try:
            return store.height, load_state(tables_of(chain), store.load_entries())
        except InvalidMessage as error:
            raise StorageError(f"{path}: a stored entry does not decode: {error}") from error


def _describe(name: ChainId, height: int, state: State, settled: int) -> ShardStatus:
    shard = state.get(SHARD, SHARD_KEY)
    round_: Round | None = None
    if shard is not None:
        round_ = state.get(ROUNDS, round_key(shard.last_round))
    return ShardStatus(
        shard=name,
        height=height,
        devices=state.count(DEVICES),
        round=0 if round_ is None else round_.number,
        phase="waiting" if round_ is None else str(round_.phase),
        updates=0 if round_ is None else round_.num_updates,
        accepted=0 if round_ is None else round_.num_accepted,
        checkpoints=0 if shard is None else shard.checkpoints,
        settled=settled,
        epoch=0 if shard is None else shard.merged,
        is_finished=shard is not None and shard.is_finished,
        model="" if shard is None else shard.model.hex(),
    )
