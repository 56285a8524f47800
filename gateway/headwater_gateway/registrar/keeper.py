"""What follows from the registrar's store: enrolments, revocation lists, ended sessions.

Tokens and revocations are written by the command line, in another process, and SQLite tells nobody;
so the store is asked once a second whether it has changed. Everything is done from what the store
says and noted there when it is done, so a restart goes on where it was.

A revoked device is shut out in this order: the list of certificates is written, the brokers are
told to read it, and then its live session is ended by taking it over, with a certificate of its
name that lasts for minutes. The other way round it would be back before the door is shut.
"""

import asyncio
import hashlib
import logging
import math
import os
import ssl
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import aiomqtt

from headwater_gateway.registrar.authority import CRL_BACKDATE_MS, SERIAL_BYTES, Authority
from headwater_gateway.registrar.files import PUBLIC_MODE, SECRET_MODE, write_whole
from headwater_gateway.registrar.store import RegistrarStore
from headwater_gateway.registrar.tokens import DeviceEntry
from headwater_gateway.shell.mqtt import CLIENT_LOGGER, parse_broker_url
from headwater_protocol.identifiers import ChainId, DeviceId

logger = logging.getLogger("headwater.registrar")

WATCH_S: Final = 1.0
RELOAD_TIMEOUT_S: Final = 30.0
CUT_TIMEOUT_S: Final = 10.0
CUT_LIFE_MS: Final = 10 * 60_000
"""Of the certificate that takes a session over."""
FIRST_RETRY_S: Final = 2.0
LAST_RETRY_S: Final = 300.0
EMPTY_LIST: Final = hashlib.sha256(b"").digest()
"""Of a list without certificates: nothing that brokers would have to read."""
MAX_OUTPUT_BYTES: Final = 500
"""Of a reload command, in the log."""


