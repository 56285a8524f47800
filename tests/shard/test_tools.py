"""The command line's tools: they list, sign, prove and set up, and say what is wrong in a line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from headwater_protocol.chain.genesis import decode_genesis, encode_genesis
from headwater_protocol.chain.transaction import Transfer, decode_transaction
from headwater_protocol.crypto.signing import DirectVerifier, SecretKey
from headwater_protocol.errors import BadProof
from headwater_protocol.identifiers import MAIN_CHAIN, Units
from headwater_protocol.model.norms import compute_noise_cosine
from headwater_protocol.reasons import ReasonCode
from headwater_shard.cli import main
from headwater_shard.layout import DataFolder
from headwater_shard.tools.listing import LISTINGS
from headwater_shard.tools.proving import prove_entry, verify_entry
from headwater_shard.tools.reading import read_chain, read_genesis
from headwater_shard.tools.setup import load_key
from headwater_shard.tools.signing import KINDS, list_options
from tests.shard.audit.builders import make_network, train_network
from tests.support.ledgers import reasons
from tests.support.network import Chain, key, make_cast


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    return train_network(make_network()).write(tmp_path_factory.mktemp("tools") / "data")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> object:
    assert main([str(argument) for argument in (*arguments, "--json")]) == 0
    return json.loads(capsys.readouterr().out)


def write_key(path: Path, secret: SecretKey) -> Path:
    path.write_text(secret.seed.hex() + "\n")
    return path


@pytest.mark.parametrize("what", LISTINGS)
def test_every_listing_prints_a_table_and_json(what, folder, capsys):
    rows = run(capsys, "show", what, folder.path)
    assert isinstance(rows, list)
    assert main(["show", what, str(folder.path)]) == 0
    assert rows or what in {"deposits", "evidence"}


def test_a_shard_alone_is_listed(folder, capsys):
    rows = run(capsys, "show", "rounds", folder.path, "--shard", "shard-1")
    assert {row["shard"] for row in rows} == {"shard-1"}


def test_a_signed_transfer_is_executed(tmp_path, capsys):
    cast = make_cast(balances=[("alice", 50)])
    data = DataFolder(tmp_path / "data")
    data.path.mkdir()
    data.genesis.write_bytes(encode_genesis(cast.genesis))
    file = write_key(tmp_path / "alice.key", key("alice"))
    bob = key("bob").account
    options = ("--key", file, "--to", bob.hex(), "--amount", 20)
    printed = run(capsys, "tx", "transfer", data.path, *options)
    transaction = bytes.fromhex(printed["transaction"])
    body = decode_transaction(transaction).transaction.body
    assert body == Transfer(recipient=bob, amount=Units(20))
    chain = Chain(cast, MAIN_CHAIN)
    assert reasons(chain.block(transaction)) == [ReasonCode.OK]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_says_which_options_it_takes(kind, folder, tmp_path, capsys):
    file = write_key(tmp_path / "key", key("alice"))
    arguments = ["tx", kind, str(folder.path), "--key", str(file)]
    code = main([*arguments, "--source", "00", "--to", "00"])
    assert code == 2
    line = capsys.readouterr().err
    assert list_options(kind) in line
    assert line.count("\n") == 1


def test_an_entry_and_an_absence_are_proven_to_who_has_the_genesis(folder, capsys):
    genesis = read_genesis(folder)
    stored = read_chain(folder, genesis, MAIN_CHAIN)
    assert stored.header is not None
    present = bytes.fromhex(run(capsys, "show", "accounts", folder.path)[0]["account"])
    for at, holds in ((present, True), (bytes(32), False)):
        proof = prove_entry(folder, genesis, stored, "accounts", at)
        # The network is of 2023; a light client refuses what is older than its trust.
        now_ms = stored.header.time_ms
        entry = verify_entry(proof, genesis, now_ms=now_ms, verifier=DirectVerifier())
        assert (entry is not None) is holds
        spoiled = replace(proof, value=b"\x00" if entry is None else None)
        with pytest.raises(BadProof):
            verify_entry(spoiled, genesis, now_ms=now_ms, verifier=DirectVerifier())


def test_a_changed_proof_is_refused(folder, tmp_path, capsys):
    proof = tmp_path / "proof"
    main(["prove", str(folder.path), "main", "chain", "text:main", "--out", str(proof)])
    data = bytearray(proof.read_bytes())
    data[len(data) // 2] ^= 1
    proof.write_bytes(bytes(data))
    capsys.readouterr()
    assert main(["verify", str(proof), "--genesis", str(folder.genesis)]) == 1
    assert capsys.readouterr().out.startswith("no: ")


def test_a_new_network_has_its_keys_and_blobs(tmp_path, capsys):
    program = tmp_path / "program.tflite"
    program.write_bytes(b"a program")
    path = tmp_path / "net"
    options = ("--program", program, "--tensor-sizes", "6,4", "--delegates", 3, "--shards", 2)
    printed = run(capsys, "init", path, *options)
    genesis = decode_genesis((path / "genesis.cbor").read_bytes())
    assert len(genesis.validators) == 6
    assert genesis.shards == ("shard-0", "shard-1")
    assert printed["network"]
    # A task without a floor would pay half of all noise.
    assert genesis.task.reward_floor == compute_noise_cosine(10)
    sponsor = load_key(path / "keys" / "sponsor.key")
    assert sponsor.account == genesis.sponsor
    assert (path / "keys" / "sponsor.key").stat().st_mode & 0o077 == 0
    assert len(run(capsys, "show", "candidates", path)) == 6
    assert main(["init", str(path), *map(str, options)]) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "nothing", "DIR"),
        ("show", "rounds", "DIR", "--shard", "shard-9"),
        ("show", "rounds", "nowhere"),
        ("tx", "nothing", "DIR", "--key", "KEY"),
        ("tx", "transfer", "DIR", "--key", "KEY", "--to", "zz", "--amount", "1"),
        ("tx", "transfer", "DIR", "--key", "KEY", "--to", "00", "--amount", "1"),
        ("tx", "transfer", "DIR", "--key", "KEY", "--to", "00" * 32, "--amount", "-1"),
        ("tx", "transfer", "DIR", "--key", "nowhere", "--to", "00" * 32, "--amount", "1"),
        ("prove", "DIR", "main", "nothing", "00"),
        ("prove", "DIR", "shard-9", "rounds", "00"),
        ("prove", "DIR", "main", "accounts", "zz"),
        ("verify", "nowhere", "--genesis", "nowhere"),
        ("keys", "KEY"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(arguments, folder, tmp_path, capsys):
    file = write_key(tmp_path / "key", key("alice"))
    names = {"DIR": str(folder.path), "KEY": str(file), "nowhere": str(tmp_path / "nowhere")}
    assert main([names.get(argument, argument) for argument in arguments]) == 2
    line = capsys.readouterr().err
    assert line.startswith("headwater-shard: ")
    assert line.count("\n") == 1
