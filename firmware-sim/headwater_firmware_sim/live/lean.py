"""A simulated device over MQTT without a client library: thousands fit into one process.

A general client takes five to seven times the memory of this connection and stops being usable in
the thousands. A device needs no more of MQTT than this, because the agent's machine repeats what
was lost.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Final

from headwater_agent.device import Device
from headwater_agent.machine.effects import (
    Effect,
    OpenConnection,
    Persist,
    Publish,
    Subscribe,
    Train,
    Unsubscribe,
)
from headwater_agent.machine.inputs import (
    Arrived,
    Connected,
    Connecting,
    Disconnected,
    Trained,
    TrainingFailed,
)
from headwater_agent.state import DeviceState, apply_changes
from headwater_firmware_sim.live.packets import (
    DISCONNECT,
    MAX_PACKET_ID,
    PINGREQ,
    MalformedPacket,
    PacketKind,
    PacketReader,
    decode_message,
    encode_connect,
    encode_puback,
    encode_publish,
    encode_subscribe,
    encode_unsubscribe,
)
from headwater_gateway.shell.mqtt import BrokerAddress

KEEPALIVE_S: Final = 120
FIRST_RETRY_S: Final = 0.5
LAST_RETRY_S: Final = 15.0

RunTraining = Callable[[int, Train], "asyncio.Future[Trained | TrainingFailed]"]


def read_clock() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class LeanDevice(asyncio.Protocol):
    """One device and its connection."""

    def __init__(
        self,
        device: Device,
        *,
        index: int,
        broker: BrokerAddress,
        train: RunTraining,
        slots: asyncio.Semaphore,
    ) -> None:
        """Set up; `start` connects.

        Args:
            device: The machine.
            index: In the fleet.
            broker: Where to connect.
            train: Runs a training request.
            slots: Bounds how many devices connect at a time.
        """
        self.state = DeviceState()
        self.boots = 1
        self.brownouts = 0
        self.torn_writes = 0
        self.battery_thousandths = 1_000
        self.num_received = 0
        self._device = device
        self._index = index
        self._broker = broker
        self._train = train
        self._slots = slots
        self._reader = PacketReader()
        self._transport: asyncio.Transport | None = None
        self._opening: OpenConnection | None = None
        self._is_connected = False
        self._is_stopped = False
        self._packet_id = 0
        self._retry_s = FIRST_RETRY_S
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_connected(self) -> bool:
        """Whether the broker took the connection."""
        return self._is_connected

    async def start(self) -> None:
        """Connect; tried again until it works or `stop` is called."""
        while not self._is_stopped:
            self._device.receive(Connecting(), read_clock())
            self._perform()
            try:
                async with self._slots:
                    loop = asyncio.get_running_loop()
                    await loop.create_connection(lambda: self, self._broker.host, self._broker.port)
            except OSError:
                await asyncio.sleep(self._wait_s())
            else:
                return

    def stop(self) -> None:
        """Disconnect for good."""
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        if self._transport is not None:
            self._transport.write(DISCONNECT)
            self._transport.close()

    def ping(self) -> None:
        """Say that the device is there."""
        if self._is_connected and self._transport is not None:
            self._transport.write(PINGREQ)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TCP is there: ask for MQTT."""
        if not isinstance(transport, asyncio.Transport) or self._opening is None:
            transport.close()
            return
        self._transport = transport
        self._reader = PacketReader()
        will = self._opening.will
        transport.write(
            encode_connect(
                client_id=f"hw-{self._device.id.hex()[:20]}",
                will_topic=will.topic,
                will=will.payload,
                keepalive_s=KEEPALIVE_S,
                username=self._broker.username,
                password=self._broker.password,
            )
        )

    def data_received(self, data: bytes) -> None:
        """Take what the broker sent; a broker that breaks the protocol is left."""
        try:
            for packet in self._reader.feed(data):
                if packet.kind is PacketKind.PUBLISH:
                    message = decode_message(packet)
                    if message.packet_id is not None and self._transport is not None:
                        self._transport.write(encode_puback(message.packet_id))
                    self.num_received += 1
                    arrived = Arrived(topic=message.topic, payload=message.payload)
                    self._device.receive(arrived, read_clock())
                elif packet.kind is PacketKind.CONNACK:
                    self._on_connack(packet.body)
            self._perform()
        except MalformedPacket:
            if self._transport is not None:
                self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone; come back after a pause."""
        self._transport = None
        self._is_connected = False
        if self._is_stopped:
            return
        self._device.receive(Disconnected(), read_clock())
        self._perform()
        self._spawn(self._come_back())

    def _on_connack(self, body: bytes) -> None:
        if len(body) != 2 or body[1] != 0 or self._opening is None:
            raise MalformedPacket(f"the broker refused with {body.hex()}")
        self._is_connected = True
        self._retry_s = FIRST_RETRY_S
        self._device.receive(Connected(session=self._opening.session), read_clock())

    async def _come_back(self) -> None:
        await asyncio.sleep(self._wait_s())
        await self.start()

    def _wait_s(self) -> float:
        wait_s = self._retry_s * (1 + self._index % 97 / 97)
        self._retry_s = min(LAST_RETRY_S, 2 * self._retry_s)
        return wait_s

    # What the machine wants done

    def _perform(self) -> None:
        for effect in self._device.effects():
            self._perform_one(effect)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at_ms = self._device.next_timer()
        if at_ms is not None and not self._is_stopped:
            wait_s = max(0, at_ms - read_clock()) / 1_000
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._device.on_timer(read_clock())
        self._perform()

    def _perform_one(self, effect: Effect) -> None:
        transport = self._transport if self._is_connected else None
        if isinstance(effect, Persist):
            self.state = apply_changes(self.state, effect.changes)
        elif isinstance(effect, OpenConnection):
            self._opening = effect
        elif isinstance(effect, Train):
            self._spawn(self._run_training(effect))
        elif transport is None:
            return
        elif isinstance(effect, Publish):
            transport.write(
                encode_publish(
                    effect.topic,
                    effect.payload,
                    packet_id=self._next_id(),
                    retain=effect.is_retained,
                )
            )
        elif isinstance(effect, Subscribe) and effect.topics:
            transport.write(encode_subscribe(effect.topics, packet_id=self._next_id()))
        elif isinstance(effect, Unsubscribe) and effect.topics:
            transport.write(encode_unsubscribe(effect.topics, packet_id=self._next_id()))

    async def _run_training(self, request: Train) -> None:
        outcome = await self._train(self._index, request)
        self._device.receive(outcome, read_clock())
        self._perform()

    def _next_id(self) -> int:
        self._packet_id = self._packet_id % MAX_PACKET_ID + 1
        return self._packet_id

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
