"""One engine on CometBFT as a process of its own; settings as JSON in its one argument."""

import json
import logging
import signal
import sys
import threading
from pathlib import Path

from headwater_protocol.chain.genesis import decode_genesis, encode_genesis, genesis_network
from headwater_protocol.crypto.signing import DirectVerifier, SecretKey
from headwater_protocol.identifiers import ChainId
from headwater_shard.application import LedgerApplication, make_ledger
from headwater_shard.engine.cometbft.shell.engine import CometEngine
from headwater_shard.engine.cometbft.shell.home import CometTimeouts, NodeConfig, StateSync
from headwater_shard.layout import DataFolder
from headwater_shard.store import LedgerStore
from tests.support.comet import now_ms

SNAPSHOT_INTERVAL_BLOCKS = 5


def main() -> None:
    logging.basicConfig(level=logging.INFO)
    settings = json.loads(sys.argv[1])
    stop = threading.Event()
    wake = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: (stop.set(), wake.set()))
    data = DataFolder(Path(settings["folder"]))
    genesis = decode_genesis(data.genesis.read_bytes())
    chain = ChainId(settings["chain"])
    store = LedgerStore.open(
        data.ledger(chain),
        network=genesis_network(genesis),
        chain=chain,
        genesis=encode_genesis(genesis),
    )
    application = LedgerApplication(make_ledger(genesis, chain), DirectVerifier())
    tip = store.load_tip()
    if tip is not None:
        header = tip.block.header
        application.restore(
            height=header.height,
            time_ms=header.time_ms,
            state_root=header.state_root,
            entries=store.load_entries(),
        )
    sync = settings["state_sync"]
    engine = CometEngine(
        genesis=genesis,
        chain=chain,
        key=SecretKey(bytes.fromhex(settings["seed"])),
        verifier=DirectVerifier(),
        application=application,
        store=store,
        tip=tip,
        config=NodeConfig(
            home=data.path / "node",
            p2p_address=f"tcp://127.0.0.1:{settings['p2p_port']}",
            rpc_address=f"tcp://127.0.0.1:{settings['rpc_port']}",
            persistent_peers=tuple(settings["peers"]),
            timeouts=CometTimeouts(**settings["timeouts"]),
            state_sync=None
            if sync is None
            else StateSync(
                rpc_servers=tuple(sync["rpc_servers"]),
                trust_height=sync["trust_height"],
                trust_hash=sync["trust_hash"],
            ),
        ),
        now_ms=now_ms,
        on_wake=wake.set,
        snapshot_interval_blocks=SNAPSHOT_INTERVAL_BLOCKS,
    )
    engine.start()
    try:
        while not stop.is_set():
            engine.on_timer(now_ms())
            engine.take_settled()
            engine.take_evidence()
            timer_ms = engine.next_timer()
            wake.wait(None if timer_ms is None else max(0.01, (timer_ms - now_ms()) / 1_000))
            wake.clear()
    finally:
        engine.close()
        store.close()


if __name__ == "__main__":
    main()
