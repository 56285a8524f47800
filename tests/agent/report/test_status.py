"""status, receipts and doctor, of agents that run, that stopped, and that never started."""

import json
from pathlib import Path

import pytest

from headwater_agent.cli import main
from headwater_agent.config import load_config
from headwater_agent.keyfile import load_key
from headwater_agent.machine.effects import Persist
from headwater_agent.machine.limits import DAY_MS
from headwater_agent.report.doctor import examine
from headwater_agent.report.machine_checks import check_clock
from headwater_agent.report.status import make_status
from headwater_agent.state import Changes
from headwater_agent.storage.proofs import MAX_PROOFS, TOTALS, load_totals
from headwater_agent.storage.reading import read_proofs
from headwater_agent.store import StateStore
from headwater_protocol.chain.epoch import epoch_digest
from headwater_protocol.crypto.signing import DirectVerifier
from headwater_protocol.encoding.record import decode_record
from headwater_protocol.errors import ConfigError
from headwater_protocol.messages.receipt import (
    SignedReceipt,
    Stage,
    decode_receipt,
    verify_receipt,
)
from headwater_protocol.reasons import ReasonCode
from tests.support.agent_home import NET, make_home, running_agent
from tests.support.agent_support import COLLECT_MS, START_MS, Net, World
from tests.support.sensor_broker import free_port, running_broker


