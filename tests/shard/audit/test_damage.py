"""Damage on disk: every flipped byte of a block, a certificate or a blob is found and named."""

import random
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from headwater_protocol.identifiers import MAIN_CHAIN, ChainId
from headwater_shard import blobs as blobs_module
from headwater_shard.audit.failure import AuditFailure
from headwater_shard.audit.folder import open_audit
from headwater_shard.layout import DataFolder
from tests.shard.audit.builders import SmallNetwork, make_network, train_network

NUM_BLOB_FLIPS = 150
NUM_ROW_FLIPS = 120
NUM_FILE_FLIPS = 120
NUM_WILD_FLIPS = 120

FIRST = ChainId("shard-0")


@dataclass(frozen=True)
class Written:
    network: SmallNetwork
    folder: DataFolder


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Written:
    network = train_network(make_network())
    path = tmp_path_factory.mktemp("pristine") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blobs_module, "SEGMENT_BYTES", 1_000)
        folder = network.write(path)
    assert len(list(folder.blobs.iterdir())) >= 3
    return Written(network=network, folder=folder)


@pytest.fixture
def data(pristine: Written, tmp_path: Path) -> Written:
    """A copy to spoil."""
    path = tmp_path / "data"
    shutil.copytree(pristine.folder.path, path)
    return Written(network=pristine.network, folder=DataFolder(path))


def run_audit(folder: DataFolder, *, only: ChainId | None = None) -> AuditFailure | None:
    try:
        with open_audit(folder, only=only) as audit:
            for _ in audit.run():
                pass
    except AuditFailure as error:
        failure = error
    else:
        return None
    assert "\n" not in str(failure)
    return failure


def flip_byte(path: Path, position: int, mask: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ mask]))


def test_an_untouched_folder_holds_and_stays_untouched(data: Written) -> None:
    before = {path: path.read_bytes() for path in data.folder.path.rglob("*") if path.is_file()}
    assert run_audit(data.folder) is None
    after = {path: path.read_bytes() for path in data.folder.path.rglob("*") if path.is_file()}
    assert before == after


def test_every_flipped_byte_of_a_blob_segment_is_found(data: Written) -> None:
    rng = random.Random(1)
    segments = sorted(data.folder.blobs.iterdir())
    for _ in range(NUM_BLOB_FLIPS):
        path = rng.choice(segments)
        position, mask = rng.randrange(path.stat().st_size), rng.randrange(1, 256)
        flip_byte(path, position, mask)
        failure = run_audit(data.folder)
        flip_byte(path, position, mask)
        assert failure is not None, (path.name, position, mask)
        assert failure.item is not None
        name, _, offset = failure.item.partition(" offset ")
        assert name == f"blobs/{path.name}"
        assert int(offset) <= position
    assert run_audit(data.folder) is None


def test_every_flipped_byte_of_a_block_or_certificate_is_found(data: Written) -> None:
    rng = random.Random(2)
    for _ in range(NUM_ROW_FLIPS):
        chain = rng.choice(sorted(data.network.ledgers))
        height = rng.randint(1, len(data.network.ledgers[chain].blocks))
        column = rng.choice(["block", "certificate"])
        with rewriting(data.folder, chain) as connection:
            query = f"SELECT {column} FROM block WHERE height = ?"
            (old,) = connection.execute(query, (height,)).fetchone()
            position, mask = rng.randrange(len(old)), rng.randrange(1, 256)
            new = bytearray(old)
            new[position] ^= mask
            update = f"UPDATE block SET {column} = ? WHERE height = ?"
            connection.execute(update, (bytes(new), height))
        failure = run_audit(data.folder, only=chain)
        with rewriting(data.folder, chain) as connection:
            connection.execute(update, (old, height))
        assert failure is not None, (chain, height, column, position, mask)
        assert (failure.chain, failure.height) == (chain, height)
    assert run_audit(data.folder) is None


