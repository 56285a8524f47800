"""The registrar's commands, and what `init --tls` leaves."""

import dataclasses
import json
import shutil
import ssl
import stat
from pathlib import Path

import pytest

from headwater_gateway.cli import main
from headwater_gateway.config import load_config
from headwater_gateway.registrar.authority import DAY_MS, read_common_name, read_end_ms
from headwater_gateway.registrar.cli import parse_duration
from headwater_gateway.registrar.service import load_authority, store_path
from headwater_gateway.registrar.setup import WARN_BEFORE_MS, check_own_certificate
from headwater_gateway.registrar.store import RegistrarStore
from headwater_protocol.errors import ConfigError
from headwater_protocol.identifiers import Network
from headwater_protocol.messages.token import parse_token
from tests.support.mosquitto import wall_ms
from tests.support.network import key
from tests.support.registrar import make_join


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    net = tmp_path_factory.mktemp("made") / "net"
    arguments = ["init", "--out", str(net), "--shards", "2", "--delegates", "1"]
    assert main([*arguments, "--tls", "--host", "gateway.local", "--host", "10.0.0.7"]) == 0
    return net


@pytest.fixture
def net(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "net"))


def run(capsys, net: Path, *arguments: str) -> str:
    capsys.readouterr()
    assert main([*arguments, "--config", str(net / "gateway.toml")]) == 0
    return capsys.readouterr().out


