"""The embedded broker: amqtt on a thread of its own, for one machine and the first run.

It speaks MQTT 3.1.1 and keeps retained messages in memory, so a restarted gateway publishes them
again. It asks nobody for a password, so it listens on the loopback address unless told otherwise.
"""

import asyncio
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from headwater_protocol.errors import ConfigError

logger = logging.getLogger(__name__)

START_TIMEOUT_S: Final = 30.0
STOP_PATIENCE_S: Final = 0.5
"""After which connections that do not end are cancelled once more."""
MAX_STOP_ATTEMPTS: Final = 10


def find_free_port(host: str) -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def embedded_broker(host: str, port: int) -> Iterator[str]:
    """Run a broker while the context lasts; its URL.

    Args:
        host: The address to listen on.
        port: The port to listen on; 0 takes a free one.

    Raises:
        ConfigError: If it cannot listen there.
    """
    chosen = port or find_free_port(host)
    runner = _BrokerThread(host, chosen)
    runner.start()
    try:
        runner.wait_until_ready()
        yield f"mqtt://{host}:{chosen}"
    finally:
        runner.stop()


class _WalkableDict(dict[str, list[object]]):
    """A dict that may change while it is walked; the walk sees it as it was."""

    def __iter__(self) -> Iterator[str]:
        return iter(list(super().__iter__()))

    def items(self) -> list[tuple[str, list[object]]]:  # type: ignore[override]
        return list(super().items())


def _log_in_one_line(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    logger.warning("embedded broker: %s: %r", context.get("message"), context.get("exception"))


class _BrokerThread(threading.Thread):
    """Owns the event loop in which amqtt runs."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(name="embedded-broker", daemon=True)
        self._host = host
        self._port = port
        self._ready = threading.Event()
        self._error: Exception | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None

    def run(self) -> None:
        for name in ("amqtt", "transitions"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            asyncio.run(self._serve())
        except Exception as error:  # whatever amqtt raises is told to the thread that waits
            self._error = error
        finally:
            self._ready.set()

    def wait_until_ready(self) -> None:
        if not self._ready.wait(START_TIMEOUT_S) or self._error is not None:
            raise ConfigError(
                "broker",
                f"the embedded broker cannot listen on {self._host}:{self._port}: {self._error}",
                fix="choose another port, or name a broker of your own",
            )

    def stop(self) -> None:
        if self._loop is not None and self._stopping is not None and self.is_alive():
            # Its loop may close at this moment, if it could not start.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stopping.set)
        self.join(START_TIMEOUT_S)

    async def _serve(self) -> None:
        from amqtt.broker import Broker  # noqa: PLC0415  # heavy; only where it is used

        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        broker = Broker(
            {
                "listeners": {
                    "default": {"type": "tcp", "bind": f"{self._host}:{self._port}"},
                },
                "plugins": {
                    "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True},
                },
            }
        )
        # amqtt walks its subscriptions across awaits; a client that subscribes meanwhile would end
        # the session of the one that connects, with a connection that stays up and hears nothing.
        broker._subscriptions = _WalkableDict()
        self._loop.set_exception_handler(_log_in_one_line)
        await broker.start()
        self._ready.set()
        await self._stopping.wait()
        ending = asyncio.create_task(broker.shutdown())
        for _ in range(MAX_STOP_ATTEMPTS):
            await asyncio.wait({ending}, timeout=STOP_PATIENCE_S)
            if ending.done():
                return
            # A reader of amqtt can lose its cancellation to a message that comes at that moment,
            # and amqtt waits for it forever.
            for task in asyncio.all_tasks() - {ending, asyncio.current_task()}:
                task.cancel()
