"""The archive of epochs: a proof that a crash or a disk lost is made again from the blocks."""

from dataclasses import replace
from pathlib import Path

import pytest

from headwater_gateway.shell.epochs import SUFFIX, EpochArchive, replay_epochs
from headwater_protocol.crypto.signing import DirectVerifier
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.identifiers import MAIN_CHAIN, EpochNumber
from headwater_protocol.light.update import EpochUpdate
from headwater_shard.layout import DataFolder
from headwater_shard.store import LedgerStore
from headwater_shard.tools.reading import read_genesis
from tests.shard.audit.builders import make_network, train_network


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    return train_network(make_network()).write(tmp_path_factory.mktemp("epochs") / "data")


def load(data: DataFolder, path: Path, last: int) -> tuple[EpochUpdate, ...]:
    with LedgerStore.open_read_only(data.ledger(MAIN_CHAIN)) as store:
        return EpochArchive(path).load(
            EpochNumber(last), genesis=read_genesis(data), store=store, verifier=DirectVerifier()
        )


def replay(data: DataFolder) -> list[EpochUpdate]:
    with LedgerStore.open_read_only(data.ledger(MAIN_CHAIN)) as store:
        return list(replay_epochs(read_genesis(data), store, DirectVerifier()))


def test_all_proofs_are_made_from_the_blocks_and_kept(data: DataFolder, tmp_path: Path) -> None:
    made = replay(data)
    assert [update.epoch.epoch for update in made] == list(range(1, len(made) + 1))
    assert made
    assert load(data, tmp_path, len(made)) == tuple(made)
    files = sorted(file.name for file in tmp_path.iterdir())
    assert files == [f"{number}{SUFFIX}" for number in range(1, len(made) + 1)]


@pytest.mark.parametrize("damage", ["lost", "cut", "empty", "another record", "another epoch"])
def test_a_proof_that_is_lost_or_damaged_is_made_again(
    data: DataFolder, tmp_path: Path, damage: str
) -> None:
    made = replay(data)
    load(data, tmp_path, len(made))
    file = tmp_path / f"1{SUFFIX}"
    whole = file.read_bytes()
    match damage:
        case "lost":
            file.unlink()
        case "cut":
            file.write_bytes(whole[: len(whole) // 2])
        case "empty":
            file.write_bytes(b"")
        case "another record":
            file.write_bytes(encode_record(made[0].epoch))
        case _:
            epoch = replace(made[0].epoch, epoch=EpochNumber(7))
            file.write_bytes(encode_record(replace(made[0], epoch=epoch)))
    assert EpochArchive(tmp_path).get(EpochNumber(1)) is None
    assert load(data, tmp_path, len(made)) == tuple(made)
    assert file.read_bytes() == whole


def test_what_is_there_is_not_replayed(data: DataFolder, tmp_path: Path) -> None:
    made = replay(data)
    archive = EpochArchive(tmp_path)
    for update in made:
        archive.put(update)
    genesis = read_genesis(data)
    found = archive.load(
        EpochNumber(len(made)),
        genesis=genesis,
        store=None,  # type: ignore[arg-type]  # nothing is read from it
        verifier=DirectVerifier(),
    )
    assert found == tuple(made)


def test_blocks_that_are_ahead_of_the_state_bring_no_later_proofs(
    data: DataFolder, tmp_path: Path
) -> None:
    made = replay(data)
    assert len(made) > 1
    assert load(data, tmp_path, 1) == (made[0],)


def test_a_draft_that_a_crash_left_is_not_read(data: DataFolder, tmp_path: Path) -> None:
    made = replay(data)
    (tmp_path / "1.new").write_bytes(encode_record(made[0]))
    assert EpochArchive(tmp_path).get(EpochNumber(1)) is None