class Gateway(Protocol):
    """Whom the store's devices are told to; on the event loop."""

    def enrol(self, shard: ChainId, device: DeviceId, *, weight: int) -> None:
        """Put a device on the ledger."""
        ...

    def revoke(self, shard: ChainId, device: DeviceId) -> None:
        """Leave a device out."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperSettings:
    """Where revocations go."""

    crl_file: Path
    reload: tuple[str, ...]
    brokers: tuple[str, ...]
    """Where sessions are ended; those that the gateway itself connects to."""
    ca_file: Path | None


class Keeper:
    """Watches the store and does what follows.

    Args:
        settings: Where revocations go.
        store: A connection of its own, since one does not see its own writes.
        authority: Signs lists and takeover certificates.
        gateway: Told of devices.
        now_ms: UTC.
    """

    def __init__(
        self,
        *,
        settings: KeeperSettings,
        store: RegistrarStore,
        authority: Authority,
        gateway: Gateway,
        now_ms: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._store = store
        self._authority = authority
        self._gateway = gateway
        self._now_ms = now_ms
        self._version: int | None = None
        self._listed: bytes | None = None
        """The digest of what the list in the file holds."""
        self._retry_s = FIRST_RETRY_S
        self._retry_at_s = math.inf
        self._has_warned = False

    def start(self) -> None:
        """Tell the gateway of all devices, and write the list; before anything is served."""
        self._version = self._store.version
        for entry in self._store.devices():
            self._tell(entry)
        self._write_list()

    async def run(self) -> None:
        """Keep watching until cancelled.

        Raises:
            StorageError: If the store is unusable.
        """
        loop = asyncio.get_running_loop()
        self._retry_at_s = loop.time()
        while True:
            version = await asyncio.to_thread(lambda: self._store.version)
            is_due = loop.time() >= self._retry_at_s
            if version != self._version or is_due:
                self._version = version
                await self._catch_up()
            await asyncio.sleep(WATCH_S)

    async def _catch_up(self) -> None:
        entries = await asyncio.to_thread(self._store.devices)
        for entry in entries:
            self._tell(entry)
        listed = await asyncio.to_thread(self._write_list)
        is_done = await asyncio.to_thread(lambda: self._store.read_list) == listed
        if not is_done and (is_done := await self._reload(listed)):
            await asyncio.to_thread(self._store.note_read_list, listed)
        for entry in entries:
            if entry.revoked_ms is not None and entry.cut_ms is None:
                is_cut = await self._cut_everywhere(entry)
                is_done = is_done and is_cut
        self._plan(is_done=is_done)

    def _plan(self, *, is_done: bool) -> None:
        if is_done:
            self._retry_s, self._retry_at_s = FIRST_RETRY_S, math.inf
        else:
            self._retry_at_s = asyncio.get_running_loop().time() + self._retry_s
            self._retry_s = min(LAST_RETRY_S, 2 * self._retry_s)

    def _tell(self, entry: DeviceEntry) -> None:
        if entry.revoked_ms is None:
            self._gateway.enrol(entry.shard, entry.device, weight=entry.weight)
        else:
            self._gateway.revoke(entry.shard, entry.device)

    def _write_list(self) -> bytes:
        """Write the revocation list if the file holds another one; the digest of what it holds."""
        revoked = self._store.revoked_serials(self._now_ms())
        listed = hashlib.sha256(b"".join(serial for serial, _ in revoked)).digest()
        if listed != self._listed:
            make_revocation_file(
                self._store, self._authority, self._settings.crl_file, now_ms=self._now_ms()
            )
            self._listed = listed
            logger.info("event=revocation_list certificates=%d", len(revoked))
        return listed

    async def _reload(self, listed: bytes) -> bool:
        command = self._settings.reload
        if listed == EMPTY_LIST:
            return True
        if not command:
            if not self._has_warned:
                self._has_warned = True
                logger.warning(
                    'event=reload_brokers detail="%s changed; have your brokers read it, and set'
                    ' enrolment.reload to the command that does so"',
                    self._settings.crl_file,
                )
            return True
        problem = await _run(command)
        if problem:
            logger.error("event=reload_failed command=%s detail=%r", command[0], problem)
        return not problem

    async def _cut_everywhere(self, entry: DeviceEntry) -> bool:
        results = await asyncio.gather(
            *(self._cut(url, entry.device) for url in self._settings.brokers)
        )
        if all(results):
            await asyncio.to_thread(self._store.note_cut, entry.device, self._now_ms())
            logger.info("event=session_ended device=%s", entry.device.hex())
        return all(results)

    async def _cut(self, url: str, device: DeviceId) -> bool:
        try:
            async with asyncio.timeout(CUT_TIMEOUT_S):
                await self._take_over(url, device)
        except (aiomqtt.MqttError, TimeoutError, OSError) as error:
            address = parse_broker_url(url)
            logger.warning(
                "event=cut_failed broker=%s:%d device=%s detail=%r",
                *(address.host, address.port, device.hex()[:16], str(error)),
            )
            return False
        return True

    async def _take_over(self, url: str, device: DeviceId) -> None:
        address = parse_broker_url(url)
        tls = self._make_tls(device) if address.is_tls else None
        async with aiomqtt.Client(
            hostname=address.host,
            port=address.port,
            username=address.username,
            password=address.password,
            identifier=device.hex(),
            protocol=aiomqtt.ProtocolVersion.V311,
            tls_context=tls,
            clean_session=True,
            timeout=CUT_TIMEOUT_S,
            logger=CLIENT_LOGGER,
        ):
            return

    def _make_tls(self, device: DeviceId) -> ssl.SSLContext:
        pair = self._authority.issue_pair(
            device.hex(),
            (),
            now_ms=self._now_ms(),
            serial=os.urandom(SERIAL_BYTES),
            life_ms=CUT_LIFE_MS,
        )
        context = ssl.create_default_context(
            cafile=None if self._settings.ca_file is None else str(self._settings.ca_file)
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "takeover.pem"
            data = (pair.key_pem + pair.certificate_pem).encode()
            write_whole(path, data, mode=SECRET_MODE)
            context.load_cert_chain(path)
        return context


def make_revocation_file(
    store: RegistrarStore, authority: Authority, path: Path, *, now_ms: int
) -> None:
    """Write the list of what is revoked now.

    Raises:
        ConfigError: If the file cannot be written.
        StorageError: If the store is unusable.
    """
    number, time_ms = store.next_list(now_ms - CRL_BACKDATE_MS)
    text = authority.make_revocation_list(
        store.revoked_serials(now_ms), time_ms=time_ms, number=number
    )
    write_whole(path, text.encode(), mode=PUBLIC_MODE)


async def _run(command: Sequence[str]) -> str:
    """Run a command to its end; what went wrong, or nothing."""
    try:
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        return str(error)
    try:
        async with asyncio.timeout(RELOAD_TIMEOUT_S):
            _, output = await child.communicate()
    except TimeoutError:
        child.kill()
        await child.wait()
        return f"took longer than {RELOAD_TIMEOUT_S:.0f} s"
    if child.returncode:
        text = output[:MAX_OUTPUT_BYTES].decode("utf-8", "replace").strip()
        return f"exit code {child.returncode}: {text}"
    return ""
