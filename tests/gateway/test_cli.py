"""`headwater-gateway`: founding, running and looking at a network from the command line."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from headwater_firmware_sim.data.digits import load_digits
from headwater_gateway.cli import main
from headwater_gateway.shell.broker import embedded_broker, find_free_port
from headwater_models.program import Program
from headwater_protocol.chain.genesis import decode_genesis, genesis_network
from headwater_protocol.crypto.hashing import blob_digest
from tests.support.gateway_process import GatewayProcess


@pytest.fixture(scope="module")
def validation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("validation") / "digits.npz"
    digits = load_digits()
    np.savez(path, features=digits.features[:60], labels=digits.labels[:60])
    return path


def init(folder: Path, *more: str) -> int:
    return main(["init", "--out", str(folder / "net"), *more])


def fail(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a mistake gets."""
    capsys.readouterr()
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("headwater-gateway: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_init_writes_a_network_and_says_what_comes_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init(tmp_path, "--shards", "2", "--delegates", "3", "--rounds", "7", "--name", "n") == 0
    net = tmp_path / "net"
    genesis = decode_genesis((net / "genesis.cbor").read_bytes())
    out = capsys.readouterr().out
    assert out.splitlines()[0] == f"network {genesis_network(genesis).hex()}"
    assert f"headwater-gateway run --config {net}/gateway.toml" in out
    assert "headwater-agent init" in out
    assert (genesis.name, genesis.shards) == ("n", ("shard-1", "shard-2"))
    assert (len(genesis.validators), genesis.task.rounds) == (6, 7)
    assert blob_digest((net / "program.tflite").read_bytes()) == genesis.task.program
    assert blob_digest((net / "initial-model.bin").read_bytes()) == genesis.task.initial_model
    keys = sorted(path.name for path in (net / "keys").iterdir())
    assert keys[0] == "registrar.key"
    assert len(keys) == 8
    for path in (net / "keys").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    assert (net / "keys").stat().st_mode & 0o777 == 0o700


def test_init_from_one_secret_gives_the_same_keys(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("07" * 32)
    secret.chmod(0o600)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        assert init(tmp_path / name, "--seed-file", str(secret)) == 0
    one, two = (tmp_path / name / "net" for name in ("one", "two"))
    for path in sorted((one / "keys").iterdir()):
        assert path.read_bytes() == (two / "keys" / path.name).read_bytes()
    assert (one / "initial-model.bin").read_bytes() == (two / "initial-model.bin").read_bytes()
    assert len({path.read_bytes() for path in (one / "keys").iterdir()}) == 6


def test_own_program_and_task_need_no_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "mine.tflite"
    program.write_bytes(Program.load("har-cnn").data)
    task = tmp_path / "task.toml"
    assert main(["task", "--out", str(task)]) == 0
    task.write_text(task.read_text().replace("rounds = 20 ", "rounds = 9 "))
    assert init(tmp_path, "--program", str(program), "--task", str(task)) == 0
    genesis = decode_genesis((tmp_path / "net" / "genesis.cbor").read_bytes())
    assert genesis.task.program == blob_digest(program.read_bytes())
    assert genesis.task.rounds == 9
    assert "File exists; name another file" in fail(capsys, "task", "--out", str(task))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--shards", "0"], "--shards: is 0; give 1 to 64"),
        (["--delegates", "33"], "--delegates: is 33"),
        (["--validators", "33"], "--validators: is 33"),
        (["--validators", "2", "--delegates", "2"], "--delegates: is there beside --validators"),
        (["--validators", "3", "--host", "a", "--host", "b"], "--host: 2 of them for 3 gateways"),
        (["--validators", "1", "--host", "a:5"], "--host: 'a:5' is no host"),
        (["--validators", "1", "--broker-host", "a b"], "--broker-host: 'a b' is no host"),
        (
            ["--validators", "1", "--shards", "64", "--first-port", "65000"],
            "--first-port: leaves too few ports",
        ),
        (["--first-port", "9000"], "--first-port: is for gateways on machines of their own"),
        (["--rounds", "0"], "rounds: is 0, allowed 1"),
        (["--name", "Big Name"], "Genesis.name does not match"),
        (["--program", "none"], "--program: none: No such file"),
        (["--program", __file__], "--program: "),
        (["--task", "none.toml"], "none.toml: does not exist; write one with headwater-gateway"),
        (["--seed-file", "none"], "--seed-file: none does not exist"),
        (["--port", "0"], "--port: is 0"),
        (["--sharts", "2"], "No such option"),
        (["--shards", "x"], "see headwater-gateway --help"),
    ],
)
def test_mistake_in_init_is_one_line_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert words in fail(capsys, "init", "--out", str(tmp_path / "net"), *arguments)
    assert not (tmp_path / "net").exists()


def test_init_leaves_a_folder_that_is_in_use_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init(tmp_path) == 0
    before = (tmp_path / "net" / "genesis.cbor").read_bytes()
    assert "is not empty; choose a new folder" in fail(
        capsys, "init", "--out", str(tmp_path / "net")
    )
    assert (tmp_path / "net" / "genesis.cbor").read_bytes() == before


def break_network(net: Path) -> None:
    text = (net / "gateway.toml").read_text()
    start = text.index('network = "') + 11
    (net / "gateway.toml").write_text(text[:start] + "00" * 32 + text[start + 64 :])