def test_every_byte_flipped_in_the_file_where_a_block_stands_is_found(data: Written) -> None:
    rng = random.Random(3)
    places: list[tuple[ChainId, int, int, int]] = []
    for chain in sorted(data.network.ledgers):
        content = data.folder.ledger(chain).read_bytes()
        with rewriting(data.folder, chain) as connection:
            rows = connection.execute("SELECT height, block, certificate FROM block").fetchall()
        for height, *values in rows:
            places.extend(
                (chain, height, content.index(value), len(value))
                for value in values
                if content.count(value) == 1
            )
    assert len(places) > 60
    for _ in range(NUM_FILE_FLIPS):
        chain, height, start, size = rng.choice(places)
        position, mask = start + rng.randrange(size), rng.randrange(1, 256)
        flip_byte(data.folder.ledger(chain), position, mask)
        failure = run_audit(data.folder, only=chain)
        flip_byte(data.folder.ledger(chain), position, mask)
        assert failure is not None, (chain, height, position, mask)
        assert (failure.chain, failure.height) == (chain, height)
    assert run_audit(data.folder) is None


def test_no_byte_of_a_ledger_file_stops_the_audit_with_anything_but_a_failure(
    data: Written,
) -> None:
    rng = random.Random(4)
    num_found = 0
    for _ in range(NUM_WILD_FLIPS):
        chain = rng.choice(sorted(data.network.ledgers))
        path = data.folder.ledger(chain)
        # Half of them where SQLite keeps its own structure.
        position = rng.randrange(rng.choice([300, path.stat().st_size]))
        mask = rng.randrange(1, 256)
        flip_byte(path, position, mask)
        failure = run_audit(data.folder, only=chain)
        flip_byte(path, position, mask)
        if failure is not None:
            assert failure.chain == chain
            num_found += 1
    assert num_found > NUM_WILD_FLIPS // 10
    assert run_audit(data.folder) is None


def test_every_flipped_byte_of_the_genesis_is_found(data: Written) -> None:
    rng = random.Random(5)
    size = data.folder.genesis.stat().st_size
    for _ in range(30):
        position, mask = rng.randrange(size), rng.randrange(1, 256)
        flip_byte(data.folder.genesis, position, mask)
        failure = run_audit(data.folder)
        flip_byte(data.folder.genesis, position, mask)
        assert failure is not None, (position, mask)


def test_a_changed_entry_of_the_current_state_is_named(data: Written) -> None:
    height = len(data.network.ledgers[FIRST].blocks)
    with rewriting(data.folder, FIRST) as connection:
        rows = connection.execute("SELECT namespace, key, value FROM entry").fetchall()
    for namespace, entry_key, value in random.Random(6).sample(rows, 12):
        name = f"entry {namespace}/{entry_key.hex()}"
        for statement, arguments in (
            ("UPDATE entry SET value = ? WHERE namespace = ? AND key = ?", (value[:-1],)),
            ("DELETE FROM entry WHERE ? IS NOT NULL AND namespace = ? AND key = ?", (b"",)),
        ):
            with rewriting(data.folder, FIRST) as connection:
                connection.execute(statement, (*arguments, namespace, entry_key))
            failure = run_audit(data.folder, only=FIRST)
            with rewriting(data.folder, FIRST) as connection:
                connection.execute(
                    "INSERT OR REPLACE INTO entry VALUES (?, ?, ?)", (namespace, entry_key, value)
                )
            assert failure is not None
            assert (failure.chain, failure.height, failure.item) == (FIRST, height, name)
    assert run_audit(data.folder, only=FIRST) is None


def test_an_added_entry_of_the_current_state_is_named(data: Written) -> None:
    for namespace in ("aaa", "devices", "zzz"):
        with rewriting(data.folder, FIRST) as connection:
            connection.execute("INSERT INTO entry VALUES (?, ?, ?)", (namespace, b"\1", b"\2"))
        failure = run_audit(data.folder, only=FIRST)
        with rewriting(data.folder, FIRST) as connection:
            connection.execute("DELETE FROM entry WHERE key = ?", (b"\1",))
        assert failure is not None
        assert failure.item == f"entry {namespace}/01"


def test_reordered_blocks_are_named(data: Written) -> None:
    with rewriting(data.folder, FIRST) as connection:
        for old, new in ((5, 1_000), (6, 5), (1_000, 6)):
            connection.execute("UPDATE block SET height = ? WHERE height = ?", (new, old))
    failure = run_audit(data.folder)
    assert failure is not None
    assert (failure.chain, failure.height) == (FIRST, 5)


