"""The registrar's paths: a table of routes for the gateway's HTTPS server.

```
GET  /enrol/v1/authority          the authority's certificate, PEM
GET  /enrol/v1/genesis            the genesis
GET  /enrol/v1/epochs/<number>    what leads a light client to an epoch
GET  /enrol/v1/devices/<id>       how far an enrolment is, proven
POST /enrol/v1/devices            join with a token
POST /enrol/v1/certificates       renew a certificate
```

Bodies are records, errors are JSON: `{"reason": ..., "detail": ...}`. What proves itself (genesis,
epochs, a device's entry) needs no login; what is asked for in a device's name is signed by its key.
"""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, Protocol, TypeVar

from aiohttp import web

from headwater_gateway.registrar.desk import RegistrarDesk
from headwater_gateway.registrar.tokens import Refused
from headwater_gateway.web.rate import RateLimit
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.errors import InvalidMessage, StorageError, TooLarge
from headwater_protocol.identifiers import ChainId, DeviceId, EpochNumber
from headwater_protocol.light.update import EpochUpdate
from headwater_protocol.messages.credential import (
    MAX_REQUEST_BYTES,
    PATH,
    DeviceProof,
    EnrolmentStatus,
)
from headwater_protocol.reasons import ReasonCode

logger = logging.getLogger(__name__)

RECORD_TYPE: Final = "application/cbor"
BURST: Final = 60
"""Requests that one address may send at once: a device that joins asks about a dozen times."""
REFILL_MS: Final = 500
MAX_WAITING: Final = 256
"""Requests that wait for the registrar's thread; more are answered `busy`."""
BODY_TIMEOUT_S: Final = 10.0
"""In which a body has to arrive."""
_DEVICE: Final = re.compile(r"[0-9a-f]{64}")
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,17}")

STATUSES: Final = {
    ReasonCode.BUSY: 429,
    ReasonCode.TOO_LARGE: 413,
    ReasonCode.BAD_SIGNATURE: 401,
    ReasonCode.TOKEN_UNKNOWN: 403,
    ReasonCode.TOKEN_SPENT: 403,
    ReasonCode.TOKEN_EXPIRED: 403,
    ReasonCode.TOKEN_REVOKED: 403,
    ReasonCode.REVOKED: 403,
    ReasonCode.NOT_ENROLLED: 404,
    ReasonCode.WRONG_EPOCH: 404,
    ReasonCode.DUPLICATE: 409,
    ReasonCode.WRONG_NONCE: 409,
    ReasonCode.WRONG_SHARD: 409,
    ReasonCode.UNAVAILABLE: 503,
}
"""Of HTTP; 400 for the rest."""

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class LedgerView(Protocol):
    """What the gateway's machine knows of the ledgers; asked on the event loop."""

    def prove_device(self, shard: ChainId, device: DeviceId) -> DeviceProof | None:
        """A device's entry, proven; None while there is none."""
        ...

    @property
    def last_epoch(self) -> EpochNumber:
        """The last one whose proof is at hand."""
        ...

    def epoch_update(self, epoch: EpochNumber) -> EpochUpdate | None:
        """What leads to an epoch."""
        ...