def break_key(net: Path) -> None:
    shutil.copy(net / "keys/sponsor.key", net / "keys/shard-1-1.key")


def drop_keys(net: Path) -> None:
    config = net / "gateway.toml"
    text = config.read_text()
    for number in (1, 2):
        text = text.replace(f'    "keys/shard-1-{number}.key",\n', "")
    config.write_text(text)


def break_validation(net: Path) -> None:
    np.savez(net / "v.npz", features=np.ones((9, 3)), labels=np.zeros(9, int))
    change_validation(net)


def shrink_validation(net: Path) -> None:
    np.savez(net / "v.npz", features=np.ones((3, 64)), labels=np.zeros(3, int))
    change_validation(net)


def mislabel_validation(net: Path) -> None:
    np.savez(net / "v.npz", features=np.ones((9, 64)), labels=np.full(9, 10))
    change_validation(net)


def change_validation(net: Path) -> None:
    config = net / "gateway.toml"
    lines = config.read_text().splitlines()
    config.write_text(
        "\n".join(
            'validation = "v.npz"' if line.startswith("validation =") else line for line in lines
        )
    )


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (break_network, "network: "),
        (break_key, "shards[1].keys: "),
        (drop_keys, "of the power, without "),
        (break_validation, "shards[1].validation: an example has 3 values"),
        (shrink_validation, "shards[1].validation: 3 examples for 4 delegates"),
        (mislabel_validation, "shards[1].validation: label 10 for a program of 10 classes"),
        (lambda net: (net / "genesis.cbor").unlink(), "genesis: "),
        (lambda net: (net / "program.tflite").unlink(), "blobs: "),
        (lambda net: (net / "devices-shard-1.txt").unlink(), "shards[1].devices: "),
        (lambda net: (net / "devices-shard-1.txt").write_text("x"), "line 1): 'x' is no device id"),
        (lambda net: (net / "keys/registrar.key").chmod(0o644), "registrar_key: "),
        (
            lambda net: shutil.copy(net / "keys/sponsor.key", net / "keys/registrar.key"),
            "is no registrar's of this network",
        ),
    ],
)
def test_run_refuses_what_it_cannot_use_with_the_key_and_the_fix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], validation: Path, spoil: object, words: str
) -> None:
    net = tmp_path / "net"
    assert init(tmp_path, "--validation", str(validation), "--port", "1") == 0
    text = (net / "gateway.toml").read_text()
    (net / "gateway.toml").write_text(
        text.replace("[broker]\n", '[broker]\nurl = "mqtt://127.0.0.1"\n')
    )
    spoil(net)  # type: ignore[operator]
    assert words in fail(capsys, "run", "--config", str(net / "gateway.toml"))
    assert not (net / "data").exists()


def test_gateway_with_an_embedded_broker_starts_stops_cleanly_and_goes_on(
    tmp_path: Path, validation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = find_free_port("127.0.0.1")
    assert init(tmp_path, "--validation", str(validation), "--port", str(port)) == 0
    net = tmp_path / "net"
    config = str(net / "gateway.toml")
    assert "holds no ledger yet" in fail(capsys, "status", "--config", config)
    (net / "devices-shard-1.txt").write_text("ab" * 32 + "\n")
    gateway = GatewayProcess(net)
    try:
        for number in (1, 2):
            gateway.start()
            while gateway.count("broker_connected") < number:
                assert gateway.count("event=stopped") < number, gateway.log.read_text()
            if number == 1:
                # Its folder is locked, and its port taken.
                assert "choose another port" in fail(capsys, "run", "--config", config)
            assert gateway.terminate() == 0, gateway.log.read_text()
    finally:
        gateway.stop()
    log = gateway.log.read_text()
    assert log.count("event=stopped") == 2
    assert "Traceback" not in log
    assert not list((net / "data").rglob("*-wal"))
    assert main(["status", "--config", config, "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (
        status["network"]
        == genesis_network(decode_genesis((net / "genesis.cbor").read_bytes())).hex()
    )
    (shard,) = status["shards"]
    assert (shard["shard"], shard["devices"], shard["is_finished"]) == ("shard-1", 1, False)
    assert main(["status", "--config", config]) == 0
    assert "shard-1" in capsys.readouterr().out


def test_second_gateway_on_a_folder_is_kept_out_and_changes_nothing(
    tmp_path: Path, validation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = tmp_path / "net"
    with embedded_broker("127.0.0.1", 0) as url:
        assert init(tmp_path, "--validation", str(validation)) == 0
        config = net / "gateway.toml"
        config.write_text(config.read_text().replace("[broker]\n", f'[broker]\nurl = "{url}"\n'))
        gateway = GatewayProcess(net)
        try:
            gateway.start()
            capsys.readouterr()
            assert main(["run", "--config", str(config)]) == 1
            assert "another process has the ledger open" in capsys.readouterr().err
        finally:
            gateway.stop()


def test_missing_extra_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "aiomqtt" else found(name)
    )
    assert fail(capsys, "status") == (
        'headwater-gateway: aiomqtt: is not installed; pip install "headwater[gateway]"\n'
    )


def test_traceback_comes_only_with_debug(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "none.toml")
    fail(capsys, "run", "--config", missing)
    assert main(["--debug", "run", "--config", missing]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["nope"], ["run", "--log-level", "loud"]])
def test_usage_errors_are_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    fail(capsys, *arguments)
