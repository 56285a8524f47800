"""Statements about withheld payloads between gateways, on real sockets."""

from contextlib import AsyncExitStack

import aiohttp
import pytest

from headwater_gateway.web.server import WebServer
from headwater_gateway.web.statements import (
    MAX_STATEMENT_BYTES,
    PATH,
    StatementRoutes,
    share_statement,
)
from headwater_protocol.chain.evidence import WithheldPayload
from headwater_protocol.encoding.record import encode_record
from tests.support.justice import make_trial
from tests.support.web import close_all, make_peers, run


@pytest.fixture(scope="module")
def said() -> WithheldPayload:
    return make_trial().withheld()


def test_every_peer_is_told_once_and_one_that_is_away_stops_nobody(said: WithheldPayload) -> None:
    cast = make_trial().cast
    me, *others = cast.all_validators
    heard: list[WithheldPayload] = []

    async def go() -> None:
        async with AsyncExitStack() as stack:
            urls = []
            for _ in range(3):
                routes = StatementRoutes(heard.append)
                server = WebServer(host="127.0.0.1", port=0, routes=[routes.table()])
                urls.append(await server.start())
                stack.push_async_callback(server.stop)
            away = WebServer(host="127.0.0.1", port=0, routes=[])
            gone = await away.start()
            await away.stop()
            named = [*urls, urls[0], gone]
            peers = make_peers(
                cast, {o.validator: url for o, url in zip(others, named, strict=False)}, me
            )
            await share_statement(peers, said)
            await close_all(peers)

    run(go())
    assert heard == [said] * 3


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"", 400, "bad_encoding"),
        (b"\xff" * 100, 400, "bad_encoding"),
        (bytes(MAX_STATEMENT_BYTES), 400, "bad_encoding"),
        (bytes(MAX_STATEMENT_BYTES + 1), 413, "too_large"),
    ],
)
def test_garbage_is_refused_in_words(data: bytes, status: int, reason: str) -> None:
    heard: list[WithheldPayload] = []

    async def go() -> None:
        server = WebServer(host="127.0.0.1", port=0, routes=[StatementRoutes(heard.append).table()])
        url = await server.start()
        async with (
            aiohttp.ClientSession() as session,
            session.post(url + PATH, data=data) as response,
        ):
            assert (response.status, (await response.json())["reason"]) == (status, reason)
        await server.stop()

    run(go())
    assert heard == []


def test_a_statement_of_the_largest_committee_fits(said: WithheldPayload) -> None:
    (first, *_) = said.signatures
    many = WithheldPayload(statement=said.statement, signatures=(first,) * 128)
    assert len(encode_record(many)) < MAX_STATEMENT_BYTES
