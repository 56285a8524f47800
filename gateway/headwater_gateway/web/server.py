"""The gateway's HTTP service: one listener, routes from several owners, one way to say no.

Every answer that is not the thing asked for is JSON, `{"reason": ..., "detail": ...}`, with a
reason code from the table that devices and ledgers use. A handler raises; it formats no error.
"""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from aiohttp import web

from headwater_gateway.web.config import TlsFiles
from headwater_protocol.errors import ConfigError, InvalidMessage, StorageError
from headwater_protocol.messages.chunk import MAX_BLOB_BYTES
from headwater_protocol.reasons import ReasonCode

logger = logging.getLogger(__name__)

MAX_REQUESTS: Final = 64
"""Under way at a time; more are answered `busy`."""

REQUEST_TIMEOUT_S: Final = 120.0
"""For a request as a whole; a body that drips is cut off."""

KEEPALIVE_S: Final = 30.0

STOP_TIMEOUT_S: Final = 2.0

HTTP_STATUS: Final[dict[ReasonCode, int]] = {
    ReasonCode.BAD_SIGNATURE: 401,
    ReasonCode.NOT_PERMITTED: 403,
    ReasonCode.UNAVAILABLE: 404,
    ReasonCode.DUPLICATE: 409,
    ReasonCode.TOO_LARGE: 413,
    ReasonCode.BUSY: 503,
}
"""Of the reasons that have one of their own; the others are 400."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Refused(InvalidMessage):
    """A request is refused for a reason that its handler names."""

    def __init__(self, reason: ReasonCode, detail: str) -> None:
        super().__init__(detail)
        self.code = reason


def refusal(reason: ReasonCode, detail: str) -> web.Response:
    """The answer to what is refused."""
    return web.json_response(
        {"reason": str(reason), "detail": detail}, status=HTTP_STATUS.get(reason, 400)
    )


class WebServer:
    """Listens while it is started."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        routes: Sequence[Iterable[web.AbstractRouteDef]],
        tls: TlsFiles | None = None,
    ) -> None:
        """Set up; `start` listens.

        Args:
            host: The address to listen on.
            port: The port to listen on; 0 takes a free one.
            routes: A table of each owner.
            tls: None serves plain HTTP.

        Raises:
            ConfigError: If the TLS files cannot be used.
        """
        self._host = host
        self._port = port
        self._tls = None if tls is None else _load_tls(tls)
        self._under_way = 0
        app = web.Application(client_max_size=MAX_BLOB_BYTES, middlewares=[self._guard])
        for table in routes:
            app.add_routes(table)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            keepalive_timeout=KEEPALIVE_S,
            shutdown_timeout=STOP_TIMEOUT_S,
            handler_cancellation=True,
        )

    async def start(self) -> str:
        """Listen; the URL.

        Raises:
            ConfigError: If it cannot listen there.
        """
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port, ssl_context=self._tls)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigError(
                "web",
                f"cannot listen on {self._host}:{self._port}: {error.strerror}",
                fix="choose another host or port",
            ) from error
        port = self._runner.addresses[0][1]
        scheme = "http" if self._tls is None else "https"
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{scheme}://{host}:{port}"

    async def stop(self) -> None:
        """Close the listener and what is connected; harmless before the start."""
        await self._runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._under_way >= MAX_REQUESTS:
            return refusal(ReasonCode.BUSY, f"{MAX_REQUESTS} requests are under way")
        self._under_way += 1
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                return await handler(request)
        except Refused as error:
            return refusal(error.code, str(error))
        except InvalidMessage as error:
            return refusal(error.reason, str(error))
        except web.HTTPRequestEntityTooLarge:
            return refusal(ReasonCode.TOO_LARGE, f"the limit is {MAX_BLOB_BYTES} bytes")
        except web.HTTPException as error:
            answer = {"reason": str(ReasonCode.BAD_ENCODING), "detail": error.reason}
            return web.json_response(answer, status=error.status)
        except StorageError as error:
            logger.warning("event=disk detail=%r", str(error))
            return refusal(ReasonCode.BUSY, "the disk takes nothing now, try again later")
        except TimeoutError:
            return refusal(ReasonCode.BUSY, f"took longer than {REQUEST_TIMEOUT_S:.0f} s")
        finally:
            self._under_way -= 1


def _load_tls(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(files.certificate, files.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            "web.tls_certificate",
            f"{files.certificate} with {files.key}: {error}",
            fix="name a PEM certificate and its key",
        ) from error
    return context
