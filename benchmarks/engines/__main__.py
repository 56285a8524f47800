"""Update commits finalized a second, and how long one takes from arrival to finality.

    PYTHONPATH=. python -m benchmarks.engines [--engine cometbft] [--validators 4] [--batch 1000]

A gateway puts the updates that it took in on the shard's ledger in batches. Each batch is handed to
one validator and is finalized before the next one comes; a batch of 5,000 travels as five
transactions. All validators run on this machine: under `embedded` in one process, under `cometbft`
in a process each, with a node each. The time to finality is the same for all updates of a batch.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from headwater_protocol.chain.committee import MAX_DELEGATES
from headwater_protocol.chain.genesis import encode_genesis
from headwater_protocol.chain.round import RoundPhase
from headwater_protocol.chain.transaction import MAX_BATCH_COMMITS, CommitUpdates
from headwater_protocol.crypto.signing import DirectVerifier, SecretKey
from headwater_protocol.identifiers import ChainId
from headwater_protocol.reasons import ReasonCode
from headwater_shard.application import LedgerApplication
from headwater_shard.engine.bft.effects import Finalized
from headwater_shard.engine.cometbft.shell.home import CometTimeouts
from headwater_shard.engine.embedded import EmbeddedEngine, ReplicaSetup
from headwater_shard.layout import DataFolder
from headwater_shard.store import LedgerStore
from tests.support.comet import CometChain, make_peers, now_ms, restored, sign
from tests.support.network import Cast, Chain, key, make_cast, make_task

SHARD = ChainId("shard-0")
BATCHES = {100: 20, 1_000: 4, 5_000: 2}
"""Batches of each size in one run."""


TIMEOUTS = CometTimeouts(commit_ms=50)
"""The defaults, but for the wait for late precommits, which a quick network need not take."""


class Embedded:
    """All validators in this process."""

    def __init__(self, cast: Cast, folder: Path) -> None:
        data = DataFolder(folder)
        data.chain(SHARD).mkdir(parents=True)
        self.store = LedgerStore.open(
            data.ledger(SHARD),
            network=cast.network,
            chain=SHARD,
            genesis=encode_genesis(cast.genesis),
        )
        apps = [restored(cast, SHARD, self.store) for _ in cast.all_validators]
        self.app = apps[0]
        self.engine = EmbeddedEngine(
            replicas=[
                ReplicaSetup(key=entry, application=app)
                for entry, app in zip(cast.all_validators, apps, strict=True)
            ],
            verifier=DirectVerifier(),
            write=self.store.write,
            clock_drift_ms=cast.genesis.parameters.clock_drift_ms,
            history=self.store,
        )

    def finalize(self, *transactions: bytes) -> None:
        missing = set(transactions)
        for transaction in transactions:
            reason = self.engine.mempool.add(transaction, self.engine.application.check_tx)
            assert reason is ReasonCode.OK, reason
        while missing:
            self.engine.on_timer(now_ms())
            for effect in self.engine.effects():
                assert isinstance(effect, Finalized)
                missing -= set(effect.block.transactions)

    def wait_for(self, what: Callable[[], bool]) -> None:
        while not what():
            self.engine.on_timer(now_ms())
            list(self.engine.effects())
            time.sleep(0.01)

    def close(self) -> None:
        self.store.close()


class OnComet:
    """The first validator's engine in this process, each other in one of its own."""

    def __init__(self, cast: Cast, folder: Path) -> None:
        first, *self.others = make_peers(cast, folder, cast.all_validators, chain=SHARD)
        self.chain = CometChain(
            cast=cast,
            folder=first.folder,
            key=first.key,
            chain=SHARD,
            p2p_port=first.p2p_port,
            peers=first.peers,
            timeouts=TIMEOUTS,
        )
        for peer in self.others:
            peer.timeouts = TIMEOUTS
            peer.start()
        self.chain.start()

    @property
    def app(self) -> LedgerApplication:
        return self.chain.app

    def finalize(self, *transactions: bytes) -> None:
        missing = set(transactions)
        for transaction in transactions:
            self.chain.submit(transaction)

        def is_done() -> bool:
            for settled in self.chain.settled:
                missing.difference_update(settled.final.block.transactions)
            self.chain.settled.clear()
            return not missing

        self.chain.wait_for(is_done, timeout_s=600)

    def wait_for(self, what: Callable[[], bool]) -> None:
        self.chain.wait_for(what, timeout_s=600)

    def close(self) -> None:
        self.chain.close()
        for peer in self.others:
            peer.stop()


