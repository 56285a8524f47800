"""The ABCI server: CometBFT's four connections over one socket.

Requests of a connection are answered in their order. All connections are served by one loop, so no
two requests are worked on at once, and the replica needs no locks.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from headwater_protocol.errors import HeadwaterError, InvalidMessage
from headwater_shard.engine.cometbft.frames import (
    MAX_ABCI_FRAME_BYTES,
    BadFrame,
    FrameBuffer,
    encode_frame,
)
from headwater_shard.engine.cometbft.wire import abci_pb2

logger = logging.getLogger(__name__)

READ_BYTES: Final = 256 * 1024
MAX_CONNECTIONS: Final = 16
"""CometBFT opens four; after its restart the old ones may be closing still."""

Answer = Callable[[abci_pb2.Request], abci_pb2.Response]


class AbciServer:
    """Listens for one CometBFT node."""

    def __init__(
        self,
        answer: Answer,
        *,
        on_fatal: Callable[[HeadwaterError], None],
        max_frame_bytes: int = MAX_ABCI_FRAME_BYTES,
    ) -> None:
        """Prepare; `listen` starts.

        Args:
            answer: Answers a request; what it raises ends the node, which is told.
            on_fatal: Told of what `answer` raised.
            max_frame_bytes: What one request may have.
        """
        self._answer = answer
        self._on_fatal = on_fatal
        self._max_frame_bytes = max_frame_bytes
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.num_bad_frames = 0
        """Connections that were closed for what came over them."""

    @property
    def num_connections(self) -> int:
        """Open connections."""
        return len(self._tasks)

    async def listen(self, path: Path) -> None:
        """Listen on a unix socket; one that a crash left behind is replaced."""
        path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._accept, path=str(path))

    async def close(self) -> None:
        """Stop listening and drop all connections."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._tasks) >= MAX_CONNECTIONS:
            writer.close()
            return
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except InvalidMessage as error:
            self.num_bad_frames += 1
            logger.warning("closed a connection to ABCI: %s", error)
        except (ConnectionError, asyncio.CancelledError):
            pass  # The node is gone, or we are: both are told elsewhere.
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        buffer = FrameBuffer(max_bytes=self._max_frame_bytes)
        while data := await reader.read(READ_BYTES):
            buffer.feed(data)
            for payload in buffer.frames():
                try:
                    request = abci_pb2.Request.FromString(payload)
                except DecodeError as error:
                    raise BadFrame(f"a request that does not decode: {error}") from error
                is_alive, response = self._respond(request)
                writer.write(encode_frame(response.SerializeToString()))
                if not is_alive:
                    await writer.drain()
                    return
            await writer.drain()

    def _respond(self, request: abci_pb2.Request) -> tuple[bool, abci_pb2.Response]:
        try:
            return True, self._answer(request)
        except HeadwaterError as error:
            logger.error("the replica stops at %s: %s", request.WhichOneof("value"), error)
            self._on_fatal(error)
            return False, abci_pb2.Response(
                exception=abci_pb2.ResponseException(error=str(error) or type(error).__name__)
            )
