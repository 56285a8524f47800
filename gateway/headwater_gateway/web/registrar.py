"""A minimal HTTPS server for the registrar's routes."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from aiohttp import web

from headwater_gateway.web.enrolment import refuse
from headwater_protocol.errors import ConfigError
from headwater_protocol.reasons import ReasonCode

MAX_BODY_BYTES: Final = 64 * 1024
MAX_LINE_BYTES: Final = 8 * 1024
MAX_HEADERS_BYTES: Final = 8 * 1024
KEEPALIVE_S: Final = 15.0
HANDSHAKE_TIMEOUT_S: Final = 10.0
FIRST_REQUEST_S: Final = 10.0
"""In which the first request's head has to arrive."""
MAX_CONNECTIONS: Final = 512
"""At once; one more is closed."""
SHUTDOWN_S: Final = 2.0
BACKLOG: Final = 128


class _Closing(asyncio.Protocol):
    """For a connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class _Gate:
    """Makes the protocols of connections: so many at once, and none that never asks anything."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._silent: set[int] = set()
        """Identities of those that have not asked yet; the timer keeps each of them alive."""
        self.server: web.Server | None = None

    def __call__(self) -> asyncio.Protocol:
        if self.server is None or len(self.server.connections) >= MAX_CONNECTIONS:
            return _Closing()
        handler = self.server()
        self._silent.add(id(handler))
        self._loop.call_later(FIRST_REQUEST_S, self._end_silent, handler)
        return handler

    @web.middleware
    async def answer_in_json(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """What no route takes is refused as everything else is."""
        self._silent.discard(id(request.protocol))
        try:
            return await handler(request)
        except web.HTTPException as error:
            answer = refuse(ReasonCode.BAD_ENCODING, f"{request.method} {request.path[:80]}")
            answer.set_status(error.status)
            return answer

    def _end_silent(self, handler: web.RequestHandler) -> None:
        if id(handler) in self._silent:
            self._silent.discard(id(handler))
            if handler.transport is not None:
                handler.transport.abort()


@asynccontextmanager
async def https_server(
    routes: Iterable[web.RouteDef], *, host: str, port: int, tls: ssl.SSLContext
) -> AsyncIterator[int]:
    """Serve while the context lasts; the port that it listens on.

    Args:
        routes: Of all owners.
        host: The address to listen on.
        port: 0 takes a free one.
        tls: With the server's certificate.

    Raises:
        ConfigError: If it cannot listen there.
    """
    gate = _Gate(asyncio.get_running_loop())
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[gate.answer_in_json])
    app.add_routes(list(routes))
    runner = web.AppRunner(
        app,
        access_log=None,
        keepalive_timeout=KEEPALIVE_S,
        max_line_size=MAX_LINE_BYTES,
        max_field_size=MAX_HEADERS_BYTES,
        shutdown_timeout=SHUTDOWN_S,
    )
    await runner.setup()
    gate.server = runner.server
    try:
        listening = await _listen(gate, host, port, tls)
        try:
            yield int(listening.sockets[0].getsockname()[1])
        finally:
            listening.close()
    finally:
        await runner.cleanup()


async def _listen(gate: _Gate, host: str, port: int, tls: ssl.SSLContext) -> asyncio.Server:
    try:
        return await asyncio.get_running_loop().create_server(
            gate, host, port, ssl=tls, backlog=BACKLOG, ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S
        )
    except OSError as error:
        raise ConfigError(
            "enrolment.port",
            f"cannot listen on {host}:{port}: {error.strerror}",
            fix="choose another port or host",
        ) from error


def make_server_tls(cert_file: Path, key_file: Path) -> ssl.SSLContext:
    """TLS 1.2 or newer with a certificate.

    Raises:
        ConfigError: If the files cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert_file, key_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            "enrolment.cert_file",
            f"{cert_file} and {key_file}: {error}",
            fix="name the files that headwater-gateway init --tls made",
        ) from None
    return context