ENGINES: dict[str, type[Embedded] | type[OnComet]] = {"embedded": Embedded, "cometbft": OnComet}


def measure(name: str, *, validators: int, batch: int, folder: Path) -> str:
    count = BATCHES[batch]
    day_ms = 86_400_000
    cast = make_cast(
        validators_per_shard=validators,
        task=make_task(
            min_updates=batch * count,
            cohort_size=batch * count,
            max_examples=10,
            collect_ms=day_ms,
            score_ms=day_ms,
            attest_ms=day_ms,
        ),
    )
    engine = ENGINES[name](cast, folder)
    try:
        view = Chain(cast, SHARD, now_ms=now_ms())
        view.app = engine.app
        devices = [key(f"device {index}") for index in range(batch * count)]
        enrol = [
            sign(cast, cast.registrar, view.enrolment(device), number, chain=SHARD)
            for number, device in enumerate(devices, 1)
        ]
        for start in range(0, len(enrol), 1_000):
            engine.finalize(*enrol[start : start + 1_000])
        engine.wait_for(lambda: is_collecting(view))
        seconds = [
            finalize_batch(engine, cast, view, devices[index * batch : (index + 1) * batch], index)
            for index in range(count)
        ]
    finally:
        engine.close()
    ordered = sorted(seconds)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    return (
        f"{name:9} {validators:10} {batch:7} {batch * count / sum(seconds):11,.0f}"
        f" {statistics.median(seconds) * 1_000:9,.0f} {p95 * 1_000:9,.0f}"
    )


def finalize_batch(
    engine: Embedded | OnComet, cast: Cast, view: Chain, devices: list[SecretKey], index: int
) -> float:
    """Seconds until a batch stands."""
    commits = sorted((view.commit(device) for device in devices), key=lambda entry: entry.device)
    number = view.round.number
    transactions = []
    for part, start in enumerate(range(0, len(commits), MAX_BATCH_COMMITS)):
        body = CommitUpdates(
            round=number, commits=tuple(commits[start : start + MAX_BATCH_COMMITS])
        )
        # A transaction's place in the mempool is that of its arrival, so nonces can follow on.
        sender = cast.all_validators[part % len(cast.all_validators)]
        nonce = index * MAX_DELEGATES + part + 1
        transactions.append(sign(cast, sender, body, nonce, chain=SHARD))
    started = time.perf_counter()
    engine.finalize(*transactions)
    return time.perf_counter() - started


def is_collecting(view: Chain) -> bool:
    try:
        return view.round.phase is RoundPhase.COLLECT
    except AssertionError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=sorted(ENGINES), action="append")
    parser.add_argument("--validators", type=int, action="append")
    parser.add_argument("--batch", type=int, choices=sorted(BATCHES), action="append")
    arguments = parser.parse_args()
    print("engine    validators   batch  commits/s  p50 (ms)  p95 (ms)", flush=True)
    for name in arguments.engine or sorted(ENGINES):
        for validators in arguments.validators or (1, 4):
            for batch in arguments.batch or sorted(BATCHES):
                with tempfile.TemporaryDirectory(prefix="headwater-engines-") as folder:
                    print(
                        measure(name, validators=validators, batch=batch, folder=Path(folder)),
                        flush=True,
                    )


if __name__ == "__main__":
    main()