def fail(capsys, net: Path, *arguments: str) -> str:
    capsys.readouterr()
    assert main([*arguments, "--config", str(net / "gateway.toml")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def open_store(net: Path) -> RegistrarStore:
    config = load_config(net / "gateway.toml")
    return RegistrarStore(store_path(config), network=config.network)


def spend(net: Path, text: str, name: str) -> None:
    """A device uses a token, without the network in between."""
    token = parse_token(text)
    config = load_config(net / "gateway.toml")
    assert config.enrolment is not None
    authority = load_authority(config.enrolment)
    device = key(name)
    request = dataclasses.replace(
        make_join(device, key("transport"), 1), token=token.token, secret=token.secret
    )
    with open_store(net) as store:
        store.accept(
            request,
            shards=tuple(shard.shard for shard in config.shards),
            issue=lambda who, public: authority.issue_client(
                who.hex(), public, now_ms=wall_ms(), serial=bytes(16)
            ),
            now_ms=wall_ms(),
        )


def test_init_with_tls_makes_all_that_a_fleet_needs(made):
    config = load_config(made / "gateway.toml")
    assert config.brokers == ("mqtts://gateway.local:8883",)
    assert config.enrolment is not None
    assert config.enrolment.brokers == config.brokers
    authority = load_authority(config.enrolment)
    for name in ("ca.key", "gateway.key"):
        assert stat.S_IMODE((made / "tls" / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((made / "mosquitto" / "broker.key").stat().st_mode) == 0o600
    for path in (made / "tls" / "gateway.pem", made / "mosquitto" / "broker.pem"):
        text = path.read_text()
        assert authority.is_signer_of(text)
        assert read_end_ms(text.encode(), key="k") > wall_ms() + 365 * DAY_MS
    assert read_common_name((made / "tls" / "gateway.pem").read_bytes(), key="k") == "gateway"
    context = ssl.create_default_context(cafile=str(made / "tls" / "ca.pem"))
    context.load_verify_locations(cafile=str(made / "tls" / "revoked.crl"))
    mosquitto = (made / "mosquitto" / "mosquitto.conf").read_text()
    for line in mosquitto.splitlines():
        word, _, path = line.partition(" ")
        if word in {"cafile", "certfile", "keyfile", "crlfile", "acl_file"}:
            assert Path(path).is_file(), line


def test_without_tls_there_is_no_registrar_and_no_more_to_do(tmp_path, capsys):
    net = tmp_path / "net"
    assert main(["init", "--out", str(net)]) == 0
    assert "enroll" not in capsys.readouterr().out
    assert not (net / "tls").exists()
    assert load_config(net / "gateway.toml").enrolment is None
    assert "init --tls" in fail(capsys, net, "token", "create")


def test_tokens_are_made_listed_and_taken_back(net, capsys):
    rows = json.loads(
        run(
            capsys,
            net,
            *("token", "create", "--json", "--shard", "shard-2", "--weight", "5"),
            *("--label", "kitchen", "--valid", "12h", "--count", "2"),
        )
    )
    config = load_config(net / "gateway.toml")
    assert config.enrolment is not None
    token = parse_token(rows[0]["token"])
    assert token.names_network(config.network)
    assert token.names_authority(load_authority(config.enrolment).fingerprint)
    assert rows[0]["expires_ms"] - rows[0]["created_ms"] == 12 * 3_600_000
    listed = json.loads(run(capsys, net, "token", "list", "--json"))
    assert [row["state"] for row in listed] == ["open", "open"]
    assert {(row["shard"], row["weight"], row["label"]) for row in listed} == {
        ("shard-2", 5, "kitchen")
    }
    assert "token" not in listed[0], "a token is shown once"
    run(capsys, net, "token", "revoke", rows[0]["id"])
    listed = json.loads(run(capsys, net, "token", "list", "--json"))
    states = {row["id"]: row["state"] for row in listed}
    assert states == {rows[0]["id"]: "revoked", rows[1]["id"]: "open"}
    table = run(capsys, net, "token", "list").splitlines()
    assert table[0].split()[:2] == ["id", "state"]
    assert len(table) == 3


def test_a_device_is_listed_and_revoked(net, capsys):
    text = run(capsys, net, "token", "create").strip()
    spend(net, text, "a")
    (row,) = json.loads(run(capsys, net, "device", "list", "--json"))
    assert (row["device"], row["state"]) == (key("a").device.hex(), "accepted")
    assert row["device"] in run(capsys, net, "device", "list")
    revoked = json.loads(run(capsys, net, "device", "revoke", row["device"], "--json"))
    assert revoked["state"] == "revoked"
    (row,) = json.loads(run(capsys, net, "device", "list", "--json"))
    assert row["state"] == "revoked"
    (token,) = json.loads(run(capsys, net, "token", "list", "--json"))
    assert (token["state"], token["device"]) == ("spent", row["device"])
    assert "revoke the device" in fail(capsys, net, "token", "revoke", token["id"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("token", "create", "--weight", "0"), "--weight"),
        (("token", "create", "--shard", "shard-9"), "use shard-1, shard-2"),
        (("token", "create", "--valid", "soon"), "30m, 12h or 7d"),
        (("token", "create", "--valid", "0m"), "one minute"),
        (("token", "create", "--valid", "999d"), "366 days"),
        (("token", "create", "--count", "1001"), "1 to 1000"),
        (("token", "create", "--label", "x" * 65), "64"),
        (("token", "create", "--label", "a\nb"), "--label"),
        (("token", "revoke", "zz"), "token list"),
        (("token", "revoke", "00" * 6), "token list"),
        (("device", "revoke", "zz"), "64 hexadecimal"),
        (("device", "revoke", "00" * 32), "device list"),
        (("certificate", "../evil", "--out", "x"), "NAME"),
        (("certificate", "g", "--out", "x", "--host", "a b\u00e9"), "--host"),
        (("broker-config", "--out", "x", "--port", "0"), "--port"),
    ],
)
def test_a_mistake_is_one_line_with_the_fix(net, capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert words in fail(capsys, net, *arguments)


def test_a_certificate_is_made_for_a_second_gateway(net, capsys, tmp_path):
    run(capsys, net, "certificate", "gateway-2", "--out", str(tmp_path / "second"), "--host", "g2")
    text = (tmp_path / "second" / "gateway-2.pem").read_bytes()
    assert read_common_name(text, key="k") == "gateway-2"


def test_a_broker_elsewhere_gets_a_folder_of_its_own(net, capsys, tmp_path):
    out = tmp_path / "broker-2"
    command = ("broker-config", "--out", str(out), "--as", "/etc/mosquitto/headwater")
    run(capsys, net, *command, "--host", "b2", "--gateway", "gateway", "--gateway", "gateway-2")
    text = (out / "mosquitto.conf").read_text()
    for name in ("ca.pem", "broker.pem", "broker.key", "revoked.crl", "access.acl"):
        assert (out / name).is_file()
        assert f"/etc/mosquitto/headwater/{name}" in text
    access = (out / "access.acl").read_text()
    assert access.count("\nuser ") == 2
    # To repeat it after a change of topics or gateways leaves the broker's key.
    held = (out / "broker.key").read_bytes()
    run(capsys, net, *command, "--host", "b2")
    assert (out / "broker.key").read_bytes() == held


def test_files_that_do_not_fit_are_named(net, capsys):
    (net / "tls" / "ca.key").chmod(0o644)
    assert "chmod 600" in fail(capsys, net, "token", "create")
    (net / "tls" / "ca.key").chmod(0o600)
    (net / "tls" / "ca.key").write_bytes((net / "tls" / "gateway.key").read_bytes())
    assert "not the key of" in fail(capsys, net, "token", "create")
    (net / "tls" / "ca.key").write_bytes(b"hello")
    assert "no PEM file" in fail(capsys, net, "token", "create")
    (net / "tls" / "ca.key").unlink()
    assert "init --tls makes it" in fail(capsys, net, "token", "create")


CHANGES = {
    "port out of range": ("port = 8443", "port = 70000", "enrolment.port"),
    "unknown key": ('crl_file = "', 'crl = "', "enrolment.crl_file"),
    "no life": ("# certificate_days = 90", "certificate_days = 0", "certificate_days"),
    "no broker": ("brokers = [", "brokers = []\nunused = [", "brokers"),
    "half a certificate": (
        'cert_file = "tls/gateway.pem"       # what brokers',
        "#",
        "one of cert_file and key_file",
    ),
    "no registrar's key": ("registrar_key =", "# registrar_key =", "registrar_key"),
    "a login for devices": ("mqtts://gateway.local", "mqtts://me:pw@gateway.local", "login"),
    "a group with a slash": ("[tls] ", 'intake_group = "a/b"\n[tls] ', "intake_group"),
    "a group at the embedded broker": (
        'brokers = [\n    "mqtts://gateway.local:8883",\n]',
        'intake_group = "a"',
        "embedded broker",
    ),
    "two kinds of brokers": ("[tls] ", '[broker]\nurl = "mqtt://x"\n[tls] ', "keep one of them"),
}


@pytest.mark.parametrize(("old", "new", "words"), CHANGES.values(), ids=CHANGES)
def test_a_mistake_in_the_configuration_names_the_key(net, capsys, old, new, words):
    path = net / "gateway.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert words in fail(capsys, net, "token", "list")


def test_an_expired_certificate_is_refused_at_the_start_with_the_way_to_another(net, caplog):
    path = net / "tls" / "gateway.pem"
    end_ms = read_end_ms(path.read_bytes(), key="k")
    check_own_certificate(path, key="k", now_ms=end_ms - WARN_BEFORE_MS - 1)
    assert not caplog.text
    check_own_certificate(path, key="k", now_ms=end_ms - 1)
    assert "event=certificate_ends" in caplog.text
    with pytest.raises(ConfigError, match="headwater-gateway certificate gateway --out"):
        check_own_certificate(path, key="k", now_ms=end_ms)


def test_durations():
    assert parse_duration("30m") == 30 * 60_000
    assert parse_duration("7d") == 7 * DAY_MS
    for text in ("", "d", "-1d", "1.5h", "7", "7w", "\u0663d", "9999999d"):
        with pytest.raises(ConfigError):
            parse_duration(text)


def test_the_store_of_another_network_is_refused(net, capsys):
    run(capsys, net, "token", "create")
    path = net / "data" / "registrar.sqlite"
    path.unlink()
    RegistrarStore(path, network=Network(bytes(32))).close()
    capsys.readouterr()
    assert main(["token", "list", "--config", str(net / "gateway.toml")]) == 1
    assert "another network" in capsys.readouterr().err


def test_init_tells_root_whose_the_brokers_folder_has_to_be(tmp_path, capsys, monkeypatch):
    for uid, has in ((0, True), (1000, False)):
        monkeypatch.setattr("os.geteuid", lambda uid=uid: uid)
        net = tmp_path / f"net-{uid}"
        arguments = ["init", "--out", str(net), "--delegates", "1"]
        assert main([*arguments, "--tls", "--host", "gateway.local"]) == 0
        step = next(line for line in capsys.readouterr().out.splitlines() if "mosquitto -c" in line)
        assert (f"chown -R mosquitto {net}/mosquitto {net}/tls/revoked.crl && " in step) is has
