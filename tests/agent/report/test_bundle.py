"""The support archive tells a lot, and no secret in any common form."""

import base64
import binascii
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_agent.cli import main
from headwater_agent.keyfile import load_key
from headwater_agent.report.bundle import MAX_LOG_LINES, REDACTED, scrub
from tests.support.agent_home import make_home, write_sensor

PASSWORD = 'pass/word+"quoted" ünïcode'
TLS_KEY = base64.b64encode(bytes(range(180))).decode()


def texts_with(secret: bytes) -> list[bytes]:
    """What a careless program would log: the secret with something around it, however encoded."""
    return [
        encode(b"xyz"[:shift] + secret + b"tail")
        for shift in range(3)
        for encode in (bytes, base64.b64encode, base64.urlsafe_b64encode, binascii.hexlify)
    ]


def forms_of(secret: bytes) -> list[bytes]:
    """Raw, hexadecimal, and base64 at each alignment without the characters that others share."""
    forms = [secret, secret.hex().encode(), secret.hex().upper().encode()]
    for shift in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(b"xyz"[:shift] + secret + b"..."[: (3 - (shift + len(secret)) % 3) % 3])
            first = 4 if shift else 0
            last = len(text) - (4 if (shift + len(secret)) % 3 else 0)
            forms.append(text[first:last])
    return forms


def test_no_secret_is_in_the_archive_in_any_form(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_home(tmp_path)
    (tmp_path / "password.txt").write_text(PASSWORD + "\n")
    body = f"{TLS_KEY[:64]}\n{TLS_KEY[64:]}"
    pem = f"-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n"
    (tmp_path / "tls.key").write_text(pem)
    (tmp_path / "tls.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    seed = load_key(tmp_path / "device.key").seed
    secrets = [seed, PASSWORD.encode(), base64.b64decode(TLS_KEY)]
    careless = tmp_path / "log.txt"
    lines = [text for secret in secrets for text in texts_with(secret)]
    quoted = json.dumps({"password": PASSWORD}).encode()
    careless.write_bytes(b"\n".join([b"a line that may be seen", *lines, quoted, pem.encode()]))
    for key, value in {
        "LOGIN_USERNAME": "pi",
        "LOGIN_PASSWORD_FILE": "password.txt",
        "TLS_CERT_FILE": "tls.pem",
        "TLS_KEY_FILE": "tls.key",
    }.items():
        monkeypatch.setenv(f"HEADWATER_AGENT_{key}", value)
    out = tmp_path / "bundle.tar.gz"
    capsys.readouterr()
    arguments = ["bundle", "--config", str(config), "--out", str(out), "--log", str(careless)]
    assert main(arguments) == 0
    assert out.stat().st_mode & 0o077 == 0
    packed = {}
    with tarfile.open(out) as archive:
        for member in archive.getmembers():
            file = archive.extractfile(member)
            assert file is not None
            packed[member.name.rpartition("/")[2]] = file.read()
    assert set(packed) == {
        *("config.json", "status.json", "doctor.json", "versions.json", "log.txt"),
    }
    for name, content in packed.items():
        for secret in secrets:
            for form in forms_of(secret):
                assert form not in content, (name, form)
    assert b"a line that may be seen" in packed["log.txt"]
    assert TLS_KEY[:64].encode() not in packed["log.txt"]
    assert json.loads(packed["config.json"])["login.username"]["value"] == "pi"
    assert json.loads(packed["status.json"])["is_running"] is False
    assert "numpy" in json.loads(packed["versions.json"])["packages"]


def test_the_sensors_password_is_a_secret_too(tmp_path: Path) -> None:
    config = write_sensor(make_home(tmp_path))
    (tmp_path / "sensor.txt").write_text(PASSWORD + "\n")
    log = tmp_path / "log.txt"
    log.write_bytes(b"\n".join([b"a line that may be seen", *texts_with(PASSWORD.encode())]))
    out = tmp_path / "bundle.tar.gz"
    assert main(["bundle", "--config", str(config), "--out", str(out), "--log", str(log)]) == 0
    with tarfile.open(out) as archive:
        for member in archive.getmembers():
            file = archive.extractfile(member)
            assert file is not None
            content = file.read()
            assert not [form for form in forms_of(PASSWORD.encode()) if form in content]
            if member.name.endswith("log.txt"):
                assert b"a line that may be seen" in content
            if member.name.endswith("config.json"):
                shown = json.loads(content)
                assert shown["data.password_file"]["value"] == "sensor.txt"


def test_a_broken_device_still_gets_its_archive(tmp_path: Path) -> None:
    config = make_home(tmp_path)
    (tmp_path / "device.db").unlink()
    config.write_text("brokers = [")
    out = tmp_path / "bundle.tar.gz"
    log = tmp_path / "log"
    log.write_bytes(b"line\n" * 10_000)
    assert main(["bundle", "--config", str(config), "--out", str(out), "--log", str(log)]) == 0
    with tarfile.open(out) as archive:
        names = {member.name.rpartition("/")[2]: member for member in archive.getmembers()}
        assert {"config.json", "doctor.json", "log.txt"} <= set(names)
        assert names["log.txt"].size == 5 * MAX_LOG_LINES


@given(
    secret=st.binary(min_size=16, max_size=64),
    before=st.binary(max_size=8),
    after=st.binary(max_size=8),
)
def test_whatever_stands_around_a_secret_it_is_found(
    secret: bytes, before: bytes, after: bytes
) -> None:
    around = before + secret + after
    for text in (
        around,
        around.hex().encode(),
        base64.b64encode(around),
        base64.urlsafe_b64encode(around),
    ):
        scrubbed = scrub(text, [secret])
        assert REDACTED in scrubbed
        assert secret not in scrubbed
