"""The routes for blobs on real sockets: who gets what, ranges, and what is stored for whom."""

from collections.abc import Awaitable, Callable

import aiohttp
import pytest

from headwater_gateway.web import blobs as blobs_module
from headwater_gateway.web.blobs import join_row, split_row
from headwater_protocol.chain.market import (
    BlobClass,
    BuyLicence,
    GrantAccess,
    RevokeAccess,
    SetPrice,
)
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.errors import StorageError
from headwater_protocol.identifiers import MAIN_CHAIN, Digest, Network, Units
from headwater_protocol.messages.chunk import MAX_BLOB_BYTES
from headwater_protocol.messages.http_request import CLOCK_WINDOW_MS, HttpMethod
from headwater_shard.state.state import State
from tests.support.ledgers import execute
from tests.support.market import Market, make_market
from tests.support.network import key
from tests.support.web import NOW_MS, MemoryShelf, path_of, run, serving, signed

MODEL = b"shard-0 1"
"""The blob of the first settled model, see `model_of`."""
BLOB = bytes(range(256)) * 40
DIGEST = blob_digest(BLOB)


@pytest.fixture(scope="module")
def market() -> Market:
    market = make_market(names=("alice", "bob"))
    assert market.play() == blob_digest(MODEL)
    return market


def states_of(market: Market) -> dict[str, State]:
    chains = {MAIN_CHAIN: market.main, **market.shards}
    return {name: chain.app.state for name, chain in chains.items()}


Test = Callable[[aiohttp.ClientSession, str, MemoryShelf], Awaitable[None]]


def serve(market: Market, test: Test, *, shelf: MemoryShelf | None = None) -> None:
    """Run `test` against a service that knows the market's ledgers and two blobs."""
    held = shelf or MemoryShelf({blob_digest(data): data for data in (BLOB, MODEL)})

    async def go() -> None:
        async with (
            serving(market.cast.network, states_of(market), held) as url,
            aiohttp.ClientSession() as session,
        ):
            await test(session, url, held)

    run(go())


def delegate(market: Market) -> SecretKey:
    return market.cast.all_validators[0]


def get_headers(
    market: Market, who: SecretKey, blob: Digest = DIGEST, **changes: object
) -> dict[str, str]:
    return signed(who, market.cast.network, path_of(blob), **changes)  # type: ignore[arg-type]


def test_a_delegate_gets_a_blob_whole_and_in_parts(market: Market) -> None:
    async def test(session: aiohttp.ClientSession, url: str, shelf: MemoryShelf) -> None:
        path, headers = path_of(blob_digest(BLOB)), get_headers(market, delegate(market))
        async with session.get(url + path, headers=headers) as response:
            assert (response.status, await response.read()) == (200, BLOB)
            assert response.headers["Accept-Ranges"] == "bytes"
        for text, start, end in (
            ("bytes=0-0", 0, 1),
            ("bytes=100-", 100, len(BLOB)),
            ("bytes=5-9", 5, 10),
            (f"bytes=7-{10**11}", 7, len(BLOB)),
        ):
            async with session.get(url + path, headers={**headers, "Range": text}) as response:
                assert (response.status, await response.read()) == (206, BLOB[start:end])
                expected = f"bytes {start}-{end - 1}/{len(BLOB)}"
                assert response.headers["Content-Range"] == expected
        for text in (f"bytes={len(BLOB)}-", "bytes=9-5", "bytes=-5", "bytes=0-1,3-4", "lines=1-"):
            async with session.get(url + path, headers={**headers, "Range": text}) as response:
                assert response.status == 400, text

    serve(market, test)


def test_head_says_the_size_and_sends_nothing(market: Market) -> None:
    async def test(session: aiohttp.ClientSession, url: str, shelf: MemoryShelf) -> None:
        headers = get_headers(market, delegate(market), method=HttpMethod.HEAD)
        async with session.head(url + path_of(blob_digest(BLOB)), headers=headers) as response:
            assert (response.status, response.content_length) == (200, len(BLOB))
            assert await response.read() == b""

    serve(market, test)


