"""The registrar's server on a loop of its own, over a desk whose clock is set by hand."""

import asyncio
import threading
from pathlib import Path

from headwater_gateway.registrar.setup import issue_files
from headwater_gateway.web.enrolment import EnrolmentRoutes
from headwater_gateway.web.registrar import https_server, make_server_tls
from headwater_protocol.errors import StorageError
from headwater_protocol.identifiers import ChainId, DeviceId, EpochNumber
from headwater_protocol.light.update import EpochUpdate
from headwater_protocol.messages.credential import DeviceProof
from tests.support.registrar import AUTHORITY, Desk


class Ledger:
    """What a machine would say of the ledgers."""

    def __init__(self) -> None:
        self.proofs: dict[DeviceId, DeviceProof] = {}
        self.updates: dict[EpochNumber, EpochUpdate] = {}

    def prove_device(self, shard: ChainId, device: DeviceId) -> DeviceProof | None:
        return self.proofs.get(device)

    @property
    def last_epoch(self) -> EpochNumber:
        return max(self.updates, default=EpochNumber(0))

    def epoch_update(self, epoch: EpochNumber) -> EpochUpdate | None:
        return self.updates.get(epoch)


class Server:
    """`with Server(folder) as server`: it listens at `server.port`."""

    def __init__(self, folder: Path, *, hosts: tuple[str, ...] = ("localhost",)) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.desk = Desk(folder)
        self.ledger = Ledger()
        self.port = 0
        self.failures: list[StorageError] = []
        self.ca_file = folder / "authority.pem"
        self.ca_file.write_text(AUTHORITY.certificate_pem)
        self._files = issue_files(AUTHORITY, folder, name="server", hosts=hosts)
        self._ready = threading.Event()

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def __enter__(self) -> "Server":
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self.desk.store.close()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        routes = EnrolmentRoutes(self.desk.desk, self.ledger, on_failure=self.failures.append)
        self.routes = routes
        async with https_server(
            routes.routes, host="127.0.0.1", port=0, tls=make_server_tls(*self._files)
        ) as self.port:
            self._ready.set()
            await self._stop.wait()
        routes.close()
