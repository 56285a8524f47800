"""CometBFT nodes in tests: one engine in this process, or a network of processes."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

from headwater_protocol.chain.genesis import encode_genesis
from headwater_protocol.chain.transaction import Body, Transaction, Transfer, sign_transaction
from headwater_protocol.crypto.signing import DirectVerifier, SecretKey
from headwater_protocol.errors import TransportError
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId, Nonce, Units
from headwater_protocol.reasons import ReasonCode
from headwater_shard.application import LedgerApplication, make_ledger
from headwater_shard.blobs import BlobStore
from headwater_shard.cli import main as shard_command
from headwater_shard.engine.cometbft.replica import Settled
from headwater_shard.engine.cometbft.shell.engine import CometEngine
from headwater_shard.engine.cometbft.shell.home import (
    CometTimeouts,
    NodeConfig,
    StateSync,
    ensure_node_key,
)
from headwater_shard.engine.cometbft.shell.rpc import CometRpc
from headwater_shard.layout import DataFolder
from headwater_shard.store import LedgerStore
from tests.shard.audit.builders import PROGRAM, initial_model
from tests.support.network import Cast, key

FAST = CometTimeouts(propose_ms=600, prevote_ms=200, precommit_ms=200, step_ms=100, commit_ms=50)
WAIT_S = 60.0

T = TypeVar("T")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for entry in sockets:
            entry.bind(("127.0.0.1", 0))
        return [entry.getsockname()[1] for entry in sockets]
    finally:
        for entry in sockets:
            entry.close()


def is_audit_ok(folder: Path, chain: ChainId = MAIN_CHAIN) -> bool:
    """Whether `headwater-shard audit` holds for one chain of a cast with `make_model_task`."""
    data = DataFolder(folder)
    with contextlib.closing(BlobStore(data.blobs)) as blobs:
        blobs.put_all([PROGRAM, initial_model()])
    return shard_command(["audit", str(folder), "--chain", chain]) == 0


def transfer(cast: Cast, nonce: int, *, amount: int = 1, sender: str = "alice") -> bytes:
    """A transfer on the main chain that a valid nonce lets through."""
    return sign(
        cast, key(sender), Transfer(recipient=key("bob").account, amount=Units(amount)), nonce
    )


def sign(
    cast: Cast, sender: SecretKey, body: Body, nonce: int, *, chain: ChainId = MAIN_CHAIN
) -> bytes:
    transaction = Transaction(
        network=cast.network,
        chain=chain,
        sender=sender.account,
        nonce=Nonce(nonce),
        body=body,
    )
    return sign_transaction(sender, transaction)


@dataclass
class CometChain:
    """One chain with one engine in this process, and what settled so far."""

    cast: Cast
    folder: Path
    key: SecretKey
    chain: ChainId = MAIN_CHAIN
    timeouts: CometTimeouts = FAST
    snapshot_interval_blocks: int = 0
    clock: Callable[[], int] = now_ms
    p2p_port: int | None = None
    peers: tuple[str, ...] = ()
    settled: list[Settled] = field(default_factory=list)

    def start(self) -> None:
        data = DataFolder(self.folder)
        data.chain(self.chain).mkdir(parents=True, exist_ok=True)
        genesis = self.cast.genesis
        data.genesis.write_bytes(encode_genesis(genesis))
        self.wake = threading.Event()
        self.store = LedgerStore.open(
            data.ledger(self.chain),
            network=self.cast.network,
            chain=self.chain,
            genesis=encode_genesis(genesis),
        )
        self.app = restored(self.cast, self.chain, self.store)
        port = self.p2p_port or free_ports(1)[0]
        self.engine = CometEngine(
            genesis=genesis,
            chain=self.chain,
            key=self.key,
            verifier=DirectVerifier(),
            application=self.app,
            store=self.store,
            tip=self.store.load_tip(),
            config=NodeConfig(
                home=self.folder / "node",
                p2p_address=f"tcp://127.0.0.1:{port}",
                persistent_peers=self.peers,
                timeouts=self.timeouts,
            ),
            now_ms=self.clock,
            on_wake=self.wake.set,
            snapshot_interval_blocks=self.snapshot_interval_blocks,
        )
        self.engine.start()

    def close(self) -> None:
        self.engine.close()
        self.store.close()

    def take(self) -> None:
        self.engine.on_timer(self.clock())
        self.settled += self.engine.take_settled()

    def wait_for(self, what: Callable[[], T | None], *, timeout_s: float = WAIT_S) -> T:
        """What `what` gives, once it gives something true; woken by each settled block."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            self.take()
            result = what()
            if result:
                return result
            self.wake.wait(0.05)
            self.wake.clear()
        raise AssertionError(f"not in {timeout_s} s; {self.engine.status}")

    def submit(self, transaction: bytes) -> None:
        """Queue a transaction, as soon as the node takes one."""
        reasons: list[ReasonCode] = []

        def is_taken() -> bool:
            reasons.append(self.engine.submit(transaction))
            return reasons[-1] is not ReasonCode.BUSY

        self.wait_for(is_taken)
        assert reasons[-1] is ReasonCode.OK, reasons[-1]

    def finalize(self, *transactions: bytes) -> None:
        """Queue transactions and wait until all of them stand."""
        for transaction in transactions:
            self.submit(transaction)
        self.wait_for(lambda: set(transactions) <= set(self.transactions))

    @property
    def transactions(self) -> list[bytes]:
        return [entry for settled in self.settled for entry in settled.final.block.transactions]

    def rest(self, *, for_s: float = 1.0) -> int:
        """The height at which the chain stays for a while."""
        height, since = self.app.height, time.monotonic()
        while time.monotonic() - since < for_s:
            self.take()
            self.wake.wait(0.05)
            self.wake.clear()
            if self.app.height != height:
                height, since = self.app.height, time.monotonic()
        return height