@pytest.mark.parametrize(
    ("how", "status", "reason"),
    [
        ("no signature", 401, "bad_signature"),
        ("garbage", 400, "bad_encoding"),
        ("another path", 401, "bad_signature"),
        ("another method", 401, "bad_signature"),
        ("another network", 401, "bad_signature"),
        ("late", 401, "bad_signature"),
        ("early", 401, "bad_signature"),
        ("a stranger", 403, "not_permitted"),
        ("a device", 403, "not_permitted"),
        ("not here", 404, "unavailable"),
    ],
)
def test_who_may_not_is_told_why(market: Market, how: str, status: int, reason: str) -> None:
    who, path = delegate(market), path_of(blob_digest(BLOB))
    headers = get_headers(market, who)
    match how:
        case "no signature":
            headers = {}
        case "garbage":
            headers = {"Authorization": "Headwater me:now:trust me"}
        case "another path":
            headers = get_headers(market, who, blob_digest(MODEL))
        case "another method":
            headers = get_headers(market, who, method=HttpMethod.PUT)
        case "another network":
            headers = signed(who, Network(bytes(32)), path)
        case "late":
            headers = get_headers(market, who, time_ms=NOW_MS - CLOCK_WINDOW_MS - 1)
        case "early":
            headers = get_headers(market, who, time_ms=NOW_MS + CLOCK_WINDOW_MS + 1)
        case "a stranger":
            headers = get_headers(market, key("mallory"))
        case "a device":
            headers = get_headers(market, market.devices["shard-0"][0])  # type: ignore[index]
        case _:
            path = path_of(blob_digest(b"nowhere"))
            headers = get_headers(market, who, blob_digest(b"nowhere"))

    async def test(session: aiohttp.ClientSession, url: str, shelf: MemoryShelf) -> None:
        async with session.get(url + path, headers=headers) as response:
            assert (response.status, (await response.json())["reason"]) == (status, reason)

    serve(market, test)


def test_the_edge_of_the_clock_window_is_inside(market: Market) -> None:
    async def test(session: aiohttp.ClientSession, url: str, shelf: MemoryShelf) -> None:
        for time_ms in (NOW_MS - CLOCK_WINDOW_MS, NOW_MS + CLOCK_WINDOW_MS):
            headers = get_headers(market, delegate(market), time_ms=time_ms)
            async with session.get(url + path_of(blob_digest(BLOB)), headers=headers) as response:
                assert response.status == 200

    serve(market, test)


def test_the_licence_and_the_grant_are_honoured_for_the_model_and_nothing_else() -> None:
    market = make_market(names=("alice", "bob"))
    model = market.play()
    alice, bob, sponsor = key("alice"), key("bob"), market.cast.sponsor
    main, price = market.main, Units(97)

    async def status(who: SecretKey, blob: Digest = model) -> int:
        found: list[int] = []

        async def ask(session: aiohttp.ClientSession, url: str, shelf: MemoryShelf) -> None:
            headers = get_headers(market, who, blob)
            async with session.get(url + path_of(blob), headers=headers) as response:
                found.append(response.status)

        held = MemoryShelf({blob_digest(data): data for data in (BLOB, MODEL)})
        async with (
            serving(market.cast.network, states_of(market), held) as url,
            aiohttp.ClientSession() as session,
        ):
            await ask(session, url, held)
        return found[0]

    async def go() -> None:
        assert await status(alice) == 403
        execute(main, main.sign(sponsor, SetPrice(model=model, price=price)))
        execute(main, main.sign(alice, BuyLicence(model=model, price=price)))
        assert await status(alice) == 200
        assert await status(alice, blob_digest(BLOB)) == 403
        assert await status(bob) == 403
        grant = GrantAccess(account=bob.account, blob=model, blob_class=BlobClass.MODELS)
        execute(main, main.sign(sponsor, grant))
        assert await status(bob) == 200
        revoke = RevokeAccess(account=bob.account, blob=model, blob_class=BlobClass.MODELS)
        execute(main, main.sign(sponsor, revoke))
        assert await status(bob) == 403
        assert await status(sponsor) == 200

    run(go())


def put_headers(market: Market, who: SecretKey, blob: Digest) -> dict[str, str]:
    return signed(who, market.cast.network, path_of(blob), method=HttpMethod.PUT, body=blob)


def test_a_delegate_stores_a_blob_and_a_replay_does_no_harm(market: Market) -> None:
    async def test(session: aiohttp.ClientSession, url: str, shelf: MemoryShelf) -> None:
        blob = blob_digest(b"new")
        headers = put_headers(market, delegate(market), blob)
        for expected in (201, 204):
            async with session.put(url + path_of(blob), data=b"new", headers=headers) as response:
                assert response.status == expected
        assert shelf.blobs[blob] == b"new"

    serve(market, test)


class FullShelf(MemoryShelf):
    """On a disk without room."""

    def put(self, blob: bytes) -> Digest:
        raise StorageError("segment: No space left on device; free space on the disk")


