"""One way to run transactions on either engine, for tests that hold on both."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from headwater_protocol.chain.genesis import encode_genesis
from headwater_protocol.crypto.signing import DirectVerifier
from headwater_protocol.identifiers import ChainId, Height
from headwater_protocol.reasons import ReasonCode
from headwater_shard.application import LedgerApplication
from headwater_shard.audit.replay import ChainReplay
from headwater_shard.engine.bft.effects import Finalized
from headwater_shard.engine.embedded import EmbeddedEngine, ReplicaSetup
from headwater_shard.layout import DataFolder
from headwater_shard.state.state import State
from headwater_shard.store import LedgerStore
from tests.support.comet import CometChain, now_ms, restored
from tests.support.network import Cast


class Runner(Protocol):
    """A chain with one validator on some engine."""

    @property
    def app(self) -> LedgerApplication: ...

    @property
    def outcomes(self) -> dict[bytes, ReasonCode]: ...

    def run(self, *transactions: bytes) -> None:
        """Finalize transactions, all of which the mempool takes."""
        ...

    def refuse(self, transaction: bytes) -> ReasonCode:
        """Why the mempool does not take one."""
        ...

    def wait_for(self, what: Callable[[], bool]) -> None:
        """Let time pass until something holds."""
        ...

    def close(self) -> None: ...


@dataclass
class EmbeddedRunner:
    """The embedded engine; time passes when a test waits."""

    cast: Cast
    folder: Path
    chain: ChainId
    outcomes: dict[bytes, ReasonCode] = field(default_factory=dict)

    def __post_init__(self) -> None:
        data = DataFolder(self.folder)
        data.chain(self.chain).mkdir(parents=True)
        self.now_ms = now_ms()
        self.store = LedgerStore.open(
            data.ledger(self.chain),
            network=self.cast.network,
            chain=self.chain,
            genesis=encode_genesis(self.cast.genesis),
        )
        self.app = restored(self.cast, self.chain, self.store)
        self.engine = EmbeddedEngine(
            replicas=[ReplicaSetup(key=self.cast.all_validators[0], application=self.app)],
            verifier=DirectVerifier(),
            write=self.store.write,
            clock_drift_ms=self.cast.genesis.parameters.clock_drift_ms,
            history=self.store,
        )

    def run(self, *transactions: bytes) -> None:
        for transaction in transactions:
            assert self.refuse(transaction) is ReasonCode.OK
        self.wait_for(lambda: set(transactions) <= set(self.outcomes))

    def refuse(self, transaction: bytes) -> ReasonCode:
        reason = self.engine.submit(transaction, self.now_ms)
        self.take()
        return reason

    def wait_for(self, what: Callable[[], bool]) -> None:
        for _ in range(10_000):
            self.engine.on_timer(self.now_ms)
            self.take()
            if what():
                return
            self.now_ms += 10
        raise AssertionError("it never holds")

    def take(self) -> None:
        for effect in self.engine.effects():
            assert isinstance(effect, Finalized)
            note(self.outcomes, effect)

    def close(self) -> None:
        self.store.close()


@dataclass
class CometRunner:
    """A real node of CometBFT."""

    cast: Cast
    folder: Path
    chain: ChainId

    def __post_init__(self) -> None:
        self.comet = CometChain(
            cast=self.cast,
            folder=self.folder,
            key=self.cast.all_validators[0],
            chain=self.chain,
        )
        self.comet.start()

    @property
    def app(self) -> LedgerApplication:
        return self.comet.app

    @property
    def outcomes(self) -> dict[bytes, ReasonCode]:
        found: dict[bytes, ReasonCode] = {}
        for settled in self.comet.settled:
            note(found, settled.final)
        return found

    def run(self, *transactions: bytes) -> None:
        # A mempool judges each by what is committed, and these build on each other.
        for transaction in transactions:
            self.comet.finalize(transaction)

    def refuse(self, transaction: bytes) -> ReasonCode:
        return self.comet.wait_for(
            lambda: (
                None
                if (reason := self.comet.engine.submit(transaction)) is ReasonCode.BUSY
                else reason
            )
        )

    def wait_for(self, what: Callable[[], bool]) -> None:
        self.comet.wait_for(what)

    def close(self) -> None:
        self.comet.close()


def note(outcomes: dict[bytes, ReasonCode], final: Finalized) -> None:
    for transaction, outcome in zip(
        final.block.transactions, final.execution.outcomes, strict=True
    ):
        outcomes[transaction] = outcome.reason


RUNNERS: dict[str, type[EmbeddedRunner] | type[CometRunner]] = {
    "embedded": EmbeddedRunner,
    "cometbft": CometRunner,
}


def replay(cast: Cast, chain: ChainId, folder: Path) -> State:
    """What an auditor computes from the blocks on disk, having checked every one."""
    follower = ChainReplay(genesis=cast.genesis, chain=chain, verifier=DirectVerifier())
    with LedgerStore.open_read_only(DataFolder(folder).ledger(chain)) as store:
        for final in store.iter_blocks(Height(1)):
            follower.follow(final)
        entries = sorted(store.load_entries())
        assert entries == sorted(follower.state.encoded_entries())
    return follower.state


def roots(state: State, *namespaces: str) -> dict[str, bytes]:
    """The roots of some namespaces."""
    found = dict(zip(state.namespaces, state.namespace_roots, strict=True))
    return {name: bytes(found[name]) for name in namespaces}
