"""One chain on CometBFT in this process: replica, ABCI server, signer and the child, on a thread.

Everything that happens to the replica happens on the thread's event loop. The owner submits
transactions and takes what has settled from a thread of its own; between the two are a queue and
references to states that never change.
"""

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final

from headwater_protocol.chain.comet_vote import comet_chain_id
from headwater_protocol.chain.evidence import CometEquivocation
from headwater_protocol.chain.genesis import Genesis
from headwater_protocol.crypto.signing import SecretKey, Verifier
from headwater_protocol.errors import HeadwaterError, StorageError, TransportError
from headwater_protocol.identifiers import ChainId, Height, ValidatorId
from headwater_protocol.reasons import ReasonCode
from headwater_shard.application import LedgerApplication
from headwater_shard.engine.bft.history import FinalizedBlock, Tip
from headwater_shard.engine.cometbft.desk import SnapshotDesk
from headwater_shard.engine.cometbft.dispatch import answer
from headwater_shard.engine.cometbft.preamble import encode_tick
from headwater_shard.engine.cometbft.replica import Replica, Settled
from headwater_shard.engine.cometbft.shell.chunks import ChunkFolder
from headwater_shard.engine.cometbft.shell.home import NodeConfig, write_home
from headwater_shard.engine.cometbft.shell.misbehaviour import parse_evidence
from headwater_shard.engine.cometbft.shell.node import NodeProcess, find_binary
from headwater_shard.engine.cometbft.shell.rpc import CometRpc, NodeStatus
from headwater_shard.engine.cometbft.shell.server import AbciServer
from headwater_shard.engine.cometbft.shell.signing import SignedFile, serve_signatures
from headwater_shard.engine.cometbft.signer import CometSigner
from headwater_shard.engine.cometbft.snapshots import Ledger, is_suited, list_committees
from headwater_shard.store import LedgerStore

logger = logging.getLogger(__name__)

TICK_RETRY_MS: Final = 500
"""Between ticks for one timer, while the block that it asks for does not come."""

