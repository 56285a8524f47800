"""What a device says when a broker does not let it in, and what it does about it."""

import threading
import time
from pathlib import Path

import pytest

from headwater_agent.config import AgentConfig, BrokerAddress, Tls
from headwater_agent.data.config import parse_data
from headwater_agent.enrol import renewal as renewal_module
from headwater_agent.enrol.renewal import RenewalFiles, Renewer
from headwater_agent.guest.config import GuestConfig
from headwater_agent.machine.backoff import Jitter
from headwater_agent.machine.effects import OpenConnection, Publish
from headwater_agent.machine.limits import DeviceLimits
from headwater_agent.shell.connection import Connection
from headwater_agent.shell.refusal import explain_refusal
from headwater_gateway.registrar.authority import DAY_MS
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.errors import ConfigError, TransportError
from headwater_protocol.identifiers import Network
from tests.support.mosquitto import make_authority, make_broker, wall_ms, write_client
from tests.support.network import key, make_cast

CAST = make_cast(shards=("shard-0",))
TIMEOUT_S = 10.0
NO_TLS = Tls(ca_file=None, cert_file=None, key_file=None)


def config_with(folder: Path, tls: Tls) -> AgentConfig:
    """A configuration of a device that a registrar took in."""
    return AgentConfig(
        brokers=(BrokerAddress(host="localhost", port=8883, uses_tls=True),),
        genesis=folder / "genesis",
        network=bytes(32),
        shard="shard-0",
        weight=1,
        key=folder / "key",
        state=folder / "state.db",
        data=parse_data({"path": "data"}, folder=folder, max_bytes=1 << 20),
        guest=GuestConfig(),
        login=None,
        tls=tls,
        limits=DeviceLimits(),
        enrolment=folder / "enrolment.json",
    )


def connect(port: int, tls: Tls) -> str:
    """What came of an attempt: the problem, or nothing where it was let in."""
    opening = OpenConnection(
        session=1, will=Publish(topic="will", payload=b"", qos=1, is_retained=False)
    )
    try:
        connection = Connection(
            address=BrokerAddress(host="localhost", port=port, uses_tls=True),
            opening=opening,
            client_id="device",
            login=None,
            tls=tls,
        )
    except TransportError as error:
        return str(error)
    deadline = time.monotonic() + TIMEOUT_S
    while not connection.is_closed and not connection.is_connected:
        assert time.monotonic() < deadline
        connection.handle(can_read=True, can_write=connection.wants_write)
        time.sleep(0.01)
    if connection.is_connected:
        connection.abort()
        return ""
    return connection.problem


def tls_of(folder: Path, certificate: Path | None) -> Tls:
    return Tls(ca_file=folder / "broker" / "ca.pem", cert_file=certificate, key_file=certificate)


@pytest.mark.broker
def test_an_expired_certificate_gets_a_line_that_says_so(tmp_path):
    authority = make_authority()
    expired = write_client(tmp_path, authority, "ab" * 32, life_ms=-1_000)
    valid = write_client(tmp_path, authority, "cd" * 32)
    with make_broker(tmp_path / "broker", CAST.genesis, authority) as broker:
        assert connect(broker.port, tls_of(tmp_path, valid)) == ""
        tls = tls_of(tmp_path, expired)
        found = explain_refusal(connect(broker.port, tls), tls, now_ms=wall_ms())
        assert found.is_own_certificate
        assert "has expired" in found.text
        assert str(expired) in found.text
        none = tls_of(tmp_path, None)
        assert connect(broker.port, none)


@pytest.mark.broker
def test_a_brokers_expired_certificate_gets_a_line_that_says_so(tmp_path):
    authority = make_authority()
    broker = make_broker(tmp_path / "broker", CAST.genesis, authority)
    pair = authority.issue_pair(
        "broker", ("localhost",), now_ms=wall_ms() - 9 * DAY_MS, serial=bytes(16), life_ms=DAY_MS
    )
    (tmp_path / "broker" / "broker.pem").write_text(pair.certificate_pem)
    (tmp_path / "broker" / "broker.key").write_text(pair.key_pem)
    tls = tls_of(tmp_path, write_client(tmp_path, authority, "ab" * 32))
    with broker:
        problem = connect(broker.port, tls)
    found = explain_refusal(problem, tls, now_ms=wall_ms())
    assert "have the broker's certificate renewed" in found.text
    assert found.is_own_certificate is None


