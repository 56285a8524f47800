"""Payloads on more than one disk before anybody is promised anything."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from aiohttp import web

from headwater_gateway.web.replicator import Replicator
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.identifiers import MAIN_CHAIN, Digest, ValidatorId
from headwater_shard.placement import list_holders, rank_holders
from tests.support.network import Cast, Chain, make_cast
from tests.support.web import (
    Behaviour,
    MemoryShelf,
    make_peers,
    misbehaving,
    run,
    serving,
)

BLOBS = [b"payload %d" % number for number in range(12)]


@pytest.fixture(scope="module")
def cast() -> Cast:
    return make_cast(validators_per_shard=5)


async def full(request: web.Request) -> web.StreamResponse:
    return web.json_response({"reason": "busy"}, status=503)


async def silent(request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError("nobody sets that event")


async def lying(request: web.Request) -> web.StreamResponse:
    return web.Response(status=302, headers={"Location": "/"})


async def replicate(
    cast: Cast, others: list[MemoryShelf | Behaviour | None]
) -> tuple[dict[Digest, bool], Replicator]:
    """Give `BLOBS` to gateways of the other delegates; None is one that nobody was told of."""
    me, *rest = cast.all_validators
    own = MemoryShelf({blob_digest(blob): blob for blob in BLOBS})
    states = {name: Chain(cast, name).app.state for name in (MAIN_CHAIN, "shard-0")}  # type: ignore[arg-type]
    urls: dict[ValidatorId, str] = {}
    async with AsyncExitStack() as stack:
        for entry, other in zip(rest, others, strict=True):
            if isinstance(other, MemoryShelf):
                serve = serving(cast.network, states, other)
            elif other is not None:
                serve = misbehaving(other)
            else:
                continue
            urls[entry.validator] = await stack.enter_async_context(serve)
        peers = make_peers(cast, urls, me)
        replicator = Replicator(peers, own=frozenset({me.validator}), get=own.get, timeout_s=0.3)
        kept = await replicator.replicate(list(own.blobs), cast.genesis.committee(MAIN_CHAIN))
        await peers.close()
    return dict(kept), replicator


def test_each_holder_gets_what_it_is_to_keep_and_nothing_else(cast: Cast) -> None:
    shelves = [MemoryShelf() for _ in range(4)]

    async def go() -> None:
        kept, replicator = await replicate(cast, [*shelves])
        assert all(kept.values())
        assert replicator.counters.short == 0

    run(go())
    committee = cast.genesis.committee(MAIN_CHAIN)
    for entry, shelf in zip(cast.all_validators[1:], shelves, strict=True):
        expected = {
            blob_digest(blob)
            for blob in BLOBS
            if entry.validator in list_holders(blob_digest(blob), committee)
        }
        assert set(shelf.blobs) == expected


@pytest.mark.parametrize("behaviour", [full, silent, lying], ids=lambda one: one.__name__)
def test_a_holder_that_does_not_take_it_is_replaced_by_the_next(
    cast: Cast, behaviour: Behaviour
) -> None:
    shelves = [MemoryShelf() for _ in range(3)]

    async def go() -> None:
        kept, replicator = await replicate(cast, [behaviour, *shelves])
        assert all(kept.values())
        assert replicator.counters.short == 0
        assert replicator.counters.refused > 0

    run(go())
    committee = cast.genesis.committee(MAIN_CHAIN)
    me, bad, *_ = (entry.validator for entry in cast.all_validators)
    for blob in map(blob_digest, BLOBS):
        willing = [holder for holder in rank_holders(blob, committee) if holder not in {me, bad}]
        copies = sum(blob in shelf for shelf in shelves)
        assert copies >= len(set(list_holders(blob, committee)) - {me})
        assert copies <= len(willing)


def test_what_nobody_else_takes_is_not_promised(cast: Cast) -> None:
    async def go() -> None:
        kept, replicator = await replicate(cast, [full, lying, full, lying])
        assert not any(kept.values())
        assert replicator.counters.lonely == len(BLOBS)

    run(go())


def test_one_other_copy_is_enough_to_promise_and_is_counted_as_short(cast: Cast) -> None:
    shelf = MemoryShelf()

    async def go() -> None:
        kept, replicator = await replicate(cast, [full, lying, full, shelf])
        assert all(kept.values())
        assert 0 < replicator.counters.short <= len(BLOBS)
        assert replicator.counters.lonely == 0

    run(go())
    assert set(shelf.blobs) == {blob_digest(blob) for blob in BLOBS}


def test_alone_in_the_world_one_s_own_disk_is_what_there_is(cast: Cast) -> None:
    async def go() -> None:
        kept, _ = await replicate(cast, [None, None, None, None])
        assert all(kept.values())

    run(go())
