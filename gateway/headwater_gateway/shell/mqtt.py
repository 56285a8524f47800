"""MQTT for a gateway: one aiomqtt connection that comes back by itself.

Kept behind this small interface, so that a hot path can change the client.
"""

import asyncio
import logging
import random
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import aiomqtt

from headwater_gateway.machine.effects import Publish
from headwater_protocol.errors import ConfigError
from headwater_protocol.tls import explain_tls

logger = logging.getLogger(__name__)

CLIENT_LOGGER: Final = logging.getLogger("headwater.mqtt")
"""aiomqtt warns of every publish that waits and of every answer that came after a loss; both are
what a burst and a reconnect look like."""
CLIENT_LOGGER.setLevel(logging.CRITICAL)

FIRST_RETRY_S: Final = 0.2
LAST_RETRY_S: Final = 30.0
MAX_QUEUED_PUBLISHES: Final = 100_000
"""Receipts that wait for the broker, about 300 bytes each; the oldest are dropped."""
CONCURRENT_PUBLISHES: Final = 32
"""Messages under way to the broker without its acknowledgement."""
DEFAULT_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerAddress:
    """Where a broker is, and whether over TLS."""

    host: str
    port: int
    username: str | None
    password: str | None
    is_tls: bool


def parse_broker_url(url: str) -> BrokerAddress:
    """The parts of `mqtt://[user:password@]host[:port]`, or of `mqtts://…`.

    Raises:
        ConfigError: If it is no such URL.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError("broker", f"{url!r}: {error}", fix="use mqtt://host:port") from error
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        raise ConfigError("broker", f"{url!r} is no broker", fix="use mqtt://host:port")
    return BrokerAddress(
        host=parts.hostname,
        port=port or DEFAULT_PORTS[parts.scheme],
        username=parts.username,
        password=parts.password,
        is_tls=parts.scheme == "mqtts",
    )


def ignore_lost_connections(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """A loop's exception handler: aiomqtt leaves a future behind for each lost connection."""
    if not isinstance(context.get("exception"), aiomqtt.MqttError):
        loop.default_exception_handler(context)


class MqttBus:
    """Subscribes, hands every message to a callback, and publishes what is queued."""

    def __init__(
        self,
        *,
        url: str,
        client_id: str,
        filters: Sequence[str],
        on_message: Callable[[str, bytes], None],
        on_connected: Callable[[], None],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Set up; `run` does the work.

        Args:
            url: Of the broker.
            client_id: Its own; a broker drops an older connection of the same.
            filters: Topics to listen to.
            on_message: Told of every message.
            on_connected: Told of every connection; publishes anew all that is retained.
            tls: For `mqtts://`; None takes the system's authorities.

        Raises:
            ConfigError: If `url` is no broker's.
        """
        self._address = parse_broker_url(url)
        self._client_id = client_id
        self._filters = tuple(filters)
        self._on_message = on_message
        self._on_connected = on_connected
        self._tls = tls
        self._outgoing: asyncio.Queue[Publish] = asyncio.Queue()
        self.dropped = 0
        """Messages lost to the queue's limit."""
        self.is_connected = False

    @property
    def address(self) -> str:
        """Of the broker, as `host:port`."""
        return f"{self._address.host}:{self._address.port}"

    def publish(self, publish: Publish) -> None:
        """Queue a message.

        What is retained is not kept for a broker that is away: `on_connected` publishes it anew.
        """
        if publish.retain and not self.is_connected:
            return
        while self._outgoing.qsize() >= MAX_QUEUED_PUBLISHES:
            self._outgoing.get_nowait()
            self._outgoing.task_done()
            self.dropped += 1
        self._outgoing.put_nowait(publish)

    async def drain(self) -> None:
        """Wait until all that was queued has been published."""
        await self._outgoing.join()

    async def run(self) -> None:
        """Keep a connection up until cancelled."""
        retry_s = FIRST_RETRY_S
        while True:
            # In a task of its own: where a stop and a lost connection come at once, a group of
            # tasks tells of the latter alone.
            connection = asyncio.create_task(self._connect())
            try:
                await asyncio.wait([connection])
            finally:
                connection.cancel()
                await asyncio.wait([connection])
                self.is_connected = False
            if connection.result():
                retry_s = FIRST_RETRY_S
            # Jitter keeps a fleet of gateways from coming back in step.
            await asyncio.sleep(retry_s * random.uniform(0.5, 1.0))  # noqa: S311
            retry_s = min(LAST_RETRY_S, retry_s * 2)

    async def _connect(self) -> bool:
        """Serve one connection until it is lost; whether there was any."""
        try:
            async with self._client() as client:
                for topic_filter in self._filters:
                    await client.subscribe(topic_filter, qos=1)
                self.is_connected = True
                logger.info("event=broker_connected address=%s", self.address)
                self._on_connected()
                async with asyncio.TaskGroup() as group:
                    for _ in range(CONCURRENT_PUBLISHES):
                        group.create_task(self._publish_all(client))
                    group.create_task(self._receive_all(client))
        except* aiomqtt.MqttError as group_error:
            event = "broker_lost" if self.is_connected else "broker_away"
            cause = str(group_error.exceptions[0])
            detail = explain_tls(cause) or cause
            logger.warning("event=%s address=%s detail=%s", event, self.address, detail)
        return self.is_connected

    def _client(self) -> aiomqtt.Client:
        tls = self._tls
        if self._address.is_tls:
            tls = tls or ssl.create_default_context()
        return aiomqtt.Client(
            hostname=self._address.host,
            port=self._address.port,
            username=self._address.username,
            password=self._address.password,
            identifier=self._client_id,
            protocol=aiomqtt.ProtocolVersion.V311,
            tls_context=tls,
            max_inflight_messages=CONCURRENT_PUBLISHES,
            max_queued_incoming_messages=0,
            clean_session=True,
            logger=CLIENT_LOGGER,
        )

    async def _receive_all(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            self._on_message(str(message.topic), message.payload)

    async def _publish_all(self, client: aiomqtt.Client) -> None:
        task = asyncio.current_task()
        # A publish that is acknowledged while it is cancelled returns as if nothing had happened:
        # `asyncio.wait_for` of Python 3.11, which aiomqtt uses, then keeps the cancellation back.
        while task is None or not task.cancelling():
            publish = await self._outgoing.get()
            try:
                await client.publish(publish.topic, publish.payload, qos=1, retain=publish.retain)
            except (aiomqtt.MqttError, asyncio.CancelledError):
                # Not lost: it goes out on the next connection. The first task that fails cancels
                # the others, whose messages have not arrived either.
                if not publish.retain:
                    self._outgoing.put_nowait(publish)
                raise
            finally:
                self._outgoing.task_done()
