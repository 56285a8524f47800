"""`/comet/<chain>`: what a new node has to know of a chain before it takes a snapshot of it.

CometBFT's light client asks two nodes for commits and validators. The nodes' own RPC stays on a
unix socket; the few calls that read such public facts pass through here, over the gateway's HTTPS.
Nothing that is answered has to be believed: a snapshot is checked against our genesis.
"""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import aiohttp
from aiohttp import web

from headwater_gateway.web.server import Refused
from headwater_protocol.identifiers import ChainId
from headwater_protocol.reasons import ReasonCode
from headwater_shard.engine.cometbft.shell.chunks import ChunkFolder
from headwater_shard.layout import DataFolder

PATH: Final = "/comet/{chain}"
HOME_NAME: Final = "cometbft"
READ_CALLS: Final = frozenset({"commit", "validators", "consensus_params", "header", "status"})
"""Calls that change nothing and are cheap."""
MAX_CALL_BYTES: Final = 4 * 1024
MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
"""A page of validators, or a commit, of the largest committee is far below."""
CALL_TIMEOUT_S: Final = 5.0


def node_home(folder: DataFolder, chain: ChainId) -> Path:
    """The folder of a chain's node."""
    return folder.chain(chain) / HOME_NAME


class CometRoutes:
    """The routes for nodes that join."""

    def __init__(self, folder: DataFolder, chains: Sequence[ChainId]) -> None:
        """Serve what is below `folder`.

        Args:
            folder: The gateway's data.
            chains: Hosted here.
        """
        self._homes = {str(chain): node_home(folder, chain) for chain in chains}

    def table(self) -> list[web.RouteDef]:
        """For `WebServer`."""
        return [web.get(PATH, self._get), web.post(PATH, self._post)]

    async def _get(self, request: web.Request) -> web.Response:
        home = self._home(request)
        manifests = await asyncio.to_thread(ChunkFolder(home / "snapshots").list_manifests)
        return web.json_response({"snapshots": [int(entry.height) for entry in manifests]})

    async def _post(self, request: web.Request) -> web.Response:
        home = self._home(request)
        size = request.content_length
        if size is None or not 0 < size <= MAX_CALL_BYTES:
            raise Refused(ReasonCode.TOO_LARGE, f"a call has up to {MAX_CALL_BYTES} bytes")
        try:
            call = json.loads(await request.read())
        except ValueError as error:
            raise Refused(ReasonCode.BAD_ENCODING, "the call is no JSON") from error
        if not isinstance(call, dict) or str(call.get("method")) not in READ_CALLS:
            raise Refused(ReasonCode.NOT_PERMITTED, f"only {', '.join(sorted(READ_CALLS))}")
        return web.Response(body=await _ask(home, call), content_type="application/json")

    def _home(self, request: web.Request) -> Path:
        home = self._homes.get(request.match_info["chain"])
        if home is None:
            raise Refused(ReasonCode.UNAVAILABLE, "that chain is not here")
        return home


async def _ask(home: Path, call: dict[str, object]) -> bytes:
    """The node's answer, whatever it is."""
    connector = aiohttp.UnixConnector(str(home / "rpc.sock"))
    try:
        async with (
            asyncio.timeout(CALL_TIMEOUT_S),
            aiohttp.ClientSession(connector=connector) as session,
            session.post("http://node/", json=call) as response,
        ):
            answer = await read_answer(response)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Refused(ReasonCode.BUSY, f"the node does not answer: {error!r}") from error
    return answer


async def read_answer(response: aiohttp.ClientResponse) -> bytes:
    """The body, cut off after `MAX_ANSWER_BYTES`; errors as aiohttp's."""
    answer = await response.content.read(MAX_ANSWER_BYTES)
    while not response.content.at_eof() and len(answer) < MAX_ANSWER_BYTES:
        answer += await response.content.read(MAX_ANSWER_BYTES - len(answer))
    return answer