MAX_OPEN_REPORTS: Final = 64
"""Heights whose double signers are still to be read from the node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CometStatus:
    """How a chain on CometBFT is doing."""

    pid: int | None
    """Of the child; None while there is none."""
    num_restarts: int
    num_connections: int
    """Of the node to the application; four while it runs."""
    decided: Height
    """The last block that CometBFT decided."""
    refused: dict[str, int]
    """Why proposals and vote extensions were refused."""


class CometEngine:
    """Orders and finalizes the transactions of one chain, with CometBFT."""

    def __init__(
        self,
        *,
        genesis: Genesis,
        chain: ChainId,
        key: SecretKey,
        verifier: Verifier,
        application: LedgerApplication,
        store: LedgerStore,
        tip: Tip | None,
        config: NodeConfig,
        now_ms: Callable[[], int],
        on_wake: Callable[[], None] = lambda: None,
        snapshot_interval_blocks: int = 0,
    ) -> None:
        """Write the node's files; `start` runs it.

        Args:
            genesis: The network's.
            chain: Which one.
            key: The validator's; one that is not elected follows.
            verifier: Checks signatures.
            application: The ledger, at genesis or at `tip`.
            store: Of the chain, open for writing.
            tip: The last stored block; None at genesis.
            config: Of the node.
            now_ms: The clock.
            on_wake: Called on the engine's thread when there is something to take.
            snapshot_interval_blocks: Blocks between snapshots for new nodes; 0 makes none.

        Raises:
            ConfigError: If CometBFT is not installed, or its folder cannot be written.
            StorageError: If what the validator signed cannot be read.
        """
        self._binary = find_binary(config.binary)
        self._config = config
        self.node_id = write_home(config, genesis, chain)
        self._genesis = genesis
        self._chain = chain
        self._store = store
        self._verifier = verifier
        self._now_ms = now_ms
        self._on_wake = on_wake
        self._snapshot_interval = snapshot_interval_blocks
        self._last_snapshot = 0
        self._settled: deque[Settled] = deque()
        self._reports: deque[Height] = deque(maxlen=MAX_OPEN_REPORTS)
        self._fatal: HeadwaterError | None = None
        self._rpc = CometRpc(config.rpc_endpoint)
        self._next_tick_ms = 0
        self._ticked: tuple[int, int] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._is_running = threading.Event()
        self.application = application
        signed = SignedFile(config.signed_file)
        self._signer = CometSigner(
            key=key,
            network=application.network,
            chain=chain,
            last=signed.load(),
            save=signed.save,
            signs_without_memory=config.signs_without_memory,
        )
        self.replica = Replica(
            application=application,
            genesis=genesis,
            key=key,
            verifier=verifier,
            store=store,
            tip=tip,
            now_ms=now_ms,
            view_at=self._signer.view_at,
            on_settled=self._note_settled,
            on_misbehaviour=self._reports.append,
            on_stuck=on_wake,
        )
        self._chunks = ChunkFolder(config.home / "snapshots")
        self._desk = SnapshotDesk(
            application=application,
            verifier=verifier,
            chunks=self._chunks,
            install=self._install,
        )
        self._server = AbciServer(partial(answer, self.replica, self._desk), on_fatal=self._fail)
        self._node = NodeProcess(
            binary=self._binary,
            home=config.home,
            log_file=config.log_file,
            sockets=(config.signer_socket, config.rpc_socket),
            on_exit=lambda code: self._on_wake(),
        )

    @property
    def comet_chain_id(self) -> str:
        """The chain's name in CometBFT."""
        return comet_chain_id(self.application.network, self._chain)

    @property
    def status(self) -> CometStatus:
        """How it is doing."""
        return CometStatus(
            pid=self._node.pid,
            num_restarts=self._node.num_restarts,
            num_connections=self._server.num_connections,
            decided=self.application.height,
            refused=dict(self.replica.refused),
        )

    def node_status(self) -> NodeStatus:
        """What the node says of itself.

        Raises:
            TransportError: If it cannot be reached.
        """
        return self._rpc.status()

    def start(self) -> None:
        """Run the node; returns as soon as its thread runs."""
        self._thread = threading.Thread(
            target=self._run, name=f"cometbft-{self._chain}", daemon=True
        )
        self._thread.start()
        self._is_running.wait()

    def close(self) -> None:
        """Stop the node and the thread; the store stays open."""
        if self._thread is None:
            return
        loop, stop = self._loop, self._stop
        if loop is not None and stop is not None:
            with contextlib.suppress(RuntimeError):  # The loop may have ended already.
                loop.call_soon_threadsafe(stop.set)
        self._thread.join()
        self._thread = None
        self._rpc.close()

    # For the owner's thread.

    def submit(self, transaction: bytes) -> ReasonCode:
        """Queue a transaction; `OK` where it waits for a block, `BUSY` where the node is not up."""
        try:
            return self._rpc.submit(transaction)
        except TransportError as error:
            logger.debug("%s: %s", self._chain, error)
            return ReasonCode.BUSY

    def take_settled(self) -> list[Settled]:
        """The blocks that settled since the last call, in order.

        Raises:
            HeadwaterError: What stopped the replica for good.
        """
        if self._fatal is not None:
            raise self._fatal
        settled: list[Settled] = []
        while self._settled:
            settled.append(self._settled.popleft())
        return settled

    def take_evidence(self) -> list[CometEquivocation]:
        """The double votes that blocks named since the last call."""
        found: list[CometEquivocation] = []
        while self._reports:
            height = self._reports[0]
            try:
                block = self._rpc.call("block", height=str(height))
            except TransportError as error:
                logger.debug("%s: %s", self._chain, error)
                break
            self._reports.popleft()
            found.extend(
                parse_evidence(
                    block,
                    network=self.application.network,
                    chain=self._chain,
                    validators=self._known_validators(),
                    verifier=self._verifier,
                )
            )
        return found

    def next_timer(self) -> int | None:
        """When `on_timer` is due, in ms; None means never."""
        if self._reports or self.replica.late_vote() is not None:
            return self._now_ms() + TICK_RETRY_MS
        timer_ms = self.application.next_timer()
        return None if timer_ms is None else max(timer_ms, self._next_tick_ms)

    def on_timer(self, now_ms: int) -> None:
        """Ask for a block if the ledger's timer is due, send a vote that is missing."""
        late_vote = self.replica.late_vote()
        if late_vote is not None:
            self.submit(late_vote)
        timer_ms = self.application.next_timer()
        if timer_ms is None or timer_ms > now_ms:
            return
        wanted = (self.application.height + 1, timer_ms)
        if wanted == self._ticked and now_ms < self._next_tick_ms:
            return
        self._ticked, self._next_tick_ms = wanted, now_ms + TICK_RETRY_MS
        self.submit(encode_tick(height=wanted[0], timer_ms=timer_ms))

    # On the engine's thread.

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except* HeadwaterError as group:
            error = group.exceptions[0]
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            if isinstance(error, HeadwaterError):
                self._fail(error)
        except* OSError as group:
            self._fail(StorageError(f"{self._config.home}: {group.exceptions[0]}"))
        finally:
            self._is_running.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._is_running.set()
        await self._server.listen(self._config.abci_socket)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(
                        serve_signatures(
                            self._signer, self._config.signer_socket, on_fatal=self._fail
                        )
                    ),
                    group.create_task(self._node.run()),
                ]
                await self._stop.wait()
                # The node first: it would call the loss of its signer an error.
                for task in reversed(tasks):
                    task.cancel()
                    await asyncio.wait([task])
        finally:
            await self._server.close()

    def _fail(self, error: HeadwaterError) -> None:
        if self._fatal is None:
            self._fatal = error
        if self._stop is not None:
            self._stop.set()
        self._on_wake()

    def _note_settled(self, settled: Settled) -> None:
        self._settled.append(settled)
        self._on_wake()
        height = settled.final.block.header.height
        due = self._last_snapshot + self._snapshot_interval
        if self._snapshot_interval and height >= due and is_suited(settled.final.block):
            self._last_snapshot = height
            if self._loop is not None:
                self._loop.run_in_executor(None, self._build_snapshot, settled)

    def _build_snapshot(self, settled: Settled) -> None:
        height = settled.final.block.header.height
        try:
            with LedgerStore.open_read_only(self._store.path) as store:
                blocks = (
                    final.block
                    for final in store.iter_blocks(Height(1))
                    if final.block.header.height <= height
                )
                self._chunks.build(
                    network=self.application.network,
                    chain=self._chain,
                    state=settled.state,
                    blocks=blocks,
                    height=height,
                    certificate=settled.final.certificate,
                )
        except StorageError as error:
            logger.warning("%s: no snapshot of block %d: %s", self._chain, height, error)

    def _install(self, ledger: Ledger, blocks: Iterable[FinalizedBlock]) -> None:
        entries = list(ledger.state.encoded_entries())
        self._store.install(blocks, entries, ledger.tip.rotation)
        header = ledger.tip.block.header
        self.application.restore(
            height=header.height,
            time_ms=header.time_ms,
            state_root=header.state_root,
            entries=entries,
        )
        self.replica.restart(ledger.tip)
        logger.info("%s: starts from the snapshot of block %d", self._chain, header.height)
        self._on_wake()

    def _known_validators(self) -> list[ValidatorId]:
        committees = list_committees(
            self.application.state, self._chain, self._genesis.committee(self._chain)
        )
        return sorted(
            {entry.validator for committee in committees.values() for entry in committee.delegates}
        )
