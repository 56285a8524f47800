"""Joining with a token: whom a device believes, what it leaves, how it goes on after a cut."""

import dataclasses
import json
import ssl
import stat
from pathlib import Path

import pytest

from headwater_agent.cli import main
from headwater_agent.config import load_config
from headwater_agent.enrol import folder as folder_module
from headwater_agent.enrol.certificate import compute_fingerprint, read_validity_ms
from headwater_agent.enrol.client import RegistrarClient, RegistrarRefusal, parse_url
from headwater_agent.enrol.folder import EnrolmentFolder, load_enrolment
from headwater_agent.enrol.joining import Joining, JoinPlan
from headwater_agent.enrol.renewal import RenewalFiles, compute_due_ms, renew
from headwater_agent.keyfile import load_key
from headwater_gateway.web.rate import RateLimit
from headwater_protocol.errors import (
    BadEncoding,
    BadProof,
    ConfigError,
    InvalidMessage,
    StorageError,
    TransportError,
)
from headwater_protocol.identifiers import DeviceId, Height, Network
from headwater_protocol.messages.token import Token, format_token, parse_token
from headwater_protocol.reasons import ReasonCode
from tests.support.credential_records import make_device, make_proof
from tests.support.https import Server
from tests.support.mosquitto import make_authority
from tests.support.network import make_cast
from tests.support.registrar import (
    AUTHORITY,
    BROKERS,
    CAST,
    HOUR_MS,
    NETWORK,
    NOW_MS,
    make_token,
    secret_of,
    token_id,
)

GENESIS_NOW_MS = int(CAST.genesis.time_ms) + 60_000


@pytest.fixture
def server(tmp_path):
    with Server(tmp_path / "server") as server:
        server.desk.give(make_token(1, weight=1), make_token(2))
        server.routes._rate = RateLimit(burst=10_000, refill_ms=1)
        server.desk.accepted = Enroller(server)
        server.desk.desk._on_accepted = server.desk.accepted.append
        yield server


