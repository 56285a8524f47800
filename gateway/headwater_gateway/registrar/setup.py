"""The files of a network with TLS: its authority, its certificates, its broker's configuration."""

import logging
import os
import shlex
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headwater_gateway.config import EnrolmentConfig, TlsConfig, format_tls
from headwater_gateway.registrar.authority import (
    CRL_BACKDATE_MS,
    DAY_MS,
    SERIAL_BYTES,
    Authority,
    read_common_name,
    read_end_ms,
)
from headwater_gateway.registrar.files import PUBLIC_MODE, SECRET_MODE, read_file, write_whole
from headwater_gateway.registrar.mosquitto import (
    ACCESS_NAME,
    CONFIG_NAME,
    format_access,
    format_config,
)
from headwater_protocol.chain.genesis import Genesis
from headwater_protocol.errors import ConfigError

logger = logging.getLogger("headwater.registrar")

TLS_NAME: Final = "tls"
BROKER_FOLDER_NAME: Final = "mosquitto"
PID_NAME: Final = "mosquitto.pid"
GATEWAY_NAME: Final = "gateway"
"""The common name of the first gateway's certificate."""
BROKER_NAME: Final = "broker"
DEFAULT_BROKER_PORT: Final = 8883
DEFAULT_REGISTRAR_PORT: Final = 8443
MAX_PEM_FILE_BYTES: Final = 64 * 1024
WARN_BEFORE_MS: Final = 30 * DAY_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerFolder:
    """What is asked of `write_broker_folder`."""

    folder: Path
    hosts: Sequence[str]
    """Names and addresses of the broker, for its certificate."""
    port: int
    name: str = BROKER_NAME
    gateways: Sequence[str] = (GATEWAY_NAME,)
    """Common names, for the access list."""
    crl_file: Path | None = None
    """Where the gateway keeps the list; None puts a copy into the folder."""
    installed: Path | None = None
    """Where the folder will be on the broker's machine; None leaves it where it is."""


def local_hosts(given: Sequence[str]) -> tuple[str, ...]:
    """The names under which a machine is reached: those given, its own, and the loopback's."""
    names = [*given, socket.gethostname(), "localhost", "127.0.0.1"]
    return tuple(dict.fromkeys(name for name in names if name))


def plan_tls(folder: Path, hosts: Sequence[str], *, broker_port: int, port: int) -> str:
    """The part of `gateway.toml` that `write_tls` is for.

    Args:
        folder: Of the network.
        hosts: The first is what devices are told.
        broker_port: Of the broker's TLS listener.
        port: Of the registrar.
    """
    pid = (folder / BROKER_FOLDER_NAME / PID_NAME).absolute()
    return format_tls(
        brokers=[f"mqtts://{bracketed(hosts[0])}:{broker_port}"],
        host="0.0.0.0",  # noqa: S104  # devices come from elsewhere; every request is signed
        port=port,
        reload=["sh", "-c", f"kill -HUP $(cat {shlex.quote(str(pid))})"],
    )


def write_tls(folder: Path, genesis: Genesis, hosts: Sequence[str], *, broker_port: int) -> None:
    """Make the authority and all certificates of a new network, and its broker's configuration.

    Raises:
        ConfigError: If a host is none, or a file cannot be written.
    """
    now_ms = _now_ms()
    authority = Authority.create(genesis.name, now_ms=now_ms, serial=os.urandom(SERIAL_BYTES))
    tls = folder / TLS_NAME
    _make_folder(tls)
    write_whole(tls / "ca.key", authority.key_pem.encode(), mode=SECRET_MODE)
    write_whole(tls / "ca.pem", authority.certificate_pem.encode(), mode=PUBLIC_MODE)
    empty = authority.make_revocation_list((), time_ms=now_ms - CRL_BACKDATE_MS, number=0)
    write_whole(tls / "revoked.crl", empty.encode(), mode=PUBLIC_MODE)
    issue_files(authority, tls, name=GATEWAY_NAME, hosts=hosts)
    write_broker_folder(
        genesis,
        authority,
        BrokerFolder(
            folder=folder / BROKER_FOLDER_NAME,
            hosts=hosts,
            port=broker_port,
            crl_file=tls / "revoked.crl",
        ),
    )


def issue_files(
    authority: Authority, folder: Path, *, name: str, hosts: Sequence[str]
) -> tuple[Path, Path]:
    """Write a new key and its certificate, named for their holder; the two paths.

    Raises:
        ConfigError: If a host is none, or a file cannot be written.
    """
    pair = authority.issue_pair(name, hosts, now_ms=_now_ms(), serial=os.urandom(SERIAL_BYTES))
    _make_folder(folder)
    key_file, cert_file = folder / f"{name}.key", folder / f"{name}.pem"
    write_whole(key_file, pair.key_pem.encode(), mode=SECRET_MODE)
    write_whole(cert_file, pair.certificate_pem.encode(), mode=PUBLIC_MODE)
    return cert_file, key_file


