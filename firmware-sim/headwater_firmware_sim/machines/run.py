"""One run of a network of processes: some rounds, then what all of them agree on."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from headwater_firmware_sim.machines.evidence import (
    find_disagreement,
    list_jailed,
    read_app_hashes,
    read_height,
    read_state,
    read_updates,
)
from headwater_firmware_sim.machines.network import ProcessNetwork
from headwater_firmware_sim.machines.network import program as find_program
from headwater_firmware_sim.machines.plan import NetworkPlan
from headwater_firmware_sim.machines.result import ChainRow, ClusterResult, RoundRow
from headwater_gateway.config import load_config
from headwater_gateway.status import GatewayStatus, read_status
from headwater_models.program import Program
from headwater_models.trainer import Trainer
from headwater_protocol.chain.genesis import genesis_network
from headwater_protocol.chain.round import RoundPhase
from headwater_protocol.errors import InvalidMessage, StorageError, TransportError
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId, Digest
from headwater_protocol.model.fixed_point import decode_model, to_float32
from headwater_shard.audit.joined_blobs import JoinedBlobs
from headwater_shard.blobs import BlobStore, MissingBlob
from headwater_shard.mainchain.records import MAIN, MAIN_KEY, SHARDS
from headwater_shard.shardchain.records import ROUNDS
from headwater_shard.store import LedgerStore

ROUND_PATIENCE_S: Final = 60.0
"""For each round; four steps of a few seconds each."""
LEVEL_S: Final = 30.0
"""For all gateways to have the same blocks once nothing happens any more."""
AUDIT_S: Final = 600.0
RESULT_NAME: Final = "result.json"


def run_cluster(plan: NetworkPlan, *, say: Callable[[str], None]) -> ClusterResult:
    """Run the network until all rounds are closed, settled and merged; write `result.json`.

    Raises:
        HeadwaterError: If it does not come that far.
    """
    started_s = time.monotonic()
    with ProcessNetwork(plan, say=say) as network:
        network.start()
        follow(network, plan.num_rounds, say=say)
        wait_level(network)
        tables = {
            chain: {
                gateway.name: read_app_hashes(network.data(index), chain)
                for index, gateway in enumerate(network.gateways)
            }
            for chain in network.chains
        }
        network.require_alive()
        engines = sum(len(gateway.children()) for gateway in network.gateways)
        network.stop()
        say("stopped; replaying the ledgers")
        result = _describe(network, tables, engines=engines, started_s=started_s)
    result.write(plan.out / RESULT_NAME)
    return result


def follow(network: ProcessNetwork, num_rounds: int, *, say: Callable[[str], None]) -> None:
    """Wait until the first gateway's ledgers are complete, telling each closed round.

    Raises:
        TransportError: If a process ended, or a round takes too long.
    """
    config = load_config(network.net / "gateway-0")
    told: dict[str, int] = {}
    moved_s = time.monotonic()
    while True:
        network.require_alive()
        try:
            status: GatewayStatus | None = read_status(config)
        except (StorageError, InvalidMessage):
            status = None  # It is being made just now.
        if status is not None:
            for shard in status.shards:
                closed = shard.round - (shard.phase != RoundPhase.CLOSED)
                if closed > told.get(shard.shard, 0):
                    told[shard.shard] = closed
                    moved_s = time.monotonic()
                    say(f"{shard.shard}: {closed} of {num_rounds} rounds closed")
            if status.is_complete:
                return
        if time.monotonic() - moved_s > ROUND_PATIENCE_S:
            raise TransportError(
                f"no round closed for {ROUND_PATIENCE_S:.0f} s; logs in {network.plan.out}"
            )
        time.sleep(0.5)


def wait_level(network: ProcessNetwork) -> None:
    """Wait until every gateway has the same last block on every chain.

    Raises:
        TransportError: If that takes too long.
    """
    for chain in network.chains:

        def is_level(chain: ChainId = chain) -> bool:
            heights = {
                read_height(network.data(index), chain) for index in range(len(network.gateways))
            }
            return len(heights) == 1 and 0 not in heights

        network.wait(is_level, what=f"equal heights of {chain}", timeout_s=LEVEL_S)


def audit(network: ProcessNetwork, folders: list[Path]) -> str:
    """Audit the first folder, with blobs of the others; `ok` or what does not hold."""
    command = [find_program("headwater-shard"), "audit", str(folders[0]), "--json"]
    for folder in folders[1:]:
        command += ["--blobs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=AUDIT_S)
    if done.returncode == 0:
        return "ok"
    try:
        failure = json.loads(done.stdout)["failure"]
    except (ValueError, KeyError):
        return done.stderr.strip() or f"exit {done.returncode}"
    return f"{failure['chain']} block {failure['height']}: {failure['item']}: {failure['problem']}"


def _describe(
    network: ProcessNetwork,
    tables: dict[ChainId, dict[str, dict[int, str]]],
    *,
    engines: int,
    started_s: float,
) -> ClusterResult:
    count = len(network.gateways)
    rows: list[ChainRow] = []
    shared: dict[str, dict[int, str]] = {}
    for chain, table in tables.items():
        heights = set.intersection(*(set(hashes) for hashes in table.values()))
        equal = {
            height: table["gateway-0"][height]
            for height in sorted(heights)
            if len({hashes[height] for hashes in table.values()}) == 1
        }
        shared[chain] = equal
        rows.append(
            ChainRow(
                chain=chain,
                height=max(heights, default=0),
                app_hashes_equal=len(equal),
                gateways=count,
                disagreement=find_disagreement(table),
            )
        )
    updates = read_updates(network)
    main = read_state(network.data(0), MAIN_CHAIN)
    record = main.get(MAIN, MAIN_KEY)
    folders = [network.data(index).path for index in range(count)]
    return ClusterResult(
        network=genesis_network(network.genesis).hex(),
        hosts="namespaces" if network.hosts.can_cut else "loopback",
        gateways=count,
        brokers=len(network.brokers),
        devices=network.plan.num_devices,
        processes=count + engines + len(network.brokers) + len(network.agents),
        rounds=tuple(_list_rounds(network)),
        chains=tuple(rows),
        app_hashes=shared,
        checkpoints={key.decode(): entry.number for key, entry in main.items(SHARDS)},
        merges=0 if record is None else record.epoch,
        updates_sent=updates.sent,
        receipts=updates.receipts,
        lost=len(updates.lost),
        jailed=len(list_jailed(network, 0)),
        audit=audit(network, folders),
        seconds=round(time.monotonic() - started_s, 1),
    )


def _list_rounds(network: ProcessNetwork) -> list[RoundRow]:
    stores = [
        BlobStore(network.data(index).blobs, read_only=True)
        for index in range(len(network.gateways))
    ]
    try:
        measure = _make_measure(network, JoinedBlobs(stores))
        rows: list[RoundRow] = []
        for shard in network.genesis.shards:
            state = read_state(network.data(0), shard)
            with LedgerStore.open_read_only(network.data(0).ledger(shard)) as ledger:
                for _, entry in state.items(ROUNDS):
                    last = ledger.load_block(entry.closed_height)
                    took_ms = 0 if last is None else last.block.header.time_ms - entry.opened_ms
                    rows.append(
                        RoundRow(
                            shard=shard,
                            round=entry.number,
                            cohort=entry.cohort_size,
                            updates=entry.num_updates,
                            accepted=entry.num_accepted,
                            seconds=took_ms / 1_000,
                            accuracy=None if entry.model is None else measure(entry.model),
                        )
                    )
        return sorted(rows, key=lambda row: (row.shard, row.round))
    finally:
        for store in stores:
            store.close()


def _make_measure(network: ProcessNetwork, blobs: JoinedBlobs) -> Callable[[Digest], float | None]:
    """What tells a model's accuracy on digits that nobody trained on."""
    program = Program(blobs.get(network.genesis.task.program))
    trainer = Trainer(program)
    with np.load(network.plan.out / "test.npz") as test:
        features, labels = test["features"], test["labels"]

    def measure(model: Digest) -> float | None:
        try:
            data = blobs.get(model)
        except MissingBlob:
            return None
        parameters = to_float32(decode_model(data, max_parameters=program.num_parameters))
        return trainer.evaluate(parameters, features, labels).accuracy

    return measure
