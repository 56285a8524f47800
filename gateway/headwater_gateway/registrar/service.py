"""The registrar inside a gateway: its store, its HTTPS server and its keeper."""

import asyncio
import logging
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from headwater_gateway.config import EnrolmentConfig, GatewayConfig
from headwater_gateway.registrar.authority import DAY_MS, Authority
from headwater_gateway.registrar.desk import RegistrarDesk, RegistrarSettings
from headwater_gateway.registrar.files import read_file
from headwater_gateway.registrar.keeper import Gateway, Keeper, KeeperSettings
from headwater_gateway.registrar.setup import MAX_PEM_FILE_BYTES, check_own_certificate
from headwater_gateway.registrar.store import RegistrarStore
from headwater_gateway.registrar.tokens import DeviceEntry
from headwater_gateway.web.enrolment import EnrolmentRoutes, LedgerView
from headwater_gateway.web.registrar import https_server, make_server_tls
from headwater_protocol.chain.genesis import Genesis, encode_genesis, genesis_network
from headwater_protocol.errors import StorageError

logger = logging.getLogger("headwater.registrar")

STORE_NAME: Final = "registrar.sqlite"


def store_path(config: GatewayConfig) -> Path:
    """Where tokens and devices are kept: with the ledgers."""
    return config.folder / STORE_NAME


def load_authority(config: EnrolmentConfig) -> Authority:
    """The network's authority.

    Raises:
        ConfigError: Names the file and the fix.
    """
    key = read_file(
        config.ca_key_file,
        key="enrolment.ca_key_file",
        max_bytes=MAX_PEM_FILE_BYTES,
        is_secret=True,
    )
    certificate = read_file(config.ca_file, key="enrolment.ca_file", max_bytes=MAX_PEM_FILE_BYTES)
    return Authority.load(key, certificate, key="enrolment.ca_key_file")


class RegistrarService:
    """What `open_registrar` gives; attached to a gateway, then run beside it."""

    def __init__(
        self,
        *,
        config: EnrolmentConfig,
        settings: RegistrarSettings,
        keeping: KeeperSettings,
        authority: Authority,
        stores: tuple[RegistrarStore, RegistrarStore],
        tls: ssl.SSLContext,
    ) -> None:
        self._config = config
        self._settings = settings
        self._keeping = keeping
        self._authority = authority
        self._stores = stores
        self._tls = tls
        self._gateway: Gateway | None = None
        self._keeper: Keeper | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.port: int | None = None
        """Where it listens, once it does."""

    def attach(self, gateway: Gateway, loop: asyncio.AbstractEventLoop) -> None:
        """Tell a gateway that is about to run of all devices, and write the revocation list.

        Raises:
            StorageError: If the store is unusable.
            ConfigError: If the list cannot be written.
        """
        self._gateway, self._loop = gateway, loop
        self._keeper = Keeper(
            settings=self._keeping,
            store=self._stores[1],
            authority=self._authority,
            gateway=gateway,
            now_ms=_now_ms,
        )
        self._keeper.start()

    async def run(self, ledger: LedgerView) -> None:
        """Serve until cancelled.

        Raises:
            ConfigError: If the address is taken.
            StorageError: If the store becomes unusable.
        """
        if self._keeper is None:
            raise RuntimeError("attach comes before run")
        desk = RegistrarDesk(
            settings=self._settings,
            authority=self._authority,
            store=self._stores[0],
            on_accepted=self._on_accepted,
            now_ms=_now_ms,
        )
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def fail(error: StorageError) -> None:
            if not failed.done():
                failed.set_exception(error)

        routes = EnrolmentRoutes(desk, ledger, on_failure=fail)
        try:
            async with https_server(
                routes.routes, host=self._config.host, port=self._config.port, tls=self._tls
            ) as port:
                self.port = port
                logger.info("event=registrar_started host=%s port=%d", self._config.host, port)
                keeping = asyncio.create_task(self._keeper.run(), name="keeper")
                try:
                    await asyncio.wait({keeping, failed}, return_when=asyncio.FIRST_COMPLETED)
                    (failed if failed.done() else keeping).result()
                finally:
                    keeping.cancel()
                    failed.cancel()
                    await asyncio.gather(keeping, return_exceptions=True)
        finally:
            routes.close()

    def _on_accepted(self, entry: DeviceEntry) -> None:
        logger.info(
            "event=device_accepted device=%s shard=%s token=%s label=%r",
            *(entry.device.hex(), entry.shard, entry.token.hex(), entry.label),
        )
        gateway, loop = self._gateway, self._loop
        if gateway is not None and loop is not None:
            loop.call_soon_threadsafe(
                lambda: gateway.enrol(entry.shard, entry.device, weight=entry.weight)
            )


@contextmanager
def open_registrar(
    config: GatewayConfig, enrolment: EnrolmentConfig, genesis: Genesis, brokers: Sequence[str]
) -> Iterator[RegistrarService]:
    """Open all that a registrar needs, and close it at the end.

    Raises:
        ConfigError: Names the key and the fix.
        StorageError: If the store is unusable, or of another network.
    """
    authority = load_authority(enrolment)
    check_own_certificate(
        enrolment.cert_file, key="enrolment.cert_file", authority=authority, now_ms=_now_ms()
    )
    tls = make_server_tls(enrolment.cert_file, enrolment.key_file)
    network = genesis_network(genesis)
    # Two connections: SQLite does not show the second thread's own writes as a change.
    with (
        RegistrarStore(store_path(config), network=network) as first,
        RegistrarStore(store_path(config), network=network) as second,
    ):
        yield RegistrarService(
            config=enrolment,
            settings=RegistrarSettings(
                network=network,
                genesis=encode_genesis(genesis),
                shards=tuple(sorted(shard.shard for shard in config.shards)),
                brokers=enrolment.brokers,
                certificate_life_ms=enrolment.certificate_days * DAY_MS,
            ),
            keeping=KeeperSettings(
                crl_file=enrolment.crl_file,
                reload=enrolment.reload,
                brokers=tuple(brokers),
                ca_file=config.tls.ca_file,
            ),
            authority=authority,
            stores=(first, second),
            tls=tls,
        )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
