"""What `doctor` asks the machine: packages, disk, clock, the way to the brokers."""

import os
import select
import shutil
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from headwater_agent.config import BrokerAddress, Login, Tls
from headwater_agent.errors import DiskFull, UnsoundProgram
from headwater_agent.machine.effects import OpenConnection, Publish
from headwater_agent.shell.connection import CONNECT_TIMEOUT_S, Connection
from headwater_agent.shell.problems import SETS_CLOCK
from headwater_agent.storage.disk import explain_disk
from headwater_agent.storage.files import SystemCalls
from headwater_agent.trial import try_program
from headwater_models.program import Program, list_programs
from headwater_protocol.errors import ConfigError, TransportError

PACKAGES: Final = ("cbor2", "numpy", "pycryptodome", "paho-mqtt")
RUNTIMES: Final = ("tflite-runtime", "ai-edge-litert")
REINSTALLS: Final = 'pip install "headwater[agent]"'
MIN_FREE_BYTES: Final = 64 * 1024 * 1024
"""For the state, its log and the journal."""
SLOW_SYNC_MS: Final = 5_000
MAX_CLOCK_BEHIND_MS: Final = 60_000
MAX_SILENCE_MS: Final = 24 * 3_600_000
"""Without a new block, either the network or the clock stands wrong."""


def check_runtime() -> str:
    """Packages and their versions."""
    found = [f"python {sys.version.split()[0]}"]
    for name in PACKAGES:
        held = find_version(name)
        if held is None:
            raise ConfigError(name, "is not installed", fix=REINSTALLS)
        found.append(f"{name} {held}")
    runtimes = [f"{name} {held}" for name in RUNTIMES if (held := find_version(name))]
    if not runtimes:
        raise ConfigError("TFLite runtime", "is not installed", fix=REINSTALLS)
    _require_loadable()
    return ", ".join([*found, *runtimes])


def _require_loadable() -> None:
    """A wheel of another processor or of another numpy fails only when it is loaded, or run."""
    fix = (
        f"{REINSTALLS}; tflite-runtime needs numpy < 2, and on armv7 "
        "--extra-index-url https://www.piwheels.org/simple"
    )
    try:
        from headwater_models import trainer  # noqa: F401, PLC0415
    except (ImportError, OSError, RuntimeError) as error:
        raise ConfigError("TFLite runtime", f"does not load: {error}", fix=fix) from None
    try:
        try_program(Program.load(list_programs()[-1]).data)
    except UnsoundProgram as error:
        # A wheel of a newer processor ends the process that runs a step.
        raise ConfigError("TFLite runtime", str(error), fix=fix) from None


def find_version(name: str) -> str | None:
    """Of an installed package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def check_disk(path: Path) -> str:
    """Space for the state at `path`, and whether what is synced gets there."""
    folder = path.parent
    try:
        free = shutil.disk_usage(folder).free
        if free < MIN_FREE_BYTES:
            raise DiskFull(path)
        probe = folder / f".{path.name}.doctor-{os.getpid()}"
        start_s = time.monotonic()
        try:
            SystemCalls().write(probe, bytes(4_096), 0o600)
            SystemCalls().sync_folder(folder)
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise explain_disk(path, error) from error
    sync_ms = int((time.monotonic() - start_s) * 1_000)
    if sync_ms > SLOW_SYNC_MS:
        raise ConfigError("disk", f"a sync took {sync_ms} ms", fix="replace the card or disk")
    return f"{free // 2**20} MiB free, a synced write took {sync_ms} ms"


def check_clock(*, now_ms: int, block_time_ms: int, trust_until_ms: int | None) -> str:
    """The clock against what the network certified; no time service is asked.

    Args:
        now_ms: UTC, as this machine says.
        block_time_ms: Of the newest certified block that the device heard of; 0 if of none.
        trust_until_ms: Until when the followed elections are believed.
    """
    shown = datetime.fromtimestamp(now_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    behind_ms = block_time_ms - now_ms
    if behind_ms > MAX_CLOCK_BEHIND_MS:
        problem = f"{shown} is {behind_ms // 1_000} s behind a block that the device has seen"
        raise ConfigError("clock", problem, fix=SETS_CLOCK)
    if trust_until_ms is not None and now_ms >= trust_until_ms:
        raise ConfigError(
            "clock",
            f"{shown} is past what the device trusts of the network",
            fix=f"{SETS_CLOCK} if that is wrong; else give an epoch that is in force under "
            "[trust]: pin_epoch, pin_digest, pin_time",
        )
    if block_time_ms and -behind_ms > MAX_SILENCE_MS:
        hours = -behind_ms // 3_600_000
        return f"{shown}; no block for {hours} h, so the network or this clock stands wrong"
    return f"{shown}, not before the last block seen" if block_time_ms else f"{shown}, unconfirmed"


def check_broker(
    address: BrokerAddress, *, login: Login | None, tls: Tls, keys: str = "[login]"
) -> str:
    """Connect, with TLS and login if there are, and leave.

    Args:
        address: Of the broker.
        login: If it asks for one.
        tls: For `mqtts://`.
        keys: Where the configuration has the login, for the fix.

    Raises:
        TransportError: If there is no way to it.
        ConfigError: If it refuses the login, or a file for it cannot be read.
    """
    will = Publish(topic="hw/doctor", payload=b"", qos=0, is_retained=False)
    start_s = time.monotonic()
    connection = Connection(
        address=address,
        opening=OpenConnection(session=0, will=will),
        client_id=f"headwater-doctor-{os.getpid()}",
        login=login,
        tls=tls,
    )
    try:
        end_s = start_s + CONNECT_TIMEOUT_S
        while not (connection.is_connected or connection.is_closed) and time.monotonic() < end_s:
            _serve_once(connection)
        if connection.is_connected:
            connection.disconnect()
            _serve_once(connection)
    finally:
        connection.abort()
    if connection.is_connected:
        taken_ms = int((time.monotonic() - start_s) * 1_000)
        return f"{address} took the connection in {taken_ms} ms" + (
            ", TLS verified" if address.uses_tls else ""
        )
    problem = connection.problem or "it does not answer the connection request"
    if "refused" in problem:
        raise ConfigError(str(address), problem, fix=f"check {keys} and the broker's access list")
    raise TransportError(f"{address}: {problem}; check the port and the broker")


def _serve_once(connection: Connection) -> None:
    if connection.fileno() < 0:
        connection.handle(can_read=False, can_write=False)
        return
    writers: Sequence[Connection] = [connection] if connection.wants_write else []
    readable, writable, _ = select.select([connection], writers, [], 0.2)
    can_read = bool(readable) or connection.has_buffered_bytes
    connection.handle(can_read=can_read, can_write=bool(writable))