def write_broker_folder(genesis: Genesis, authority: Authority, plan: BrokerFolder) -> Path:
    """Write all that a Mosquitto needs to serve the network; the configuration's path.

    A certificate that is there already stays, so that the command may be repeated after the table
    of topics or the shards have changed.

    Raises:
        ConfigError: If a host is none, or a file cannot be written.
    """
    folder = plan.folder
    place = (plan.installed or folder).absolute()
    _make_folder(folder)
    _make_folder(folder / "data")
    if not (folder / f"{plan.name}.key").exists():
        issue_files(authority, folder, name=plan.name, hosts=plan.hosts)
    write_whole(folder / "ca.pem", authority.certificate_pem.encode(), mode=PUBLIC_MODE)
    crl_file = plan.crl_file
    if crl_file is None or plan.installed is not None:
        data = (
            authority.make_revocation_list(
                (), time_ms=_now_ms() - CRL_BACKDATE_MS, number=0
            ).encode()
            if crl_file is None
            else read_file(crl_file, key="enrolment.crl_file", max_bytes=64 * MAX_PEM_FILE_BYTES)
        )
        write_whole(folder / "revoked.crl", data, mode=PUBLIC_MODE)
        crl_file = place / "revoked.crl"
    access = format_access(genesis, gateways=plan.gateways)
    write_whole(folder / ACCESS_NAME, access.encode(), mode=PUBLIC_MODE)
    text = format_config(
        genesis,
        port=plan.port,
        host=None,
        ca_file=place / "ca.pem",
        cert_file=place / f"{plan.name}.pem",
        key_file=place / f"{plan.name}.key",
        crl_file=crl_file,
        access_file=place / ACCESS_NAME,
        data_folder=place / "data",
        pid_file=place / PID_NAME,
    )
    write_whole(folder / CONFIG_NAME, text.encode(), mode=PUBLIC_MODE)
    return folder / CONFIG_NAME


def make_broker_tls(config: TlsConfig) -> ssl.SSLContext | None:
    """What `[tls]` says of connections to brokers; None where it says nothing.

    Raises:
        ConfigError: If a file cannot be used, or the certificate has expired.
    """
    if config.ca_file is None and config.cert_file is None:
        return None
    try:
        context = ssl.create_default_context(
            cafile=None if config.ca_file is None else str(config.ca_file)
        )
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if config.cert_file is not None:
            context.load_cert_chain(config.cert_file, config.key_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError("tls", str(error), fix="check the files that [tls] names") from None
    if config.cert_file is not None:
        check_own_certificate(config.cert_file, key="tls.cert_file", now_ms=_now_ms())
    return context


def check_own_certificate(
    path: Path, *, key: str, now_ms: int, authority: Authority | None = None
) -> None:
    """Refuse an expired certificate at the start, and say when one is about to.

    Args:
        path: Of the certificate.
        key: Of the configuration, for errors.
        now_ms: UTC.
        authority: Whose it has to be, if anybody's.

    Raises:
        ConfigError: If it cannot be used.
    """
    data = read_file(path, key=key, max_bytes=MAX_PEM_FILE_BYTES)
    name, end_ms = read_common_name(data, key=key), read_end_ms(data, key=key)
    fix = f"headwater-gateway certificate {name} --out {path.parent} --host HOST"
    if now_ms >= end_ms:
        raise ConfigError(key, f"{path} expired on {format_day(end_ms)}", fix=fix)
    if authority is not None and not authority.is_signer_of(data.decode("ascii", "replace")):
        logger.warning(
            "event=other_authority detail=\"%s is not by the network's authority; devices need"
            ' --ca to enrol"',
            path,
        )
    if now_ms >= end_ms - WARN_BEFORE_MS:
        logger.warning(
            'event=certificate_ends file=%s day=%s detail="%s"', path, format_day(end_ms), fix
        )


def gateway_name(tls: TlsConfig, enrolment: EnrolmentConfig) -> str:
    """The name that brokers know this gateway by.

    Raises:
        ConfigError: If its certificate cannot be read.
    """
    path = tls.cert_file or enrolment.cert_file
    data = read_file(path, key="tls.cert_file", max_bytes=MAX_PEM_FILE_BYTES)
    return read_common_name(data, key="tls.cert_file")


def format_day(time_ms: int) -> str:
    """A day in UTC, as people write it."""
    return time.strftime("%Y-%m-%d", time.gmtime(time_ms / 1_000))


def bracketed(host: str) -> str:
    """A host as a URL has it."""
    return f"[{host}]" if ":" in host else host


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            str(folder), str(error.strerror), fix="choose a folder of yours"
        ) from error


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
