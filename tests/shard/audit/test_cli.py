"""The command line: exit codes, one line for an error, JSON for a program."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from headwater_protocol.identifiers import ChainId
from headwater_shard.cli import main
from headwater_shard.layout import DataFolder
from tests.shard.audit.builders import make_network, train_network

FIRST = ChainId("shard-0")


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return train_network(make_network()).write(tmp_path / "data")


def spoil_block(folder: DataFolder) -> None:
    content = bytearray(folder.ledger(FIRST).read_bytes())
    content[content.rindex(b"block/1") + 40] ^= 1
    folder.ledger(FIRST).write_bytes(content)


def test_a_folder_that_holds_exits_0(
    folder: DataFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", str(folder.path)]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == "audit: ok"
    assert all(name in printed.out for name in ("main", "shard-0", "shard-1"))
    assert printed.err == ""


def test_what_does_not_hold_exits_1_and_is_one_line(
    folder: DataFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil_block(folder)
    assert main(["audit", str(folder.path)]) == 1
    printed = capsys.readouterr()
    assert printed.out.startswith("audit: failed: shard-0 block ")
    assert len(printed.out.splitlines()) == 1
    assert printed.err == ""


def test_json_of_a_folder_that_holds(
    folder: DataFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", str(folder.path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    assert found["failure"] is None
    assert found["counts"]["rounds"] == 8
    assert found["counts"]["updates"] == 35
    assert found["counts"]["merges"] == 2
    assert found["counts"]["checkpoints_compared"] == 4
    assert [entry["chain"] for entry in found["chains"]] == ["shard-0", "shard-1", "main"]
    assert found["model"] == found["chains"][-1]["model"]


def test_json_of_what_does_not_hold(folder: DataFolder, capsys: pytest.CaptureFixture[str]) -> None:
    spoil_block(folder)
    assert main(["audit", str(folder.path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert set(found["failure"]) == {"chain", "height", "item", "problem"}
    assert found["failure"]["chain"] == "shard-0"
    assert isinstance(found["failure"]["height"], int)


def test_one_chain_alone(folder: DataFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(folder.path), "--chain", "shard-1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["chain"] for entry in found["chains"]] == ["shard-1"]
    assert found["not_replayed"] == ["main", "shard-0"]


def test_a_shard_that_is_not_in_the_folder_is_named(
    folder: DataFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", str(folder.path)]) == 0
    assert "not replayed" not in capsys.readouterr().out
    shutil.rmtree(folder.ledger(FIRST).parent)
    assert main(["audit", str(folder.path)]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == ["not replayed: shard-0", "audit: ok"]


def test_a_damaged_genesis_exits_1(folder: DataFolder, capsys: pytest.CaptureFixture[str]) -> None:
    folder.genesis.write_bytes(b"\x80")
    assert main(["audit", str(folder.path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["failure"]["item"] == "genesis.cbor"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing command"),
        (["audit"], "Missing argument"),
        (["audit", "nowhere"], "nowhere is no folder"),
        (["audit", "."], "holds no genesis.cbor"),
        (["audit", ".", "--nonsense"], "--nonsense"),
        (["nonsense"], "nonsense"),
    ],
)
def test_wrong_usage_exits_2_with_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert message in printed.err


def test_an_unknown_chain_exits_2_and_names_those_there_are(
    folder: DataFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", str(folder.path), "--chain", "shard-7"]) == 2
    assert "choose one of main, shard-0, shard-1" in capsys.readouterr().err


@pytest.mark.parametrize("place", [0, -1])
def test_debug_shows_the_traceback(
    folder: DataFolder, capsys: pytest.CaptureFixture[str], place: int
) -> None:
    spoil_block(folder)
    arguments = ["audit", str(folder.path)]
    arguments.insert(0 if place == 0 else len(arguments), "--debug")
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert "Traceback" in printed.err
    assert printed.out.startswith("audit: failed: shard-0 block ")


def test_a_missing_extra_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "typer", None)
    assert main(["audit", "."]) == 2
    printed = capsys.readouterr()
    assert 'pip install "headwater[gateway]"' in printed.err
    assert len(printed.err.splitlines()) == 1


def test_help_exits_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "audit" in capsys.readouterr().out


def test_blobs_that_another_gateway_keeps_are_found_there(
    folder: DataFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder.path, tmp_path / "one")
    (tmp_path / "two").mkdir()
    (tmp_path / "one/blobs").rename(tmp_path / "two/blobs")
    (tmp_path / "one/blobs").mkdir()
    assert main(["audit", str(tmp_path / "one")]) == 1
    assert "is missing" in capsys.readouterr().out
    assert main(["audit", str(tmp_path / "one"), "--blobs", str(tmp_path / "two")]) == 0
