"""Several brokers at once: what is published goes to each, what comes from any is taken.

Devices go to one broker and fail over to the next, so a gateway listens everywhere. An update that
comes twice is the intake's to recognize, as it is when a device sends it again. What is retained is
published anew to a broker that comes back, and to no other.
"""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from functools import partial

from headwater_gateway.machine.effects import Publish
from headwater_gateway.shell.mqtt import MqttBus


class Brokers:
    """A bus made of one connection a broker; errors and arguments as of `MqttBus`."""

    def __init__(
        self,
        *,
        urls: Sequence[str],
        client_id: str,
        filters: Sequence[str],
        on_message: Callable[[str, bytes], None],
        on_connected: Callable[[], None],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._on_connected = on_connected
        self._newcomer: MqttBus | None = None
        self._buses: list[MqttBus] = []
        for index, url in enumerate(urls):
            bus = MqttBus(
                url=url,
                client_id=client_id,
                filters=filters,
                on_message=on_message,
                on_connected=partial(self._greet, index),
                tls=tls,
            )
            self._buses.append(bus)

    @property
    def connections(self) -> dict[str, bool]:
        """Whether each broker is there, by its address."""
        return {bus.address: bus.is_connected for bus in self._buses}

    @property
    def dropped(self) -> int:
        """Messages lost to the queues' limits."""
        return sum(bus.dropped for bus in self._buses)

    def publish(self, publish: Publish) -> None:
        """Queue a message for every broker, or what is retained for the one that just came."""
        for bus in self._buses:
            if self._newcomer is None or not publish.retain or bus is self._newcomer:
                bus.publish(publish)

    async def drain(self) -> None:
        """Wait until all that was queued has been published, if any is there at those that are."""
        present = [bus for bus in self._buses if bus.is_connected]
        await asyncio.gather(*(bus.drain() for bus in present or self._buses))

    async def run(self) -> None:
        """Keep all connections up until cancelled."""
        async with asyncio.TaskGroup() as group:
            for bus in self._buses:
                group.create_task(bus.run())

    def _greet(self, index: int) -> None:
        self._newcomer = self._buses[index]
        try:
            self._on_connected()
        finally:
            self._newcomer = None
