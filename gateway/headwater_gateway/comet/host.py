"""One chain on CometBFT, as the gateway's shell drives a chain.

The engine works on a thread of its own and finalizes blocks whenever the network does; a step only
hands over what waits and takes what has settled. `listen` names whom to wake for that.
"""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from headwater_gateway.comet.config import CometConfig
from headwater_gateway.comet.routes import HOME_NAME
from headwater_gateway.comet.sync import SyncLines, SyncPeers, find_snapshot
from headwater_gateway.machine.effects import Submit
from headwater_gateway.machine.publisher import FinalizedTip
from headwater_gateway.shell.chain import StepResult
from headwater_gateway.shell.epochs import EpochArchive
from headwater_protocol.chain.genesis import Genesis, encode_genesis, genesis_network
from headwater_protocol.crypto.signing import SecretKey, Verifier
from headwater_protocol.errors import ConfigError
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId, Height
from headwater_protocol.light.update import EpochUpdate
from headwater_protocol.reasons import ReasonCode
from headwater_shard.application import LedgerApplication, make_ledger
from headwater_shard.engine.cometbft.shell.engine import CometEngine
from headwater_shard.engine.cometbft.shell.home import NodeConfig
from headwater_shard.layout import EPOCHS_NAME
from headwater_shard.mainchain.records import MAIN, MAIN_KEY
from headwater_shard.mainchain.staking.handover import is_handover, make_epoch_update
from headwater_shard.state.draft import Draft
from headwater_shard.state.state import State
from headwater_shard.store import LedgerStore

logger = logging.getLogger(__name__)


NO_PEERS: Final = SyncPeers(urls=())