class Enroller(list):
    """Puts whoever is accepted on the ledger at once."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server
        self.is_away = False
        self.entry = make_device(weight=1, enrolled_height=Height(1))
        self.cast = CAST

    def append(self, entry) -> None:
        super().append(entry)
        if not self.is_away:
            self.enrol(entry)

    def enrol(self, entry) -> None:
        self.server.ledger.proofs[entry.device] = make_proof(
            self.cast, self.entry, shard=entry.shard, name=entry.device
        )


def token_text(number: int = 1, *, network: Network = NETWORK, fingerprint: bytes = b"") -> str:
    return format_token(
        network=network,
        fingerprint=fingerprint or AUTHORITY.fingerprint,
        token=token_id(number),
        secret=secret_of(number),
    )


def make_plan(server: Server, out: Path, *, token: Token | None = None, **changes) -> JoinPlan:
    plain = {
        "url": server.url,
        "token": token or parse_token(token_text()),
        "folder": EnrolmentFolder(out),
        "ca_file": None,
        "fingerprint": None,
        "data": "data",
        "wait_s": 0,
    }
    return JoinPlan(**{**plain, **changes})


def join(server: Server, out: Path, **changes):
    lines: list[str] = []
    joining = Joining(
        make_plan(server, out, **changes),
        tell=lines.append,
        now_ms=lambda: GENESIS_NOW_MS,
        sleep=lambda seconds: None,
    )
    return joining.run(), lines


def test_a_device_needs_a_url_and_a_token_and_nothing_else(server, tmp_path):
    joined, lines = join(server, tmp_path / "device")
    assert joined.entry is not None
    assert "proven from the genesis" in lines[-1]
    config = load_config(tmp_path / "device" / "agent.toml")
    assert [str(broker) for broker in config.brokers] == list(BROKERS)
    assert (config.network, config.shard, config.weight) == (NETWORK, "shard-0", 1)
    assert load_key(config.key).device == joined.key.device == server.desk.accepted[0].device
    assert config.enrolment is not None
    assert config.tls.cert_file is not None
    begin_ms, end_ms = read_validity_ms(config.tls.cert_file.read_bytes())
    assert begin_ms < NOW_MS < end_ms
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(
        config.tls.cert_file, config.tls.key_file
    )


def test_what_is_secret_only_the_owner_reads(server, tmp_path):
    join(server, tmp_path / "device")
    for name in ("device.key", "broker.pem", "device.db"):
        assert stat.S_IMODE((tmp_path / "device" / name).stat().st_mode) == 0o600, name


def test_to_join_again_says_what_there_is_and_changes_nothing(server, tmp_path):
    join(server, tmp_path / "device")
    held = {path.name: path.read_bytes() for path in (tmp_path / "device").iterdir()}
    joined, lines = join(server, tmp_path / "device")
    assert "joined already" in lines[1]
    assert joined.enrolment.is_on_ledger
    assert {path.name: path.read_bytes() for path in (tmp_path / "device").iterdir()} == held
    assert len(server.desk.accepted) == 1


def test_another_device_cannot_use_the_token(server, tmp_path):
    join(server, tmp_path / "device")
    with pytest.raises(RegistrarRefusal) as caught:
        join(server, tmp_path / "other")
    assert caught.value.refusal is ReasonCode.TOKEN_SPENT


def test_a_cut_at_any_write_leaves_a_folder_with_which_it_goes_on(server, tmp_path, monkeypatch):
    """Each attempt is cut at a later write, and the next one takes it from there."""
    write = folder_module.write_whole
    ids: set[DeviceId] = set()
    for number in range(20):
        count = 0

        def cut(path, data, *, mode, number=number):
            nonlocal count
            count += 1
            if count > number:
                path.with_name(path.name + ".new").write_bytes(data[: len(data) // 2])
                raise StorageError("the power is cut")
            write(path, data, mode=mode)

        for module in ("joining", "folder"):
            monkeypatch.setattr(f"headwater_agent.enrol.{module}.write_whole", cut)
        out = tmp_path / f"device-{number}"
        try:
            join(server, out)
        except StorageError:
            is_cut = True
        else:
            is_cut = False
        for module in ("joining", "folder"):
            monkeypatch.setattr(f"headwater_agent.enrol.{module}.write_whole", write)
        joined, _ = join(server, out)
        assert joined.entry is not None
        load_config(out / "agent.toml")
        ids.add(joined.key.device)
        # The same token serves the next attempt, for this test is about one device.
        server.desk.store._database.execute("DELETE FROM devices")
        server.desk.store._database.execute("UPDATE tokens SET device = NULL, spent_ms = NULL")
        if not is_cut:
            break
    assert number >= 5, "every file was cut once"
    assert len(ids) == number + 1


def test_an_enrolment_that_the_ledger_does_not_have_yet_is_waited_for(server, tmp_path):
    server.desk.accepted.is_away = True
    joined, _ = join(server, tmp_path / "device")
    assert joined.entry is None
    assert (tmp_path / "device" / "agent.toml").exists()
    assert not joined.enrolment.is_on_ledger
    server.desk.accepted.enrol(server.desk.accepted[0])
    joined, _ = join(server, tmp_path / "device")
    enrolment = load_enrolment(tmp_path / "device" / "enrolment.json")
    assert enrolment is not None
    assert enrolment.is_on_ledger


def test_a_proof_that_does_not_hold_is_not_believed(server, tmp_path):
    genuine = server.desk.accepted

    def lie(entry) -> None:
        proof = make_proof(CAST, genuine.entry, shard=entry.shard, name=entry.device)
        changed = dataclasses.replace(proof.device, weight=9)
        server.ledger.proofs[entry.device] = dataclasses.replace(proof, device=changed)

    server.desk.desk._on_accepted = lie
    with pytest.raises(BadProof):
        join(server, tmp_path / "device")
    assert not (tmp_path / "device" / "agent.toml").exists()


def test_a_block_of_other_delegates_is_not_believed(server, tmp_path):
    server.desk.accepted.cast = make_cast(shards=("shard-0", "shard-1"), validators_per_shard=1)
    with pytest.raises(InvalidMessage):
        join(server, tmp_path / "device")


def test_a_registrar_of_another_authority_is_told_nothing(server, tmp_path):
    token = parse_token(token_text(fingerprint=bytes(32)))
    with pytest.raises(ConfigError, match="somebody is in between"):
        join(server, tmp_path / "device", token=token)
    assert not server.desk.accepted
    assert server.desk.store.tokens()[0].device is None


def test_a_token_of_another_network_is_not_sent(server, tmp_path):
    token = parse_token(token_text(network=Network(bytes(32))))
    with pytest.raises(ConfigError, match="the registrar's is"):
        join(server, tmp_path / "device", token=token)
    assert server.desk.store.tokens()[0].device is None


def test_a_fingerprint_stands_in_for_the_tokens(server, tmp_path):
    token = parse_token(token_text(fingerprint=bytes(32)))
    joined, _ = join(server, tmp_path / "device", token=token, fingerprint=AUTHORITY.fingerprint)
    assert joined.entry is not None
    with pytest.raises(ConfigError):
        join(server, tmp_path / "other", token=parse_token(token_text(2)), fingerprint=bytes(32))


def test_a_file_may_vouch_for_the_url(server, tmp_path):
    joined, _ = join(server, tmp_path / "device", ca_file=server.ca_file)
    assert joined.enrolment.ca == str(server.ca_file)
    stranger = tmp_path / "stranger.pem"
    stranger.write_text(make_authority().certificate_pem)
    with pytest.raises(TransportError, match="authority that we do not know"):
        join(server, tmp_path / "other", ca_file=stranger)


def test_a_certificate_for_another_name_is_refused(server, tmp_path):
    with pytest.raises(TransportError, match="other names"):
        join(server, tmp_path / "device", url=f"https://127.0.0.1:{server.port}")


def test_a_registrar_that_is_away_is_asked_again(tmp_path, server):
    client_url = "https://localhost:1"
    with pytest.raises(TransportError, match="refused"):
        join(server, tmp_path / "device", url=client_url)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://gateway:8443", "plain http"),
        ("gateway:8443", "no registrar"),
        ("https://", "no registrar"),
        ("https://user@gateway", "more than an address"),
        ("https://gateway/path", "more than an address"),
        ("https://gateway:0", "no registrar"),
        ("https://gateway:99999", "URL"),
    ],
)
def test_nothing_but_https_is_a_registrar(url, words):
    with pytest.raises(ConfigError, match=words):
        parse_url(url)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["http://gateway:8443", "--token", "hw1.x"], "plain http"),
        (["https://gateway:8443", "--token", "hello"], "begins with hw1."),
        (["https://gateway:8443", "--token", token_text()[:-3]], "cut short"),
        (["https://gateway", "--token", token_text(), "--fingerprint", "12"], "64 hexadecimal"),
        (["https://gateway", "--token", token_text(), "--wait", "-1"], "--wait"),
    ],
    ids=["plain http", "no token", "half a token", "half a fingerprint", "a negative wait"],
)
def test_what_is_to_be_corrected_is_one_line_and_exit_2(tmp_path, capsys, arguments, words):
    assert main(["enroll", *arguments, "--out", str(tmp_path / "device")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert not (tmp_path / "device" / "agent.toml").exists()


def test_a_refused_token_is_one_line_and_exit_2(server, tmp_path, capsys):
    out = str(tmp_path / "device")
    assert main(["enroll", server.url, "--token", token_text(77), "--out", out]) == 2
    assert "token_unknown" in capsys.readouterr().err.splitlines()[-1]


def test_a_damaged_enrolment_says_what_to_do(server, tmp_path):
    join(server, tmp_path / "device")
    (tmp_path / "device" / "enrolment.json").write_text("{")
    with pytest.raises(ConfigError, match="enrol again"):
        join(server, tmp_path / "device")


# Renewal


def files_of(out: Path) -> RenewalFiles:
    return RenewalFiles(
        enrolment=out / "enrolment.json",
        certificate=out / "broker.pem",
        authority=out / "ca.pem",
    )


def test_a_renewed_certificate_is_over_a_new_key(server, tmp_path):
    joined, _ = join(server, tmp_path / "device")
    files = files_of(tmp_path / "device")
    before = files.certificate.read_bytes()
    server.desk.now_ms += 24 * HOUR_MS
    end_ms = renew(files, joined.key, network=NETWORK, now_ms=0)
    after = files.certificate.read_bytes()
    assert compute_fingerprint(after) != compute_fingerprint(before)
    assert before.split(b"-----BEGIN CERT")[0] != after.split(b"-----BEGIN CERT")[0]
    assert read_validity_ms(after)[1] == end_ms > read_validity_ms(before)[1]
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(files.certificate)
    renew(files, joined.key, network=NETWORK, now_ms=0)
    assert server.desk.store.devices()[0].sequence == 2


def test_a_cut_after_the_number_was_used_does_not_use_it_again(server, tmp_path, monkeypatch):
    joined, _ = join(server, tmp_path / "device")
    files = files_of(tmp_path / "device")

    def cut(self, request):
        raise TransportError("cut")

    with monkeypatch.context() as patched:
        patched.setattr(RegistrarClient, "renew", cut)
        with pytest.raises(TransportError):
            renew(files, joined.key, network=NETWORK, now_ms=0)
    renew(files, joined.key, network=NETWORK, now_ms=0)
    assert json.loads(files.enrolment.read_text())["sequence"] == 2


def test_a_revoked_device_gets_no_other_certificate(server, tmp_path):
    joined, _ = join(server, tmp_path / "device")
    files = files_of(tmp_path / "device")
    before = files.certificate.read_bytes()
    server.desk.store.revoke_device(joined.key.device, NOW_MS)
    with pytest.raises(RegistrarRefusal) as caught:
        renew(files, joined.key, network=NETWORK, now_ms=0)
    assert caught.value.refusal is ReasonCode.REVOKED
    assert files.certificate.read_bytes() == before


def test_a_certificate_is_renewed_when_a_third_of_its_life_is_left():
    assert compute_due_ms(begin_ms=1_000, end_ms=4_000) == 3_000
    assert compute_due_ms(begin_ms=5_000, end_ms=4_000) == 4_000


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\n" + b"MII" * 99 + b"\n-----END CERTIFICATE-----\n",
    ],
)
def test_what_is_no_certificate_is_said_to_be_none(pem):
    with pytest.raises(BadEncoding):
        read_validity_ms(pem)
