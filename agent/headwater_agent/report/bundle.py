"""A support archive: configuration, status, checks, log and versions, and no secret.

Nothing that is packed is made from a secret. Still, what was packed is searched before it is
written, for every secret that the configuration names, raw, in hexadecimal and in base64, because a
log holds what anybody wrote into it.
"""

import base64
import io
import json
import platform
import re
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from datetime import datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Final

from headwater_agent.config import AgentConfig
from headwater_agent.config_sources import load_layers
from headwater_agent.data.config import TopicSource
from headwater_agent.report.doctor import examine
from headwater_agent.report.status import make_status
from headwater_agent.service.unit import UNIT_NAME
from headwater_agent.storage.files import write_durably
from headwater_protocol.errors import ConfigError, HeadwaterError

MAX_LOG_LINES: Final = 2_000
MAX_LOG_BYTES: Final = 4 * 1024 * 1024
MAX_SECRET_BYTES: Final = 64 * 1024
MIN_SECRET_BYTES: Final = 4
"""A shorter password would blot out half of the text."""
JOURNAL_TIMEOUT_S: Final = 20
REDACTED: Final = b"[redacted]"


def write_bundle(
    path: Path,
    *,
    config_path: Path,
    environment: Mapping[str, str],
    options: Iterable[str],
    log: Path | None,
    now: datetime,
) -> None:
    """Write the archive to `path`; what cannot be had is replaced by the reason.

    Args:
        path: Of the archive, made with mode 0600.
        config_path: Of the device.
        environment: Of the process.
        options: From the command line.
        log: A log file; None asks the journal.
        now: For the times in the archive.

    Raises:
        ConfigError: If `path` cannot be written.
    """
    options = list(options)
    files: dict[str, bytes] = {}
    secrets: list[bytes] = []
    try:
        layered = load_layers(config_path, environment=environment, options=options)
    except ConfigError as error:
        files["config.json"] = _encode({"error": str(error)})
    else:
        secrets = find_secrets(layered.config)
        files["config.json"] = _encode(
            {
                setting.name: {"value": str(setting.value), "source": setting.source}
                for setting in layered.settings
            }
        )
        files["status.json"] = _encode(_status(layered.config, now))
    checks = examine(config_path, environment=environment, options=options)
    files["doctor.json"] = _encode([check.to_json() for check in checks])
    files["versions.json"] = _encode(_versions())
    files["log.txt"] = _read_log(log)
    stem = f"headwater-agent-{now:%Y%m%dT%H%M%SZ}"
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, data in sorted(files.items()):
            scrubbed = scrub(data, secrets)
            member = tarfile.TarInfo(f"{stem}/{name}")
            member.size = len(scrubbed)
            member.mtime = int(now.timestamp())
            tar.addfile(member, io.BytesIO(scrubbed))
    try:
        write_durably(path, archive.getvalue(), mode=0o600)
    except OSError as error:
        raise ConfigError("--out", f"{path}: {error.strerror}", fix="name another file") from None


def find_secrets(config: AgentConfig) -> list[bytes]:
    """What the files that the configuration names hold in secret."""
    secrets: list[bytes] = []
    password = config.login.password_file if config.login is not None else None
    source = config.data.source
    sensor = source.broker.password_file if isinstance(source, TopicSource) else None
    for path in (config.key, password, sensor, config.tls.key_file, config.tls.cert_file):
        data = _read_bounded(path) if path is not None else b""
        if path == config.key:
            # The file holds the seed in hexadecimal.
            try:
                secrets.append(bytes.fromhex(data.decode("ascii").strip()))
            except ValueError:
                secrets += data.split()
        elif b"-----BEGIN" in data:
            secrets += _pem_bodies(data)
        else:
            secrets += [line.rstrip(b"\r") for line in data.split(b"\n")]
    return [secret for secret in secrets if len(secret) >= MIN_SECRET_BYTES]


def scrub(data: bytes, secrets: Iterable[bytes]) -> bytes:
    """`data` without any of `secrets`, raw, in hexadecimal or in base64 at any alignment."""
    for secret in secrets:
        data = data.replace(secret, REDACTED)
        # Text that quotes or escapes a secret holds it as JSON writes it.
        quoted = json.dumps(secret.decode("utf-8", "replace"))[1:-1].encode()
        data = data.replace(quoted, REDACTED)
        data = re.sub(re.escape(secret.hex().encode()), REDACTED, data, flags=re.IGNORECASE)
        for form in _base64_forms(secret):
            data = data.replace(form, REDACTED)
    return data


def _base64_forms(secret: bytes) -> list[bytes]:
    """What every base64 text that holds `secret` has in common, for each of three alignments."""
    forms = []
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + secret)
        # The first characters mix in what stands before, the last ones what follows.
        start = (0, 2, 3)[shift]
        end = len(encoded) - (0, 3, 2)[(len(secret) + shift) % 3]
        body = encoded[start:end]
        forms += [body, body.translate(bytes.maketrans(b"+/", b"-_"))]
    return [form for form in forms if len(form) >= MIN_SECRET_BYTES]


def _pem_bodies(data: bytes) -> list[bytes]:
    bodies = []
    for body in re.findall(rb"-----BEGIN [^-]*-----(.*?)-----END", data, flags=re.DOTALL):
        lines = body.split()
        bodies += lines
        try:
            bodies.append(base64.b64decode(b"".join(lines), validate=True))
        except ValueError:
            continue
    return bodies


def _status(config: AgentConfig, now: datetime) -> object:
    try:
        return make_status(config, now_ms=int(now.timestamp() * 1_000))
    except HeadwaterError as error:
        return {"error": str(error)}


def _versions() -> dict[str, object]:
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.platform(),
        "packages": {
            str(found.metadata["Name"]): found.version
            for found in sorted(distributions(), key=lambda found: str(found.metadata["Name"]))
        },
    }


def _read_log(path: Path | None) -> bytes:
    if path is not None:
        try:
            with path.open("rb") as file:
                file.seek(0, io.SEEK_END)
                file.seek(max(0, file.tell() - MAX_LOG_BYTES))
                lines = file.read().splitlines(keepends=True)
        except OSError as error:
            return f"{path}: {error.strerror}\n".encode()
        return b"".join(lines[-MAX_LOG_LINES:])
    command = ["journalctl", "-u", UNIT_NAME, "-n", str(MAX_LOG_LINES), "--no-pager", "-o", "short"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=JOURNAL_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the journal could not be read: {error}\n".encode()
    return (done.stdout or done.stderr)[-MAX_LOG_BYTES:]


def _read_bounded(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_SECRET_BYTES)
    except OSError:
        return b""


def _encode(content: object) -> bytes:
    return json.dumps(content, indent=2, sort_keys=True, default=str).encode() + b"\n"
