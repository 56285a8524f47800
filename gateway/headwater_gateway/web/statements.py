"""`/withheld`: what delegates tell each other about payloads that nobody serves.

A statement carries its signer's signature and counts only if the ledger bears it out, so the route
asks for no other proof of who sends it.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import aiohttp
from aiohttp import web

from headwater_gateway.web.peers import Peers
from headwater_protocol.chain.evidence import WithheldPayload
from headwater_protocol.encoding.record import decode_record, encode_record
from headwater_protocol.errors import TooLarge

logger = logging.getLogger(__name__)

PATH: Final = "/withheld"
MAX_STATEMENT_BYTES: Final = 32 * 1024
"""With the signatures of the largest committee."""
SHARE_TIMEOUT_S: Final = 5.0
BODY_TIMEOUT_S: Final = 5.0
"""For a statement to come in: anybody may send one, and a drip must not hold a place."""


class StatementRoutes:
    """The route for statements of other gateways."""

    def __init__(self, on_statement: Callable[[WithheldPayload], None]) -> None:
        self._on_statement = on_statement

    def table(self) -> list[web.RouteDef]:
        """For `WebServer`."""
        return [web.post(PATH, self._post)]

    async def _post(self, request: web.Request) -> web.Response:
        size = request.content_length
        if size is None or size > MAX_STATEMENT_BYTES:
            raise TooLarge("statement", size=size or 0, limit=MAX_STATEMENT_BYTES)
        data = bytearray()
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for piece in request.content.iter_any():
                data += piece
                if len(data) > size:
                    break
        said = decode_record(WithheldPayload, bytes(data), max_bytes=MAX_STATEMENT_BYTES)
        self._on_statement(said)
        return web.Response(status=202)


async def share_statement(peers: Peers, said: WithheldPayload) -> None:
    """Tell every other gateway, each once; who is away is told again with the next time."""
    data = encode_record(said)
    urls = sorted(set(peers.urls.values()))
    await asyncio.gather(*(_tell(peers, url, data) for url in urls))


async def _tell(peers: Peers, url: str, data: bytes) -> None:
    try:
        async with (
            asyncio.timeout(SHARE_TIMEOUT_S),
            peers.session().post(url + PATH, data=data, allow_redirects=False) as response,
        ):
            detail = f"answered {response.status}"
            is_told = response.status == 202
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        is_told, detail = False, f"{type(error).__name__}: {error}"
    if not is_told:
        logger.info("event=statement_refused peer=%s detail=%s", url, detail)
