"""How a node without blocks finds a snapshot: routes, agreement of peers, and the lines to them."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from headwater_gateway.comet import sync
from headwater_gateway.comet.routes import MAX_CALL_BYTES, CometRoutes
from headwater_gateway.comet.sync import SyncLines, SyncPeers, find_snapshot
from headwater_gateway.web.server import WebServer
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId
from headwater_shard.engine.cometbft.shell.rpc import CometRpc, RpcRefused
from headwater_shard.layout import DataFolder
from tests.shard.engine.cometbft.test_snapshots import NUM_BLOCKS, get_scene

HASH = "AB" * 32


class Peer:
    """A gateway's routes over a node that answers with what it was asked."""

    def __init__(self, folder: Path, *, header_hash: str, has_snapshot: bool) -> None:
        self.data = DataFolder(folder)
        self.home = self.data.chain(MAIN_CHAIN) / "cometbft"
        self.home.mkdir(parents=True)
        self.hash = header_hash
        self.calls: list[dict[str, Any]] = []
        self.url = ""
        if has_snapshot:
            place = self.home / "snapshots" / str(NUM_BLOCKS)
            place.mkdir(parents=True)
            (place / "manifest.cbor").write_bytes(encode_record(get_scene().manifest))

    async def serve(self, ready: Callable[[], None], ended: asyncio.Event) -> None:
        app = web.Application()
        app.router.add_post("/{any:.*}", self._answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.UnixSite(runner, str(self.home / "rpc.sock")).start()
        server = WebServer(
            host="127.0.0.1", port=0, routes=[CometRoutes(self.data, [MAIN_CHAIN]).table()]
        )
        self.url = await server.start()
        ready()
        await ended.wait()
        await server.stop()
        await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        call = await request.json()
        self.calls.append(call)
        commit = {"commit": {"block_id": {"hash": self.hash}}}
        return web.json_response({"id": call["id"], "result": {"signed_header": commit}})


@contextmanager
def serving(*peers: Peer) -> Iterator[SyncPeers]:
    ready, holder = threading.Semaphore(0), {}

    async def run() -> None:
        ended = asyncio.Event()
        holder["stop"] = asyncio.get_running_loop().call_soon_threadsafe, ended.set
        async with asyncio.TaskGroup() as group:
            for peer in peers:
                group.create_task(peer.serve(ready.release, ended))

    thread = threading.Thread(target=asyncio.run, args=[run()])
    thread.start()
    try:
        for _ in peers:
            assert ready.acquire(timeout=10)
        yield SyncPeers(urls=tuple(peer.url for peer in peers))
    finally:
        call, stop = holder["stop"]
        call(stop)
        thread.join(10)


def make_peer(tmp_path: Path, name: str, *, header_hash: str = HASH, has: bool = True) -> Peer:
    return Peer(tmp_path / name, header_hash=header_hash, has_snapshot=has)


def test_a_snapshot_is_found_and_calls_reach_each_peer(tmp_path: Path) -> None:
    one, two = make_peer(tmp_path, "one"), make_peer(tmp_path, "two", has=False)
    with serving(one, two) as peers:
        found = find_snapshot(peers, MAIN_CHAIN)
        assert found is not None
        assert (found.height, found.header_hash) == (NUM_BLOCKS, HASH)
        assert found.urls == (one.url, two.url)
        lines = SyncLines(peers, found, MAIN_CHAIN, tmp_path / "home")
        try:
            wanted = lines.state_sync
            assert (wanted.trust_height, wanted.trust_hash) == (NUM_BLOCKS, HASH)
            for server, peer in zip(wanted.rpc_servers, (one, two), strict=True):
                rpc = CometRpc(Path(server.removeprefix("unix://")))
                before = len(peer.calls)
                assert rpc.call("commit", height="3")["signed_header"]["commit"]
                assert peer.calls[before]["params"] == {"height": "3"}
                rpc.close()
        finally:
            lines.close()


def test_one_peer_serves_both_lines(tmp_path: Path) -> None:
    with serving(make_peer(tmp_path, "one")) as peers:
        found = find_snapshot(peers, MAIN_CHAIN)
        assert found is not None
        lines = SyncLines(peers, found, MAIN_CHAIN, tmp_path / "home")
        assert len(lines.state_sync.rpc_servers) == 2
        lines.close()


def test_peers_that_disagree_on_the_header_are_not_followed(tmp_path: Path) -> None:
    one, two = make_peer(tmp_path, "one"), make_peer(tmp_path, "two", header_hash="CD" * 32)
    with serving(one, two) as peers:
        assert find_snapshot(peers, MAIN_CHAIN) is None


def test_without_a_snapshot_or_a_peer_nothing_is_found(tmp_path: Path) -> None:
    assert find_snapshot(SyncPeers(urls=()), MAIN_CHAIN) is None
    assert find_snapshot(SyncPeers(urls=("http://127.0.0.1:1",)), MAIN_CHAIN) is None
    with serving(make_peer(tmp_path, "one", has=False)) as peers:
        assert find_snapshot(peers, MAIN_CHAIN) is None
        assert find_snapshot(peers, ChainId("shard-9")) is None


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "bad_encoding"),
        (b"[]", "not_permitted"),
        (b'{"method": "broadcast_tx_sync", "params": {"tx": "AA=="}}', "not_permitted"),
        (b'{"method": "unsafe_flush_mempool"}', "not_permitted"),
        (b'{"method": ["commit"]}', "not_permitted"),
        (b"x" * (MAX_CALL_BYTES + 1), "too_large"),
        (b"", "too_large"),
    ],
)
def test_only_calls_that_read_pass(tmp_path: Path, body: bytes, reason: str) -> None:
    peer = make_peer(tmp_path, "one")
    with serving(peer):
        status, answer = post(f"{peer.url}/comet/main", body)
    assert answer["reason"] == reason
    assert status >= 400
    assert peer.calls == []


def test_a_node_that_is_away_is_busy(tmp_path: Path) -> None:
    peer = make_peer(tmp_path, "one")
    with serving(peer):
        (peer.home / "rpc.sock").unlink()
        status, answer = post(f"{peer.url}/comet/main", b'{"method": "commit"}')
        assert (status, answer["reason"]) == (503, "busy")
        assert post(f"{peer.url}/comet/other", b'{"method": "commit"}')[0] == 404


def post(url: str, body: bytes) -> tuple[int, dict[str, Any]]:
    import http.client
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    connection.request("POST", parts.path, body)
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def test_a_line_to_a_peer_that_is_away_answers_with_an_error(tmp_path: Path) -> None:
    peers = SyncPeers(urls=("http://127.0.0.1:1",))
    found = sync.FoundSnapshot(height=3, header_hash=HASH, urls=peers.urls)
    lines = SyncLines(peers, found, MAIN_CHAIN, tmp_path / "home")
    rpc = CometRpc(Path(lines.state_sync.rpc_servers[0].removeprefix("unix://")))
    with pytest.raises(Exception, match="no JSON") as caught:
        rpc.call("commit")
    assert not isinstance(caught.value, RpcRefused)
    rpc.close()
    lines.close()