class EnrolmentRoutes:
    """The handlers; `routes` is what a server takes.

    Args:
        desk: Answers devices.
        ledger: Proves what they ask about.
        on_failure: Told when the store is unusable, which has to stop the process.
        now_ms: A clock that never goes back.
    """

    def __init__(
        self,
        desk: RegistrarDesk,
        ledger: LedgerView,
        *,
        on_failure: Callable[[StorageError], None],
        now_ms: Callable[[], int] = lambda: time.monotonic_ns() // 1_000_000,
    ) -> None:
        self._on_failure = on_failure
        self._desk = desk
        self._ledger = ledger
        self._now_ms = now_ms
        self._rate = RateLimit(burst=BURST, refill_ms=REFILL_MS)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="registrar")
        self._num_waiting = 0

    @property
    def routes(self) -> list[web.RouteDef]:
        """Method, path and handler of each."""
        return [
            web.get(f"{PATH}/authority", self._guarded(self._authority)),
            web.get(f"{PATH}/genesis", self._guarded(self._genesis)),
            web.get(f"{PATH}/epochs/{{epoch}}", self._guarded(self._epoch)),
            web.get(f"{PATH}/devices/{{device}}", self._guarded(self._status)),
            web.post(f"{PATH}/devices", self._guarded(self._join)),
            web.post(f"{PATH}/certificates", self._guarded(self._renew)),
        ]

    def close(self) -> None:
        """Let the request at work end, and take no other."""
        self._pool.shutdown(cancel_futures=True)

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            wait_ms = self._rate.wait_ms(request.remote or "", self._now_ms())
            if wait_ms:
                answer = refuse(ReasonCode.BUSY, "too many requests from this address")
                answer.headers["Retry-After"] = str(-(-wait_ms // 1_000))
                return answer
            try:
                return await handler(request)
            except Refused as error:
                return refuse(error.refusal, str(error))
            except InvalidMessage as error:
                return refuse(error.reason, str(error))
            except StorageError as error:
                # What cannot be kept must not be promised: the process stops.
                self._on_failure(error)
                return refuse(ReasonCode.UNAVAILABLE, "the registrar's store is unusable")

        return guarded

    async def _authority(self, request: web.Request) -> web.StreamResponse:
        return web.Response(
            text=self._desk.authority.certificate_pem, content_type="application/x-pem-file"
        )

    async def _genesis(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=self._desk.settings.genesis, content_type=RECORD_TYPE)

    async def _epoch(self, request: web.Request) -> web.StreamResponse:
        text = request.match_info["epoch"]
        if _NUMBER.fullmatch(text) is None:
            raise Refused(ReasonCode.BAD_ENCODING, "an epoch is a number from 1")
        update = self._ledger.epoch_update(EpochNumber(int(text)))
        if update is None:
            raise Refused(ReasonCode.WRONG_EPOCH, f"no proof of epoch {text} is kept here")
        return _answer(update)

    async def _status(self, request: web.Request) -> web.StreamResponse:
        text = request.match_info["device"]
        if _DEVICE.fullmatch(text) is None:
            raise Refused(ReasonCode.BAD_ENCODING, "a device id has 64 hexadecimal digits")
        device = DeviceId(bytes.fromhex(text))
        entry = await self._ask(partial(self._desk.find, device))
        return _answer(
            EnrolmentStatus(
                device=device,
                epoch=self._ledger.last_epoch,
                proven=self._ledger.prove_device(entry.shard, device),
            )
        )

    async def _join(self, request: web.Request) -> web.StreamResponse:
        body = await read_body(request, max_bytes=MAX_REQUEST_BYTES)
        return _answer(await self._ask(partial(self._desk.join, body)))

    async def _renew(self, request: web.Request) -> web.StreamResponse:
        body = await read_body(request, max_bytes=MAX_REQUEST_BYTES)
        return _answer(await self._ask(partial(self._desk.renew, body)))

    async def _ask(self, call: Callable[[], T]) -> T:
        if self._num_waiting >= MAX_WAITING:
            raise Refused(ReasonCode.BUSY, f"{MAX_WAITING} requests wait")
        self._num_waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, call)
        finally:
            self._num_waiting -= 1


async def read_body(request: web.Request, *, max_bytes: int) -> bytes:
    """The whole body, read only as far as the limit.

    Raises:
        TooLarge: If it is longer.
        Refused: If it does not arrive in time.
    """
    announced = request.content_length
    if announced is not None and announced > max_bytes:
        raise TooLarge("the body", size=announced, limit=max_bytes)
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while chunk := await request.content.read(max_bytes + 1 - len(data)):
                data += chunk
                if len(data) > max_bytes:
                    raise TooLarge("the body", size=len(data), limit=max_bytes)
    except TimeoutError:
        raise Refused(ReasonCode.UNAVAILABLE, "the body did not arrive in time") from None
    return bytes(data)


def refuse(reason: ReasonCode, detail: str) -> web.Response:
    """The JSON of a refusal, with the status that goes with its reason."""
    return web.json_response(
        {"reason": reason.value, "detail": detail}, status=STATUSES.get(reason, 400)
    )


def _answer(record: object) -> web.Response:
    return web.Response(body=encode_record(record), content_type=RECORD_TYPE)