def test_a_block_that_is_gone_is_a_failure_of_its_chain(data: Written) -> None:
    with rewriting(data.folder, FIRST) as connection:
        connection.execute("DELETE FROM block WHERE height = 4")
    failure = run_audit(data.folder)
    assert failure is not None
    assert failure.chain == FIRST


def test_a_tip_that_is_gone_is_found_by_the_state_that_stayed(data: Written) -> None:
    height = len(data.network.ledgers[FIRST].blocks)
    with rewriting(data.folder, FIRST) as connection:
        connection.execute("DELETE FROM block WHERE height = ?", (height,))
    failure = run_audit(data.folder)
    assert failure is not None
    assert (failure.chain, failure.height) == (FIRST, height - 1)


def test_a_segment_that_is_gone_is_found_by_what_the_ledger_names(data: Written) -> None:
    for path in sorted(data.folder.blobs.iterdir()):
        content = path.read_bytes()
        path.unlink()
        failure = run_audit(data.folder)
        path.write_bytes(content)
        assert failure is not None
        assert "is missing" in failure.problem or "no blob" in failure.problem


def test_a_cut_segment_is_found(data: Written) -> None:
    path = sorted(data.folder.blobs.iterdir())[-1]
    path.write_bytes(path.read_bytes()[:-1])
    failure = run_audit(data.folder)
    assert failure is not None
    assert failure.item is not None
    assert failure.item.startswith(f"blobs/{path.name} offset ")


def spoil_header(folder: DataFolder) -> None:
    folder.main_ledger.write_bytes(b"no database here" + folder.main_ledger.read_bytes()[16:])


def empty_file(folder: DataFolder) -> None:
    folder.main_ledger.write_bytes(b"")


def remove_ledger(folder: DataFolder) -> None:
    folder.main_ledger.unlink()


def cut_file(folder: DataFolder) -> None:
    folder.main_ledger.write_bytes(folder.main_ledger.read_bytes()[:-20_000])


def drop_table(folder: DataFolder) -> None:
    with rewriting(folder, MAIN_CHAIN) as connection:
        connection.execute("DROP TABLE entry")


def spoil_types(folder: DataFolder) -> None:
    with rewriting(folder, MAIN_CHAIN) as connection:
        connection.execute("UPDATE meta SET value = 7 WHERE name = 'chain'")


def spoil_text(folder: DataFolder) -> None:
    with rewriting(folder, MAIN_CHAIN) as connection:
        connection.execute("UPDATE meta SET value = x'ff' WHERE name = 'chain'")


def spoil_columns(folder: DataFolder) -> None:
    with rewriting(folder, MAIN_CHAIN) as connection:
        connection.execute("UPDATE block SET block = 'text' WHERE height = 1")


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_header,
        empty_file,
        remove_ledger,
        cut_file,
        drop_table,
        spoil_types,
        spoil_text,
        spoil_columns,
    ],
)
def test_a_ledger_that_is_no_ledger_is_a_failure_of_its_chain(
    data: Written, spoil: Callable[[DataFolder], None]
) -> None:
    spoil(data.folder)
    failure = run_audit(data.folder)
    assert failure is not None
    assert failure.chain == MAIN_CHAIN


def test_a_ledger_of_no_chain_of_the_genesis_is_a_failure(data: Written) -> None:
    shutil.copytree(data.folder.chain(FIRST), data.folder.chain(ChainId("shard-9")))
    failure = run_audit(data.folder)
    assert failure is not None
    assert failure.item == "shard-9/ledger.sqlite"


def test_a_shard_that_is_not_hosted_here_is_not_missed(data: Written) -> None:
    shutil.rmtree(data.folder.chain(FIRST))
    assert run_audit(data.folder) is None


class rewriting:  # noqa: N801  # reads as a with statement
    """A connection that writes the file in place and leaves no log beside it."""

    def __init__(self, folder: DataFolder, chain: ChainId) -> None:
        self._connection = sqlite3.connect(folder.ledger(chain), isolation_level=None)

    def __enter__(self) -> sqlite3.Connection:
        self._connection.execute("PRAGMA synchronous = OFF")
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._connection.close()
