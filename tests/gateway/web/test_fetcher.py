"""The fetcher against real sockets: honest holders, dead ones, and every way to misbehave."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest
from aiohttp import web

from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.identifiers import MAIN_CHAIN, ValidatorId
from headwater_shard.state.state import State
from tests.support.network import Cast, Chain, key, make_cast
from tests.support.web import (
    Behaviour,
    MemoryShelf,
    close_all,
    make_fetcher,
    make_peers,
    misbehaving,
    run,
    serving,
)

BLOB = bytes(range(256)) * 100
DIGEST = blob_digest(BLOB)


@pytest.fixture(scope="module")
def cast() -> Cast:
    return make_cast()


def states_of(cast: Cast) -> dict[str, State]:
    return {name: Chain(cast, name).app.state for name in (MAIN_CHAIN, "shard-0")}  # type: ignore[arg-type]


async def fetch(
    cast: Cast,
    *behaviours: Behaviour | MemoryShelf,
    timeout_s: float = 0.5,
    max_bytes: int = 10**6,
) -> tuple[bool, MemoryShelf, list[int]]:
    """Fetch `BLOB` from such holders, asked in this order.

    Returns:
        Whether it came, what the store has then, and how often each holder was asked.
    """
    me, *others = cast.all_validators
    asked = [0] * len(behaviours)
    urls: dict[ValidatorId, str] = {}
    async with AsyncExitStack() as stack:
        for index, behaviour in enumerate(behaviours):
            if isinstance(behaviour, MemoryShelf):
                serve = serving(cast.network, states_of(cast), behaviour)
            else:
                serve = misbehaving(counted(behaviour, asked, index))
            urls[others[index].validator] = await stack.enter_async_context(serve)
        shelf, peers = MemoryShelf(), make_peers(cast, urls, me)
        fetcher = make_fetcher(peers, shelf, timeout_s=timeout_s, max_bytes=max_bytes)
        try:
            is_here = await fetcher.fetch(DIGEST, list(urls))
        finally:
            await close_all(fetcher, peers)
    return is_here, shelf, asked


def counted(behaviour: Behaviour, asked: list[int], index: int) -> Behaviour:
    async def answer(request: web.Request) -> web.StreamResponse:
        asked[index] += 1
        return await behaviour(request)

    return answer


async def wrong_bytes(request: web.Request) -> web.StreamResponse:
    return web.Response(body=BLOB[:-1] + b"!")


async def nothing_there(request: web.Request) -> web.StreamResponse:
    return web.Response(status=404)


async def redirect(request: web.Request) -> web.StreamResponse:
    if request.path == "/elsewhere":
        return web.Response(body=BLOB)
    return web.Response(status=302, headers={"Location": "/elsewhere"})


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(bytes(65_536))


async def announces_too_much(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": str(10**9)})
    await response.prepare(request)
    while True:
        await response.write(bytes(65_536))


async def slow_drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": str(len(BLOB))})
    await response.prepare(request)
    for offset in range(len(BLOB)):
        await response.write(BLOB[offset : offset + 1])
        await asyncio.sleep(0.05)
    return response


async def silent(request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError("nobody sets that event")


async def zipped(request: web.Request) -> web.StreamResponse:
    return web.Response(body=BLOB, headers={"Content-Encoding": "gzip"})


async def half(request: web.Request) -> web.StreamResponse:
    """Breaks off in the middle, whatever part is asked for."""
    start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
    rest = BLOB[start:]
    response = web.StreamResponse(status=206 if start else 200)
    response.content_length = len(rest)
    await response.prepare(request)
    await response.write(rest[: len(rest) // 2])
    assert request.transport is not None
    request.transport.close()
    return response


HOSTILE = [
    wrong_bytes,
    nothing_there,
    redirect,
    endless,
    announces_too_much,
    slow_drip,
    silent,
    zipped,
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda behaviour: behaviour.__name__)
def test_a_hostile_holder_is_left_for_the_next(cast: Cast, hostile: Behaviour) -> None:
    async def go() -> None:
        is_here, shelf, asked = await fetch(cast, hostile, MemoryShelf({DIGEST: BLOB}))
        assert is_here
        assert shelf.blobs == {DIGEST: BLOB}
        assert asked[0] == 1

    run(go())


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda behaviour: behaviour.__name__)
def test_hostile_holders_alone_end_in_a_no(cast: Cast, hostile: Behaviour) -> None:
    async def go() -> None:
        is_here, shelf, asked = await fetch(cast, hostile, hostile)
        assert not is_here
        assert shelf.blobs == {}
        assert asked == [1, 1]

    run(go())


def test_a_dead_holder_is_left_for_the_next(cast: Cast) -> None:
    async def go() -> None:
        me, one, two, *_ = cast.all_validators
        async with misbehaving(nothing_there) as gone:
            pass
        async with serving(cast.network, states_of(cast), MemoryShelf({DIGEST: BLOB})) as url:
            peers = make_peers(cast, {one.validator: gone, two.validator: url}, me)
            shelf = MemoryShelf()
            fetcher = make_fetcher(peers, shelf)
            assert await fetcher.fetch(DIGEST, [one.validator, two.validator])
            assert peers.order([one.validator, two.validator]) == [url, gone]
            await close_all(fetcher, peers)

    run(go())


def test_a_transfer_that_breaks_goes_on_with_the_next_holder(cast: Cast) -> None:
    ranges: list[str | None] = []

    async def whole(request: web.Request) -> web.StreamResponse:
        ranges.append(request.headers.get("Range"))
        start = int(request.headers["Range"].removeprefix("bytes=").rstrip("-"))
        return web.Response(body=BLOB[start:], status=206)

    async def go() -> None:
        is_here, shelf, asked = await fetch(cast, half, whole)
        assert is_here
        assert shelf.blobs == {DIGEST: BLOB}
        assert asked == [4, 1]

    run(go())
    (asked_for,) = ranges
    assert asked_for is not None
    # Four halves of what was left are in already.
    assert int(asked_for.removeprefix("bytes=").rstrip("-")) > len(BLOB) * 9 // 10


def test_a_liar_in_a_patchwork_spoils_nothing(cast: Cast) -> None:
    """A holder that breaks off after wrong bytes must not make the honest next one look bad."""

    async def poison(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = len(BLOB)
        await response.prepare(request)
        await response.write(bytes(1_000))
        assert request.transport is not None
        request.transport.close()
        return response

    async def go() -> None:
        is_here, shelf, _ = await fetch(cast, poison, MemoryShelf({DIGEST: BLOB}))
        assert is_here
        assert shelf.blobs == {DIGEST: BLOB}

    run(go())


@pytest.mark.parametrize(("limit", "comes"), [(len(BLOB), True), (len(BLOB) - 1, False)])
def test_the_limit_in_bytes_holds_to_the_byte(cast: Cast, limit: int, comes: bool) -> None:
    async def go() -> None:
        is_here, _, _ = await fetch(cast, MemoryShelf({DIGEST: BLOB}), max_bytes=limit)
        assert is_here is comes

    run(go())


def test_a_blob_is_fetched_once_however_many_wait(cast: Cast) -> None:
    num_asked = 0
    gate: list[Callable[[], None]] = []

    async def go() -> None:
        waiting = asyncio.Event()
        gate.append(waiting.set)

        async def later(request: web.Request) -> web.StreamResponse:
            nonlocal num_asked
            num_asked += 1
            await waiting.wait()
            return web.Response(body=BLOB)

        me, other, *_ = cast.all_validators
        async with misbehaving(later) as url:
            peers, shelf = make_peers(cast, {other.validator: url}, me), MemoryShelf()
            fetcher = make_fetcher(peers, shelf)
            tasks = [asyncio.create_task(fetcher.fetch(DIGEST, [other.validator])) for _ in "abc"]
            while not num_asked:
                await asyncio.sleep(0)
            # One that gives up does not end the fetch of the others.
            tasks[0].cancel()
            gate[0]()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert results[1:] == [True, True]
            assert await fetcher.fetch(DIGEST, [other.validator])
            await close_all(fetcher, peers)
        assert num_asked == 1

    run(go())


def test_nobody_to_ask_is_a_no_at_once(cast: Cast) -> None:
    async def go() -> None:
        me, *_ = cast.all_validators
        peers, shelf = make_peers(cast, {}, me), MemoryShelf()
        fetcher = make_fetcher(peers, shelf)
        assert not await fetcher.fetch(DIGEST, [key("stranger").validator])
        await close_all(fetcher, peers)

    run(go())


def test_what_is_asked_of_whom_is_signed_so_that_a_gateway_serves_it(cast: Cast) -> None:
    """A gateway whose key is no delegate's gets nothing from honest holders."""

    async def go() -> None:
        holder = cast.all_validators[1]
        async with serving(cast.network, states_of(cast), MemoryShelf({DIGEST: BLOB})) as url:
            found: list[bool] = []
            for who in (key("stranger"), cast.all_validators[0]):
                peers, shelf = make_peers(cast, {holder.validator: url}, who), MemoryShelf()
                fetcher = make_fetcher(peers, shelf)
                found.append(await fetcher.fetch(DIGEST, [holder.validator]))
                await close_all(fetcher, peers)
            assert found == [False, True]

    run(go())