class CometHost:
    """The node, replica and store of one chain; not for more than one thread at a time."""

    def __init__(
        self,
        *,
        genesis: Genesis,
        chain: ChainId,
        keys: Sequence[SecretKey],
        path: Path,
        verifier: Verifier,
        config: CometConfig,
        peers: SyncPeers = NO_PEERS,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """Open the chain's store, go on from its tip, and start the node.

        Args:
            genesis: The network's.
            chain: Which one.
            keys: The validator's, one.
            path: Of the store; the node's folder is beside it.
            verifier: Checks signatures.
            config: Where nodes listen, and their peers.
            peers: Gateways that may have a snapshot for a store without blocks.
            now_ms: The clock.

        Raises:
            ConfigError: If there is not one key, CometBFT is missing, or nothing says where the
                chain's node listens.
            StorageError: If the store is unusable or of another network.
        """
        if len(keys) != 1:
            raise ConfigError(
                "shards", f"name {len(keys)} keys", fix="a CometBFT node votes with one key"
            )
        node = config.node_of(chain)
        self.chain = chain
        self._genesis, self._verifier = genesis, verifier
        self.updates: tuple[EpochUpdate, ...] = ()
        """Of the main chain, the proofs of all epochs when it was opened."""
        self._epochs = EpochArchive(path.parent / EPOCHS_NAME) if chain == MAIN_CHAIN else None
        self._last: FinalizedTip | None = None
        self._lines: SyncLines | None = None
        self._store = LedgerStore.open(
            path,
            network=genesis_network(genesis),
            chain=chain,
            genesis=encode_genesis(genesis),
        )
        try:
            self._application = LedgerApplication(make_ledger(genesis, chain), verifier)
            tip = self._store.load_tip()
            if tip is not None:
                header = tip.block.header
                self._application.restore(
                    height=header.height,
                    time_ms=header.time_ms,
                    state_root=header.state_root,
                    entries=self._store.load_entries(),
                )
                self._last = FinalizedTip(
                    block=tip.block, certificate=tip.certificate, state=self._application.state
                )
            self._state = self._application.state
            if self._epochs is not None:
                main = Draft(self._state).get_existing(MAIN, MAIN_KEY)
                self.updates = self._epochs.load(
                    main.epoch, genesis=genesis, store=self._store, verifier=verifier
                )
            self._wake: Callable[[], None] = lambda: None
            home = path.parent / HOME_NAME
            if tip is None and config.uses_state_sync:
                self._lines = self._open_lines(peers, home)
            self._engine = CometEngine(
                genesis=genesis,
                chain=chain,
                key=keys[0],
                verifier=verifier,
                application=self._application,
                store=self._store,
                tip=tip,
                config=NodeConfig(
                    home=home,
                    p2p_address=node.listen,
                    persistent_peers=node.peers,
                    binary=config.binary,
                    node_key=config.node_key,
                    signs_without_memory=config.signs_without_memory,
                    state_sync=None if self._lines is None else self._lines.state_sync,
                ),
                now_ms=now_ms,
                on_wake=self._on_wake,
                snapshot_interval_blocks=config.snapshot_interval_blocks,
            )
            self._engine.start()
        except BaseException:
            self._close_lines()
            self._store.close()
            raise

    def _catch_up(self, state: State) -> Sequence[EpochUpdate]:
        """The proofs of epochs that came with a snapshot; none for a chain that began here."""
        main = Draft(state).get_existing(MAIN, MAIN_KEY)
        if self._epochs is None or main.epoch == 0:
            return ()
        return self._epochs.load(
            main.epoch, genesis=self._genesis, store=self._store, verifier=self._verifier
        )

    def _open_lines(self, peers: SyncPeers, home: Path) -> SyncLines | None:
        found = find_snapshot(peers, self.chain)
        if found is None:
            return None
        logger.info(
            "event=state_sync chain=%s height=%d peers=%d",
            self.chain,
            found.height,
            len(found.urls),
        )
        return SyncLines(peers, found, self.chain, home)

    def _close_lines(self) -> None:
        if self._lines is not None:
            self._lines.close()
            self._lines = None

    def _on_wake(self) -> None:
        self._wake()

    @property
    def engine(self) -> CometEngine:
        """What runs the node."""
        return self._engine

    @property
    def height(self) -> Height:
        """The last block taken; 0 before the first."""
        return Height(0) if self._last is None else self._last.block.header.height

    @property
    def state(self) -> State:
        """The state after the last block taken."""
        return self._state

    @property
    def tip(self) -> FinalizedTip | None:
        """The last block with the state after it; None before the first."""
        return self._last

    def listen(self, wake: Callable[[], None]) -> None:
        """Name what to call, from any thread, when a step would bring something."""
        self._wake = wake

    def step(self, submissions: Sequence[Submit], now_ms: int) -> StepResult:
        """Hand over transactions, then take what has settled.

        Raises:
            StorageError: If the store is unusable.
            InvalidMessage: If the replica disagrees with what the network decided.
        """
        reasons: list[tuple[Submit, ReasonCode]] = []
        for submit in submissions:
            # A node that is not there, or full, would keep each of the others waiting as well.
            is_busy = bool(reasons) and reasons[-1][1] is ReasonCode.BUSY
            reason = ReasonCode.BUSY if is_busy else self._engine.submit(submit.transaction)
            reasons.append((submit, reason))
        self._engine.on_timer(now_ms)
        settled = self._engine.take_settled()
        if settled:
            self._close_lines()  # The node has its snapshot, and does not ask for another.
        updates: list[EpochUpdate] = []
        if self._epochs is not None and settled and self._last is None:
            updates += self._catch_up(settled[0].state)
        for entry in settled:
            final = entry.final
            self._state = entry.state
            self._last = FinalizedTip(
                block=final.block, certificate=final.certificate, state=entry.state
            )
            update = None
            if self._epochs is not None:
                update = make_epoch_update(entry.state, final.block.header, final.certificate)
            if self._epochs is not None and update is not None and is_handover(update):
                self._epochs.put(update)
                updates.append(update)
        equivocations = self._engine.take_evidence()
        for found in equivocations:
            validator = found.validator.hex()[:16]
            logger.warning("%s: %s signed twice at height %d", self.chain, validator, found.height)
        return StepResult(
            reasons=tuple(reasons),
            tip=self._last if settled else None,
            num_finalized=len(settled),
            transactions=tuple(
                entry for taken in settled for entry in taken.final.block.transactions
            ),
            equivocations=tuple(equivocations),
            updates=tuple(updates),
            next_timer_ms=self._engine.next_timer(),
        )

    def close(self) -> None:
        """Stop the node and close the store."""
        self._engine.close()
        self._close_lines()
        self._store.close()