@pytest.fixture
def home(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    config = make_home(tmp_path)
    capsys.readouterr()
    return config


def run_rounds(store: StateStore, net: Net) -> World:
    """Two rounds: one is accepted by two gateways' word, one is never taken and dropped."""
    world = World(net)
    world.connect()
    update = world.sign_round(1)
    world.tell(net.answered(update))
    for gateway in range(net.num_delegates):
        verdict = net.answered(update, stage=Stage.VERDICT, gateway=gateway, score=9_000, reward=40)
        world.tell(verdict)
    world.now_ms = START_MS + COLLECT_MS
    world.sign_round(2)
    world.run_timers(START_MS + 3 * COLLECT_MS)
    # Nobody answers: it is asked about for days, and then given up.
    world.run_timers(START_MS + 30 * DAY_MS)
    for effect in world.trace:
        if isinstance(effect, Persist):
            store.apply(effect.changes)
    return world


def test_totals_and_proofs_say_what_the_device_did(tmp_path: Path) -> None:
    net = Net(num_delegates=2)
    path = tmp_path / "state.db"
    device = World(net).device.id
    with StateStore(path, device=device, network=net.network, creates=True) as store:
        world = run_rounds(store, net)
        totals = load_totals(store._database)
        assert store.load() == world.disk
    assert set(totals) == set(TOTALS)
    assert totals["rounds_signed"] == 2
    assert totals["examples_signed"] == 14
    assert totals["rounds_accepted"] == 1
    assert totals["reward_units"] == 40  # though two gateways say so
    assert totals["updates_dropped"] == 1
    proofs = read_proofs(path, since_round=1)
    assert [proof.receipt.stage for proof in proofs] == [
        Stage.INTAKE,
        Stage.VERDICT,
        Stage.VERDICT,
    ]
    for proof in proofs:
        verify_receipt(proof, network=net.network, verifier=DirectVerifier())
    assert read_proofs(path, since_round=2) == []


def test_proofs_are_bounded_and_no_gateway_pushes_out_anothers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headwater_agent.storage.proofs.MAX_PROOFS", 3)
    net = Net(num_delegates=2)
    path = tmp_path / "state.db"
    world = World(net)
    world.connect()
    update = world.sign_round(1)
    receipts = [
        decode_receipt(net.answered(update, reason, gateway=1).payload)
        for reason in (ReasonCode.WRONG_BASE, ReasonCode.QUARANTINED, ReasonCode.DUPLICATE)
    ]
    with StateStore(path, device=world.device.id, network=net.network, creates=True) as store:
        store.apply(Changes(receipt=decode_receipt(net.answered(update).payload)))
        for receipt in receipts * 3:
            store.apply(Changes(receipt=receipt))
        assert len(read_proofs(path, since_round=0)) == 2
        for number in range(2, 8):
            later = decode_receipt(net.answered(update, round=number).payload)
            store.apply(Changes(receipt=later))
        kept = read_proofs(path, since_round=0)
        totals = load_totals(store._database)
    assert [proof.receipt.round for proof in kept] == [5, 6, 7]
    assert totals["proofs_dropped"] == 5
    assert MAX_PROOFS > 1_000


def test_status_of_a_running_and_a_stopped_agent(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_agent(home, wait_for="event=disconnected") as process:
        assert main(["status", "--config", str(home), "--json"]) == 0
        status = json.loads(capsys.readouterr().out)
        assert status["is_running"] is True
        # Looking again and again holds nothing up.
        for _ in range(20):
            make_status(load_config(home), now_ms=0)
        assert process.poll() is None
    assert main(["status", "--config", str(home), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["is_running"], status["activity"], status["num_examples"]) == (
        False,
        "stopped",
        4,
    )
    assert "nothing listens there" in status["errors"][0]["text"]
    assert main(["status", "--config", str(home)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines][:4] == ["device", "doing", "broker", "round"]


def test_status_of_a_device_without_state_names_the_fix(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home.parent / "device.db").unlink()
    assert main(["status", "--config", str(home)]) == 2
    assert "headwater-agent run --new-state" in capsys.readouterr().err


def test_receipts_are_exported_as_bytes_that_verify(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = load_key(home.parent / "device.key")
    with StateStore(
        home.parent / "device.db", device=key.device, network=NET.network, creates=False
    ) as store:
        run_rounds(store, NET)
    assert main(["receipts", "--config", str(home), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["network"] == NET.network.hex()
    for entry in shown["receipts"]:
        signed = decode_record(SignedReceipt, bytes.fromhex(entry["encoded"]))
        verify_receipt(signed, network=NET.network, verifier=DirectVerifier())
        assert signed.receipt.reward == entry["reward"]
    assert sum(entry["reward"] for entry in shown["receipts"]) == 40
    assert main(["receipts", "--config", str(home), "--since-round", "2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_doctor_is_content_with_a_device_that_is_set_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    config = make_home(tmp_path, broker=f"mqtt://127.0.0.1:{port}")
    capsys.readouterr()
    digest = epoch_digest(NET.genesis.epoch()).hex()
    pinned = [
        "--set=trust.pin_epoch=0",
        f"--set=trust.pin_digest={digest}",
        "--set=trust.pin_time=2026-01-01",
    ]
    with running_broker(port):
        code = main(["doctor", "--config", str(config), "--json", *pinned])
    answer = json.loads(capsys.readouterr().out)
    assert [check for check in answer["checks"] if not check["ok"]] == []
    assert (code, answer["ok"]) == (0, True)
    assert {check["name"] for check in answer["checks"]} == {
        *("runtime", "config", "key", "genesis", "state", "disk", "clock", "data"),
        *("program", "broker"),
    }


def test_doctor_leaves_the_session_of_a_running_agent_alone(home: Path) -> None:
    config = load_config(home)
    device = load_key(config.key).device
    link = {"broker": str(config.brokers[0]), "is_connected": True}
    with StateStore(config.state, device=device, network=None, creates=False) as store:
        store.write_report(json.dumps({"connection": link}))
        assert "broker" not in failing(home)
        store.write_report(json.dumps({"connection": link | {"is_connected": False}}))
        assert "nothing listens" in failing(home)["broker"]
    with StateStore(config.state, device=device, network=None, creates=False) as store:
        store.write_report(json.dumps({"connection": link}))
    assert "nothing listens" in failing(home)["broker"]


def failing(path: Path, *options: str) -> dict[str, str]:
    checks = examine(path, environment={}, options=options)
    assert all("\n" not in check.detail + check.fix for check in checks)
    return {check.name: f"{check.detail}; {check.fix}" for check in checks if not check.is_ok}


def test_doctor_names_the_fix_of_each_thing_that_is_wrong(home: Path) -> None:
    folder = home.parent
    (folder / "device.key").chmod(0o644)
    (folder / "own.npz").write_bytes(b"no data")
    (folder / "device.db").write_bytes(b"no database" * 1_000)
    (folder / "genesis.cbor").write_bytes(b"\x80")
    found = failing(home)
    assert {"key", "data", "state", "genesis", "clock", "broker"} <= set(found)
    assert "chmod 600" in found["key"]
    assert "operator" in found["genesis"]
    assert "nothing listens there" in found["broker"]
    assert all(text.partition("; ")[2] for text in found.values()), found


def test_doctor_goes_on_where_the_configuration_is_wrong(home: Path) -> None:
    home.write_text("brokers = [")
    assert set(failing(home)) == {"config"}


@pytest.mark.parametrize(
    ("now_ms", "block_time_ms", "trust_until_ms", "words"),
    [
        (1_000_000, 1_000_000 + 60_001, None, "behind a block"),
        (10**12, 10**12 - 1, 10**12, "trust"),
    ],
)
def test_a_clock_that_cannot_be_right_is_told(
    now_ms: int, block_time_ms: int, trust_until_ms: int | None, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        check_clock(now_ms=now_ms, block_time_ms=block_time_ms, trust_until_ms=trust_until_ms)
    assert check_clock(now_ms=10**12, block_time_ms=10**12 + 60_000, trust_until_ms=2 * 10**12)