def test_a_full_disk_is_one_line_and_no_answer_for_good(
    market: Market, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(session: aiohttp.ClientSession, url: str, shelf: MemoryShelf) -> None:
        blob = blob_digest(b"new")
        headers = put_headers(market, delegate(market), blob)
        async with session.put(url + path_of(blob), data=b"new", headers=headers) as response:
            assert response.status == 503
            assert (await response.json())["reason"] == "busy"

    serve(market, test, shelf=FullShelf())
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "No space left on device" in line
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(
    ("how", "status", "reason"),
    [
        ("sponsor", 403, "not_permitted"),
        ("unsigned", 401, "bad_signature"),
        ("signed as GET", 401, "bad_signature"),
        ("wrong bytes", 400, "wrong_digest"),
        ("empty", 413, "too_large"),
        ("too large", 413, "too_large"),
        ("no room", 503, "busy"),
    ],
)
def test_what_is_not_stored(market: Market, how: str, status: int, reason: str) -> None:
    blob, data = blob_digest(b"new"), b"new"
    headers = put_headers(market, delegate(market), blob)
    shelf = MemoryShelf()
    match how:
        case "sponsor":
            headers = put_headers(market, market.cast.sponsor, blob)
        case "unsigned":
            headers = {}
        case "signed as GET":
            headers = get_headers(market, delegate(market), blob)
        case "wrong bytes":
            data = b"old"
        case "empty":
            data = b""
        case "too large":
            headers["Content-Length"] = str(MAX_BLOB_BYTES + 1)
        case _:
            shelf.room_bytes = 2

    async def test(session: aiohttp.ClientSession, url: str, shelf: MemoryShelf) -> None:
        async with session.put(url + path_of(blob), data=data, headers=headers) as response:
            assert (response.status, (await response.json())["reason"]) == (status, reason)
        assert shelf.blobs == {}

    serve(market, test, shelf=shelf)


def test_one_delegate_cannot_fill_the_disk_at_once(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs_module, "MAX_PUT_BYTES", 6)

    async def test(session: aiohttp.ClientSession, url: str, shelf: MemoryShelf) -> None:
        found = []
        first, second = market.cast.all_validators[:2]
        for who, data in ((first, b"one"), (first, b"two"), (first, b"six"), (second, b"ten")):
            blob = blob_digest(data)
            headers = put_headers(market, who, blob)
            async with session.put(url + path_of(blob), data=data, headers=headers) as response:
                found.append(response.status)
        assert found == [201, 201, 503, 201]

    serve(market, test)


def test_other_paths_and_methods_are_refused_in_words(market: Market) -> None:
    async def test(session: aiohttp.ClientSession, url: str, shelf: MemoryShelf) -> None:
        path = path_of(blob_digest(BLOB))
        for method, where, status in (
            ("GET", "/", 404),
            ("GET", "/blobs/" + "0" * 63, 404),
            ("GET", "/blobs/" + "G" * 64, 404),
            ("GET", "/blobs/../genesis.cbor", 404),
            ("DELETE", path, 405),
            ("POST", path, 405),
        ):
            async with session.request(method, url + where) as response:
                assert (response.status, (await response.json())["reason"]) == (
                    status,
                    "bad_encoding",
                )

    serve(market, test)


def row_headers(market: Market, who: SecretKey, body: bytes) -> tuple[str, dict[str, str]]:
    digest = blob_digest(body)
    path = f"/blobs?body={digest.hex()}"
    return path, signed(who, market.cast.network, path, method=HttpMethod.PUT, body=digest)


def test_a_row_of_blobs_is_stored_whole(market: Market) -> None:
    blobs = [b"x" * size for size in (1, 2, 70_000)]

    async def test(session: aiohttp.ClientSession, url: str, shelf: MemoryShelf) -> None:
        path, headers = row_headers(market, delegate(market), join_row(blobs))
        async with session.put(url + path, data=join_row(blobs), headers=headers) as response:
            assert response.status == 201
        assert set(shelf.blobs) == {blob_digest(blob) for blob in blobs}

    serve(market, test, shelf=MemoryShelf())


@pytest.mark.parametrize(
    ("how", "status", "reason"),
    [
        ("sponsor", 403, "not_permitted"),
        ("no digest", 400, "bad_encoding"),
        ("other bytes", 400, "wrong_digest"),
        ("torn", 400, "bad_encoding"),
        ("an empty blob", 400, "bad_encoding"),
        ("too many", 400, "bad_encoding"),
        ("too large", 413, "too_large"),
    ],
)
def test_what_is_no_row_is_not_stored(market: Market, how: str, status: int, reason: str) -> None:
    blobs, who = [b"one", b"two"], delegate(market)
    match how:
        case "sponsor":
            who = market.cast.sponsor
        case "an empty blob":
            blobs = [b"one", b""]
        case "too many":
            blobs = [b"%d" % n for n in range(blobs_module.MAX_ROW_BLOBS + 1)]
        case "too large":
            blobs = [bytes(blobs_module.MAX_ROW_BYTES)]
    body = join_row(blobs)
    body = body[:-1] if how == "torn" else body
    path, headers = row_headers(market, who, body)
    path = "/blobs" if how == "no digest" else path
    sent = body[::-1] if how == "other bytes" else body

    async def test(session: aiohttp.ClientSession, url: str, shelf: MemoryShelf) -> None:
        async with session.put(url + path, data=sent, headers=headers) as response:
            assert (response.status, (await response.json())["reason"]) == (status, reason)
        assert shelf.blobs == {}

    serve(market, test, shelf=MemoryShelf())


def test_as_many_as_a_row_takes_are_taken(market: Market) -> None:
    blobs = [b"%d" % n for n in range(blobs_module.MAX_ROW_BLOBS)]
    assert split_row(join_row(blobs)) == blobs
    assert split_row(join_row([bytes(blobs_module.MAX_ROW_BYTES - 4)]))
