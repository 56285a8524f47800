"""The line to CometBFT over which it asks for signatures, and the file of what was signed last.

CometBFT listens and the signer calls; a line that breaks is opened again at once, since the node
waits no more than a few seconds for it.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from headwater_protocol.encoding.record import decode_record, encode_record
from headwater_protocol.errors import HeadwaterError, InvalidMessage, StorageError
from headwater_shard.engine.cometbft.frames import (
    MAX_SIGNER_FRAME_BYTES,
    BadFrame,
    FrameBuffer,
    encode_frame,
)
from headwater_shard.engine.cometbft.signer import CometSigner, SignedStep
from headwater_shard.engine.cometbft.wire import privval_pb2

logger = logging.getLogger(__name__)

RETRY_S: Final = 0.05
"""Between attempts to reach the node, which waits three seconds for a signer when it starts."""

MAX_STATE_BYTES: Final = 2_048


class SignedFile:
    """What a validator signed last for CometBFT, on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> SignedStep | None:
        """The last step; None where nothing was signed yet.

        Raises:
            StorageError: If the file is unreadable: signing on without it could be signing twice.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"{self._path}: {error.strerror}; check permissions") from error
        try:
            return decode_record(SignedStep, data, max_bytes=MAX_STATE_BYTES)
        except InvalidMessage as error:
            raise StorageError(
                f"{self._path}: what was signed last does not decode ({error}); restore the file "
                "from a copy, or give the validator a new key"
            ) from error

    def save(self, step: SignedStep) -> None:
        """Put a step in place of the last one, durable when this returns.

        Raises:
            StorageError: If it cannot be written.
        """
        draft = self._path.with_name(self._path.name + ".new")
        try:
            with draft.open("wb") as file:
                file.write(encode_record(step))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)
            descriptor = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StorageError(f"{self._path}: {error.strerror}; check the disk") from error


async def serve_signatures(
    signer: CometSigner, path: Path, *, on_fatal: Callable[[HeadwaterError], None]
) -> None:
    """Answer the node that listens at `path`, one line at a time, until cancelled."""
    while True:
        try:
            reader, writer = await asyncio.open_unix_connection(str(path))
        except OSError:
            await asyncio.sleep(RETRY_S)
            continue
        try:
            await _serve_line(signer, reader, writer)
        except InvalidMessage as error:
            logger.warning("closed a line to CometBFT: %s", error)
        except StorageError as error:
            on_fatal(error)
            return
        except ConnectionError:
            pass
        finally:
            writer.close()
        await asyncio.sleep(RETRY_S)


async def _serve_line(
    signer: CometSigner, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    buffer = FrameBuffer(max_bytes=MAX_SIGNER_FRAME_BYTES)
    while data := await reader.read(MAX_SIGNER_FRAME_BYTES):
        buffer.feed(data)
        for payload in buffer.frames():
            try:
                request = privval_pb2.Message.FromString(payload)
            except DecodeError as error:
                raise BadFrame(f"a request that does not decode: {error}") from error
            writer.write(encode_frame(signer.answer(request).SerializeToString()))
        await writer.drain()
