"""The ABCI server and the signer's line, spoken to as CometBFT does and as it never would."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from headwater_protocol.errors import HeadwaterError, InvalidBlock
from headwater_protocol.identifiers import MAIN_CHAIN, Network
from headwater_shard.engine.cometbft.frames import FrameBuffer, encode_frame
from headwater_shard.engine.cometbft.shell.server import MAX_CONNECTIONS, AbciServer
from headwater_shard.engine.cometbft.shell.signing import serve_signatures
from headwater_shard.engine.cometbft.signer import CometSigner
from headwater_shard.engine.cometbft.wire import abci_pb2, privval_pb2
from tests.support.network import key

LIMIT = 10_000


class Scene:
    """A server, what it was asked, and what ended it."""

    def __init__(self, path: Path) -> None:
        self.path = path / "abci.sock"
        self.fatal: list[HeadwaterError] = []
        self.server = AbciServer(self.answer, on_fatal=self.fatal.append, max_frame_bytes=LIMIT)

    def answer(self, request: abci_pb2.Request) -> abci_pb2.Response:
        if request.WhichOneof("value") == "commit":
            raise InvalidBlock("nothing was decided")
        response = abci_pb2.Response()
        if request.WhichOneof("value") == "flush":
            response.flush.SetInParent()
        else:
            response.echo.message = request.echo.message
        return response

    def play(self, script: Callable[["Scene"], Awaitable[None]]) -> None:
        async def run() -> None:
            await self.server.listen(self.path)
            try:
                async with asyncio.timeout(20):
                    await script(self)
            finally:
                await self.server.close()

        asyncio.run(run())

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(str(self.path))


def echo(message: str) -> bytes:
    request = abci_pb2.Request(echo=abci_pb2.RequestEcho(message=message))
    return encode_frame(request.SerializeToString())


FLUSH = encode_frame(abci_pb2.Request(flush=abci_pb2.RequestFlush()).SerializeToString())


async def read(reader: asyncio.StreamReader, count: int) -> list[abci_pb2.Response]:
    buffer, found = FrameBuffer(max_bytes=LIMIT), []
    while len(found) < count:
        data = await reader.read(1_000)
        if not data:
            break
        buffer.feed(data)
        found += [abci_pb2.Response.FromString(payload) for payload in buffer.frames()]
    return found


def test_pipelined_requests_are_answered_in_their_order(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        reader, writer = await scene.connect()
        writer.write(b"".join(echo(str(index)) for index in range(200)) + FLUSH)
        answers = await read(reader, 201)
        assert [answer.echo.message for answer in answers[:200]] == [
            str(index) for index in range(200)
        ]
        assert answers[200].WhichOneof("value") == "flush"
        writer.close()

    Scene(tmp_path).play(script)


def test_four_connections_do_not_wait_for_each_other(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        lines = [await scene.connect() for _ in range(4)]
        lines[0][1].write(echo("first")[:3])  # A request that never ends holds up nobody.
        for index, (_, writer) in enumerate(lines[1:]):
            writer.write(echo(str(index)))
        for index, (reader, _) in enumerate(lines[1:]):
            (answer,) = await read(reader, 1)
            assert answer.echo.message == str(index)
        for _, writer in lines:
            writer.close()

    Scene(tmp_path).play(script)


def test_hostile_bytes_close_their_connection_and_no_other(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        reader, writer = await scene.connect()
        for hostile in (
            encode_frame(bytes(LIMIT + 1)),
            b"\xff" * 20,
            encode_frame(b"\xff\xff\xff\xff"),
            encode_frame(b"\x0a\x7f"),
        ):
            other_reader, other_writer = await scene.connect()
            other_writer.write(hostile)
            assert await other_reader.read() == b""
            other_writer.close()
        writer.write(echo("still here"))
        (answer,) = await read(reader, 1)
        assert answer.echo.message == "still here"
        assert scene.server.num_bad_frames == 4
        writer.close()

    scene = Scene(tmp_path)
    scene.play(script)
    assert scene.fatal == []


def test_what_a_replica_cannot_go_on_from_is_told_to_both(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        reader, writer = await scene.connect()
        request = abci_pb2.Request(commit=abci_pb2.RequestCommit())
        writer.write(encode_frame(request.SerializeToString()) + echo("too late"))
        answers = await read(reader, 2)
        assert [answer.exception.error for answer in answers] == ["nothing was decided"]
        writer.close()

    scene = Scene(tmp_path)
    scene.play(script)
    (error,) = scene.fatal
    assert isinstance(error, InvalidBlock)


def test_connections_are_counted_and_limited(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        lines = [await scene.connect() for _ in range(MAX_CONNECTIONS)]
        for reader, writer in lines:
            writer.write(echo("here"))
            assert len(await read(reader, 1)) == 1
        reader, writer = await scene.connect()
        assert await reader.read() == b""
        assert scene.server.num_connections == MAX_CONNECTIONS
        for _, writer in lines:
            writer.close()

    Scene(tmp_path).play(script)


def test_a_socket_that_a_crash_left_is_replaced(tmp_path: Path) -> None:
    async def script(scene: Scene) -> None:
        reader, writer = await scene.connect()
        writer.write(echo("again"))
        assert len(await read(reader, 1)) == 1
        writer.close()

    (tmp_path / "abci.sock").touch()
    Scene(tmp_path).play(script)


def test_the_signer_calls_again_when_its_line_breaks(tmp_path: Path) -> None:
    """CometBFT listens; hostile bytes and lost lines are followed by a new call."""
    asked: list[str] = []

    async def run() -> None:
        path = tmp_path / "signer.sock"
        fatal: list[HeadwaterError] = []
        signer = CometSigner(
            key=key("validator"),
            network=Network(bytes(32)),
            chain=MAIN_CHAIN,
            last=None,
            save=lambda step: None,
        )
        done = asyncio.Event()
        hostile = [b"\xff" * 20, encode_frame(b"\xff"), encode_frame(bytes(20_000)), b""]
        ping = privval_pb2.Message(ping_request=privval_pb2.PingRequest())

        async def node(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if hostile:
                asked.append("hostile")
                writer.write(hostile.pop())
                writer.close()
                return
            writer.write(encode_frame(ping.SerializeToString()))
            buffer = FrameBuffer(max_bytes=LIMIT)
            buffer.feed(await reader.read(1_000))
            (payload,) = buffer.frames()
            asked.append(str(privval_pb2.Message.FromString(payload).WhichOneof("sum")))
            writer.close()
            done.set()

        task = asyncio.create_task(serve_signatures(signer, path, on_fatal=fatal.append))
        server = await asyncio.start_unix_server(node, path=str(path))
        async with asyncio.timeout(20):
            await done.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        server.close()
        assert fatal == []

    asyncio.run(run())
    assert asked == ["hostile"] * 4 + ["ping_response"]
