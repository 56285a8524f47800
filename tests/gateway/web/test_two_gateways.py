"""Two processes, two disks: a gateway with an empty blob folder scores and attests every round."""

import json
import subprocess
import sys
from pathlib import Path

from headwater_gateway.shell.broker import embedded_broker, find_free_port
from headwater_protocol.chain.transaction import (
    UNAVAILABLE,
    AttestMerge,
    AttestModel,
    PostScores,
    decode_transaction,
)
from headwater_protocol.identifiers import MAIN_CHAIN, AccountId, Height
from headwater_shard.application import tables_of
from headwater_shard.blobs import BlobStore
from headwater_shard.layout import DataFolder
from headwater_shard.mainchain.records import SHARDS
from headwater_shard.shardchain.records import ROUNDS
from headwater_shard.state.state import State, load_state
from headwater_shard.store import LedgerStore
from tests.support.gateway_process import Fleet, found

ROUNDS_PLAYED = 4
TIMEOUT_S = 90.0


def bodies_of(folder: Path, chain: str, kind: type) -> dict[AccountId, list[object]]:
    """What the blocks of a chain hold of a kind, by sender."""
    found: dict[AccountId, list[object]] = {}
    with LedgerStore.open_read_only(DataFolder(folder).ledger(chain)) as store:  # type: ignore[arg-type]
        for final in store.iter_blocks(Height(1)):
            for data in final.block.transactions:
                transaction = decode_transaction(data).transaction
                if isinstance(transaction.body, kind):
                    found.setdefault(transaction.sender, []).append(transaction.body)
    return found


def state_of(folder: Path, chain: str) -> State:
    with LedgerStore.open_read_only(DataFolder(folder).ledger(chain)) as store:  # type: ignore[arg-type]
        return load_state(tables_of(chain), store.load_entries())  # type: ignore[arg-type]


def test_a_gateway_with_an_empty_blob_folder_attests_every_round(tmp_path: Path) -> None:
    with embedded_broker("127.0.0.1", 0) as busy, embedded_broker("127.0.0.1", 0) as quiet:
        genesis = found(tmp_path, rounds=ROUNDS_PLAYED, num_shards=1, num_devices=4, url=busy)
        options = {
            # Devices know one broker alone, so the follower never hears an update.
            "follower": {"broker": quiet, "folder": str(tmp_path / "two")},
            "engine": {"broker": busy, "folder": str(tmp_path / "one")},
        }
        for entry in options.values():
            entry["port"] = find_free_port("127.0.0.1")  # type: ignore[assignment]
        (tmp_path / "options.json").write_text(json.dumps(options))
        logs = {role: (tmp_path / f"{role}.log") for role in options}
        children: dict[str, subprocess.Popen[str]] = {}
        with Fleet(genesis, busy, num_devices=4):
            try:
                for role, log in logs.items():
                    command = [sys.executable, "-m", "tests.support.gateway_pair", role]
                    command += [str(tmp_path / "net/gateway.toml"), str(tmp_path / "options.json")]
                    with log.open("w") as file:
                        children[role] = subprocess.Popen(
                            command, stdout=subprocess.PIPE, stderr=file, text=True
                        )
                printed = {
                    role: child.communicate(timeout=TIMEOUT_S)[0]
                    for role, child in children.items()
                }
            except subprocess.TimeoutExpired:
                raise AssertionError(
                    {role: log.read_text() for role, log in logs.items()}
                ) from None
            finally:
                for child in children.values():
                    child.kill()
                    child.wait()
    texts = {role: log.read_text() for role, log in logs.items()}
    assert [child.returncode for child in children.values()] == [0, 0], texts
    assert "event=started blobs=0" in texts["follower"]
    counts = {role: json.loads(line) for role, line in printed.items()}

    one, two = tmp_path / "one", tmp_path / "two"
    state = state_of(one, "shard-1")
    closed = [round_ for _, round_ in state.sorted_items(ROUNDS)]
    assert len(closed) == ROUNDS_PLAYED
    assert any(round_.model != round_.base for round_ in closed), texts
    powers = {delegate.validator for delegate in genesis.committee(MAIN_CHAIN).delegates}
    scores = bodies_of(one, "shard-1", PostScores)
    # A delegate that lacked a payload would have said so, and with half of the power on each side
    # no update would have been accepted.
    assert set(scores) == powers
    posted = [body for rows in scores.values() for body in rows]
    assert not any(isinstance(b, PostScores) and UNAVAILABLE in b.scores for b in posted), texts
    attested = bodies_of(one, "shard-1", AttestModel)
    with_model = [round_ for round_ in closed if round_.num_accepted]
    assert sum(len(rows) == len(with_model) for rows in attested.values()) >= 3, texts
    assert len(bodies_of(one, MAIN_CHAIN, AttestMerge)) >= 3
    entry = state_of(one, MAIN_CHAIN).get(SHARDS, b"shard-1")
    assert entry is not None
    assert entry.is_final
    store = BlobStore(two / "blobs", read_only=True)
    try:
        assert entry.model in store
        assert genesis.task.program in store
    finally:
        store.close()
    assert counts["follower"]["headwater_blobs_fetched_total"] >= 2, counts
    assert counts["follower"]["headwater_blobs_taken_total"] > 0, "payloads were stored with it"
    assert counts["engine"]["headwater_blobs_served_total"] > 0, counts
