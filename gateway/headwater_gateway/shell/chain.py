"""One chain in this process: its engine and its store, on a thread of their own.

The engine writes to disk within its calls, so it must not run on the event loop. Everything that
happens to a chain happens on its thread, in order; what comes out is told on the loop.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from headwater_gateway.machine.effects import Submit
from headwater_gateway.machine.publisher import FinalizedTip
from headwater_gateway.shell.epochs import EpochArchive
from headwater_protocol.chain.evidence import CometEquivocation, Equivocation
from headwater_protocol.chain.genesis import Genesis, encode_genesis, genesis_network
from headwater_protocol.crypto.signing import SecretKey, Verifier
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId, Height
from headwater_protocol.light.update import EpochUpdate
from headwater_protocol.reasons import ReasonCode
from headwater_shard.application import LedgerApplication, make_ledger
from headwater_shard.engine.bft.effects import Finalized
from headwater_shard.engine.bft.history import Tip
from headwater_shard.engine.border import Execution
from headwater_shard.engine.embedded import EmbeddedEngine, ReplicaSetup
from headwater_shard.engine.execution_cache import ExecutionCache
from headwater_shard.layout import EPOCHS_NAME
from headwater_shard.mainchain.records import MAIN, MAIN_KEY
from headwater_shard.mainchain.staking.handover import is_handover, make_epoch_update
from headwater_shard.state.draft import Draft
from headwater_shard.state.state import State
from headwater_shard.store import LedgerStore

logger = logging.getLogger(__name__)

MAX_QUEUED_SUBMISSIONS: int = 20_000
"""Transactions between the machine and the engine; more are answered `busy`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What a step of the engine led to."""

    reasons: tuple[tuple[Submit, ReasonCode], ...]
    tip: FinalizedTip | None
    """The last block finalized in the step, with the state after it."""
    num_finalized: int
    transactions: tuple[bytes, ...]
    """Of all blocks finalized in the step, in order."""
    equivocations: tuple[Equivocation | CometEquivocation, ...]
    """Validators that were seen to sign twice."""
    updates: tuple[EpochUpdate, ...]
    """Of the main chain, the proofs of epochs that began in the step."""
    next_timer_ms: int | None


class Host(Protocol):
    """A chain as the shell drives it, whatever engine runs it."""

    @property
    def chain(self) -> ChainId:
        """Which one."""
        ...

    @property
    def updates(self) -> tuple[EpochUpdate, ...]:
        """Of the main chain, the proofs of all epochs when it was opened."""
        ...

    @property
    def height(self) -> Height:
        """The last finalized block; 0 before the first."""
        ...

    @property
    def state(self) -> State:
        """The state after it."""
        ...

    @property
    def tip(self) -> FinalizedTip | None:
        """The last block with the state after it; None before the first."""
        ...

    def listen(self, wake: Callable[[], None]) -> None:
        """Name what to call, from any thread, when a step would bring something."""
        ...

    def step(self, submissions: Sequence[Submit], now_ms: int) -> StepResult:
        """Take transactions, do what is due, tell what came of it."""
        ...

    def close(self) -> None:
        """Stop, and close the store."""
        ...


class ChainHost:
    """The engine, replicas and store of one chain; not for more than one thread at a time."""

    def __init__(
        self,
        *,
        genesis: Genesis,
        chain: ChainId,
        keys: Sequence[SecretKey],
        path: Path,
        verifier: Verifier,
    ) -> None:
        """Open the chain's store and go on from its tip.

        Args:
            genesis: The network's.
            chain: Which one.
            keys: Of all validators that may ever serve it: those out of office follow it.
            path: Of the store; the main chain keeps the proofs of epochs beside it.
            verifier: Checks signatures.

        Raises:
            StorageError: If the store is unusable or of another network.
        """
        self.chain = chain
        self.updates: tuple[EpochUpdate, ...] = ()
        """Of the main chain, the proofs of all epochs when it was opened."""
        self._epochs = EpochArchive(path.parent / EPOCHS_NAME) if chain == MAIN_CHAIN else None
        self._store = LedgerStore.open(
            path,
            network=genesis_network(genesis),
            chain=chain,
            genesis=encode_genesis(genesis),
        )
        try:
            self._restore(genesis, keys, verifier)
            if self._epochs is not None:
                main = Draft(self.state).get_existing(MAIN, MAIN_KEY)
                self.updates = self._epochs.load(
                    main.epoch, genesis=genesis, store=self._store, verifier=verifier
                )
        except BaseException:
            self._store.close()
            raise

    def _restore(self, genesis: Genesis, keys: Sequence[SecretKey], verifier: Verifier) -> None:
        chain = self.chain
        tip = self._store.load_tip()
        saved = self._store.load_votes()
        entries = [] if tip is None else list(self._store.load_entries())
        ledger = make_ledger(genesis, chain)
        cache: ExecutionCache[tuple[State, Execution]] = ExecutionCache()
        self._replicas: list[LedgerApplication] = []
        setups: list[ReplicaSetup] = []
        for key in keys:
            application = LedgerApplication(ledger, verifier, cache=cache)
            if self._replicas:
                application.restore_from(self._replicas[0])
            elif tip is not None:
                header = tip.block.header
                application.restore(
                    height=header.height,
                    time_ms=header.time_ms,
                    state_root=header.state_root,
                    entries=entries,
                )
            self._replicas.append(application)
            setups.append(
                ReplicaSetup(key=key, application=application, saved=saved.get(key.validator))
            )
        self._engine = EmbeddedEngine(
            replicas=setups,
            verifier=verifier,
            write=self._store.write,
            clock_drift_ms=genesis.parameters.clock_drift_ms,
            history=self._store,
            tip=tip,
        )
        self._last: Tip | Finalized | None = tip

    @property
    def height(self) -> Height:
        """The last finalized block; 0 before the first."""
        return self._engine.height

    @property
    def state(self) -> State:
        """The committed state of the replica that is furthest."""
        return max(self._replicas, key=lambda replica: replica.height).state

    @property
    def tip(self) -> FinalizedTip | None:
        """The last block with the state after it; None before the first."""
        if self._last is None:
            return None
        return FinalizedTip(
            block=self._last.block, certificate=self._last.certificate, state=self.state
        )

    def listen(self, wake: Callable[[], None]) -> None:
        """Nothing happens here but in a step, so nobody is ever woken."""

    def step(self, submissions: Sequence[Submit], now_ms: int) -> StepResult:
        """Queue transactions, then do what is due.

        Raises:
            StorageError: If the store is unusable.
            ReplicaHalted: If a replica disagrees with what was certified.
        """
        reasons = tuple(
            (
                submit,
                self._engine.mempool.add(submit.transaction, self._engine.application.check_tx),
            )
            for submit in submissions
        )
        self._engine.on_timer(now_ms)
        num_finalized = 0
        transactions: list[bytes] = []
        equivocations: list[Equivocation] = []
        updates: list[EpochUpdate] = []
        for effect in self._engine.effects():
            if isinstance(effect, Finalized):
                num_finalized += 1
                self._last = effect
                transactions.extend(effect.block.transactions)
                updates.extend(self._archive(effect))
            elif effect.equivocation not in equivocations:
                # Every replica of this process sees the same pair.
                equivocations.append(effect.equivocation)
                validator = effect.equivocation.validator.hex()[:16]
                height = effect.equivocation.height
                logger.warning("%s: %s signed twice at height %d", self.chain, validator, height)
        return StepResult(
            reasons=reasons,
            tip=self.tip if num_finalized else None,
            num_finalized=num_finalized,
            transactions=tuple(transactions),
            equivocations=tuple(equivocations),
            updates=tuple(updates),
            next_timer_ms=self._engine.next_timer(),
        )

    def _archive(self, final: Finalized) -> Iterator[EpochUpdate]:
        """The proof of the epoch that a block of the main chain begins, once it is on disk."""
        if self._epochs is None:
            return
        furthest = max(self._replicas, key=lambda replica: replica.height)
        state = furthest.state_at(final.block.header.height)
        if state is None:
            return
        update = make_epoch_update(state, final.block.header, final.certificate)
        if update is not None and is_handover(update):
            self._epochs.put(update)
            yield update

    def close(self) -> None:
        """Close the store."""
        self._store.close()


class ChainRunner:
    """Drives a chain from the event loop."""

    def __init__(
        self,
        host: Host,
        *,
        on_step: Callable[[StepResult], None],
        now_ms: Callable[[], int],
    ) -> None:
        self._host = host
        self._on_step = on_step
        self._now_ms = now_ms
        self._queue: list[Submit] = []
        self._wake = asyncio.Event()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"chain-{host.chain}")

    @property
    def host(self) -> Host:
        """The chain."""
        return self._host

    def submit(self, submit: Submit) -> bool:
        """Queue a transaction for the next step; whether there was room."""
        if len(self._queue) >= MAX_QUEUED_SUBMISSIONS:
            return False
        self._queue.append(submit)
        self._wake.set()
        return True

    async def run(self) -> None:
        """Step whenever there is something to do, until cancelled.

        Raises:
            StorageError: If the store is unusable.
            ReplicaHalted: If a replica disagrees with what was certified.
        """
        loop = asyncio.get_running_loop()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # The loop may have ended by then.
                loop.call_soon_threadsafe(self._wake.set)

        self._host.listen(wake)
        try:
            while True:
                submissions, self._queue = self._queue, []
                self._wake.clear()
                now_ms = self._now_ms()
                result = await loop.run_in_executor(
                    self._executor, self._host.step, submissions, now_ms
                )
                self._on_step(result)
                await self._wait(result.next_timer_ms)
        finally:
            await loop.run_in_executor(self._executor, self._host.close)
            self._executor.shutdown()

    async def _wait(self, timer_ms: int | None) -> None:
        if self._queue or self._wake.is_set():
            return
        timeout_s = None if timer_ms is None else max(0, timer_ms - self._now_ms()) / 1_000
        try:
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        except TimeoutError:
            return