@pytest.mark.parametrize(
    ("problem", "words", "is_own"),
    [
        ("[SSL: SSLV3_ALERT_CERTIFICATE_REVOKED] sslv3 alert certificate revoked", "revoked", True),
        ("[SSL: SSLV3_ALERT_CERTIFICATE_EXPIRED] alert certificate expired", "has expired", True),
        ("EOF occurred in violation of protocol (_ssl.c:2427)", "may have revoked", False),
        ("certificate verify failed: Hostname mismatch", "for other names", None),
        ("unable to get local issuer certificate", "tls.ca_file", None),
        ("[Errno 111] Connection refused", "Connection refused", None),
    ],
)
def test_the_words_of_a_library_are_explained(tmp_path, problem, words, is_own):
    certificate = write_client(tmp_path, make_authority(), "ab" * 32)
    found = explain_refusal(problem, tls_of(tmp_path, certificate), now_ms=wall_ms())
    assert words in found.text
    assert found.is_own_certificate is is_own


def test_without_a_certificate_of_its_own_nothing_is_read_into_an_end():
    found = explain_refusal("EOF occurred in violation of protocol", NO_TLS, now_ms=0)
    assert found.is_own_certificate is None


def test_a_certificate_that_cannot_be_read_is_named(tmp_path):
    missing = tls_of(tmp_path, tmp_path / "broker.pem")
    found = explain_refusal("Connection refused", missing, now_ms=0)
    assert "broker.pem" in found.text


class Calls:
    """Stands for the registrar: notes what the renewer asks of it, and says no `failures` times."""

    def __init__(self, files: RenewalFiles, authority, *, failures: int = 0) -> None:
        self.files = files
        self.authority = authority
        self.failures = failures
        self.num_renewed = 0
        self.num_asked = 0
        self.happened = threading.Event()

    def renew(
        self, files: RenewalFiles, secret: SecretKey, *, network: Network, now_ms: int
    ) -> int:
        self.happened.set()
        if self.failures:
            self.failures -= 1
            raise TransportError("away")
        self.num_renewed += 1
        write_client(files.certificate.parent, self.authority, "ab" * 32).rename(files.certificate)
        return now_ms + DAY_MS

    def open_registrar(self, files: RenewalFiles):
        calls = self

        class Client:
            def fetch_status(self, device):
                calls.num_asked += 1
                calls.happened.set()

        return Client(), None


@pytest.fixture
def make_renewer(tmp_path, monkeypatch):
    started = []

    def make(*, life_ms: int, failures: int = 0) -> tuple[Renewer, Calls]:
        authority = make_authority()
        files = RenewalFiles(
            enrolment=tmp_path / "enrolment.json",
            certificate=tmp_path / "broker.pem",
            authority=tmp_path / "ca.pem",
        )
        write_client(tmp_path, authority, "ab" * 32, life_ms=life_ms).rename(files.certificate)
        calls = Calls(files, authority, failures=failures)
        monkeypatch.setattr(renewal_module, "renew", calls.renew)
        monkeypatch.setattr(renewal_module, "open_registrar", calls.open_registrar)
        monkeypatch.setattr(renewal_module, "FIRST_RETRY_MS", 50)
        renewer = Renewer(files, key("a"), network=CAST.network, jitter=Jitter(bytes(32)))
        renewer.start()
        started.append(renewer)
        return renewer, calls

    yield make
    for renewer in started:
        renewer.stop()


def wait_until(is_true) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_certificate_is_renewed_before_it_ends_and_after_failures(make_renewer):
    _, calls = make_renewer(life_ms=60_000, failures=2)
    wait_until(lambda: calls.num_renewed == 1)
    assert calls.failures == 0


def test_a_fresh_certificate_is_left_alone(make_renewer):
    renewer, calls = make_renewer(life_ms=90 * DAY_MS)
    assert not calls.happened.wait(0.2)
    renewer.hurry(is_certain=True)
    wait_until(lambda: calls.num_renewed == 1)


def test_a_doubt_is_asked_about_and_renews_nothing(make_renewer):
    renewer, calls = make_renewer(life_ms=90 * DAY_MS)
    renewer.hurry(is_certain=False)
    wait_until(lambda: calls.num_asked == 1)
    assert calls.num_renewed == 0


def test_a_broker_that_goes_on_refusing_does_not_make_a_device_hammer(make_renewer, monkeypatch):
    renewer, calls = make_renewer(life_ms=90 * DAY_MS)
    monkeypatch.setattr(renewal_module, "FIRST_RETRY_MS", 3_600_000)
    renewer.hurry(is_certain=True)
    wait_until(lambda: calls.num_renewed == 1)
    for _ in range(20):
        renewer.hurry(is_certain=True)
    assert calls.num_renewed == 1


def test_keys_that_belong_together_are_asked_for_together(tmp_path):
    for tls in (
        NO_TLS,
        Tls(ca_file=tmp_path / "ca", cert_file=tmp_path / "a", key_file=tmp_path / "b"),
    ):
        with pytest.raises(ConfigError, match="tls"):
            renewal_module.make_renewer(config_with(tmp_path, tls), key("a"))
    together = Tls(ca_file=tmp_path / "ca", cert_file=tmp_path / "a", key_file=tmp_path / "a")
    assert renewal_module.make_renewer(config_with(tmp_path, together), key("a")) is not None