def restored(cast: Cast, chain: ChainId, store: LedgerStore) -> LedgerApplication:
    """A ledger at its store's tip."""
    app = LedgerApplication(make_ledger(cast.genesis, chain), DirectVerifier())
    tip = store.load_tip()
    if tip is not None:
        header = tip.block.header
        app.restore(
            height=header.height,
            time_ms=header.time_ms,
            state_root=header.state_root,
            entries=store.load_entries(),
        )
    return app


@dataclass
class CometPeer:
    """One validator of a network: a process with an engine, and the node that it started."""

    cast: Cast
    folder: Path
    key: SecretKey
    p2p_port: int
    rpc_port: int
    chain: ChainId = MAIN_CHAIN
    peers: tuple[str, ...] = ()
    state_sync: StateSync | None = None
    timeouts: CometTimeouts = FAST
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def home(self) -> Path:
        return self.folder / "node"

    @property
    def node_id(self) -> str:
        (self.home / "config").mkdir(parents=True, exist_ok=True)
        return ensure_node_key(self.home / "config" / "node_key.json")

    @property
    def address(self) -> str:
        return f"{self.node_id}@127.0.0.1:{self.p2p_port}"

    @property
    def rpc(self) -> CometRpc:
        return CometRpc(("127.0.0.1", self.rpc_port))

    @property
    def ledger(self) -> Path:
        return DataFolder(self.folder).ledger(self.chain)

    def start(self) -> None:
        data = DataFolder(self.folder)
        data.chain(self.chain).mkdir(parents=True, exist_ok=True)
        data.genesis.write_bytes(encode_genesis(self.cast.genesis))
        settings = {
            "folder": str(self.folder),
            "seed": self.key.seed.hex(),
            "chain": self.chain,
            "p2p_port": self.p2p_port,
            "rpc_port": self.rpc_port,
            "peers": list(self.peers),
            "timeouts": asdict(self.timeouts),
            "state_sync": None
            if self.state_sync is None
            else {
                "rpc_servers": list(self.state_sync.rpc_servers),
                "trust_height": self.state_sync.trust_height,
                "trust_hash": self.state_sync.trust_hash,
            },
        }
        with (self.folder / "process.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.comet_process", json.dumps(settings)],
                stdout=log,
                stderr=log,
                cwd=Path(__file__).parent.parent.parent,
            )

    def node_pid(self) -> int | None:
        """Of the CometBFT child."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task")
        for task in children.iterdir():
            listed = (task / "children").read_text().split()
            if listed:
                return int(listed[0])
        return None

    def kill(self) -> None:
        """Kill -9, the engine's process and its node at once."""
        assert self.process is not None
        node = self.node_pid()
        os.kill(self.process.pid, signal.SIGKILL)
        if node is not None:
            os.kill(node, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)

    def height(self) -> int:
        """The last block on its disk."""
        if not self.ledger.is_file():
            return 0
        with LedgerStore.open_read_only(self.ledger) as store:
            return store.height

    def submit(self, transaction: bytes) -> ReasonCode:
        try:
            return self.rpc.submit(transaction)
        except TransportError:
            return ReasonCode.BUSY


def make_peers(
    cast: Cast, folder: Path, keys: Sequence[SecretKey], *, chain: ChainId = MAIN_CHAIN
) -> list[CometPeer]:
    """Peers that know each other; none is started."""
    ports = free_ports(2 * len(keys))
    peers = [
        CometPeer(
            cast=cast,
            folder=folder / str(index),
            key=entry,
            p2p_port=ports[2 * index],
            rpc_port=ports[2 * index + 1],
            chain=chain,
        )
        for index, entry in enumerate(keys)
    ]
    for peer in peers:
        peer.peers = tuple(other.address for other in peers if other is not peer)
    return peers


def wait_until(what: Callable[[], T | None], *, timeout_s: float = WAIT_S) -> T:
    """What `what` gives, once it gives something true; other processes tell nobody when."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        result = what()
        if result:
            return result
        time.sleep(0.1)
    raise AssertionError(f"not in {timeout_s} s")
