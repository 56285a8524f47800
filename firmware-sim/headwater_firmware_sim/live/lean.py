"""A simulated device over MQTT without a client library: thousands fit into one process.

A general client takes five to seven times the memory of this connection and stops being usable in
the thousands. A device needs no more of MQTT than this, because the agent's machine repeats what
was lost.
"""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
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
from headwater_firmware_sim.virtual.conditions import Conditions
from headwater_gateway.shell.mqtt import BrokerAddress

KEEPALIVE_S: Final = 120
FIRST_RETRY_S: Final = 0.5
LAST_RETRY_S: Final = 15.0

HANG_S: Final = 20.0
"""Without a sign of life until the watchdog resets a device."""
RESET_S: Final = 3.0
MAX_HELD: Final = 1_000
"""Copies of a device's messages that wait; more are not made."""

MakeDevice = Callable[[DeviceState], Device]
"""Boots the firmware from what flash holds."""
RunTraining = Callable[[int, Train], "asyncio.Future[Trained | TrainingFailed]"]


def read_clock() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class Mishaps:
    """What happens to devices by chance; faults change it while a run goes on."""

    rng: random.Random
    wires: Conditions = field(default_factory=Conditions)
    """Of messages that devices send."""
    watchdog: float = 0.0
    """Chance that a training hangs."""
    num_hangs: int = 0


class LeanDevice(asyncio.Protocol):
    """One device and its connection."""

    def __init__(
        self,
        make_device: MakeDevice,
        *,
        index: int,
        broker: BrokerAddress,
        train: RunTraining,
        slots: asyncio.Semaphore,
        mishaps: Mishaps,
    ) -> None:
        """Set up; `start` connects.

        Args:
            make_device: Makes the machine, at first and after each loss of power.
            index: In the fleet.
            broker: Where to connect.
            train: Runs a training request.
            slots: Bounds how many devices connect at a time.
            mishaps: Shared by the fleet.
        """
        self.state = DeviceState()
        """Flash."""
        self.index = index
        self.boots = 1
        self.brownouts = 0
        self.torn_writes = 0
        self.battery_thousandths = 1_000
        self.num_received = 0
        self._make_device = make_device
        self._device = make_device(self.state)
        self._mishaps = mishaps
        self._is_on = True
        self._held: set[asyncio.TimerHandle] = set()
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

    @property
    def is_on(self) -> bool:
        """Whether it has power and runs."""
        return self._is_on

    def start(self) -> None:
        """Connect; tried again until it works or `stop` is called."""
        self._spawn(self._connect())

    def break_connection(self) -> None:
        """Cut the socket without a word; the device comes back by itself."""
        if self._transport is not None:
            self._transport.abort()

    def cut_power(self, *, again_after_s: float) -> None:
        """Lose everything but flash, and boot again later."""
        if not self._is_on or self._is_stopped:
            return
        self._is_on = False
        self._halt()
        self.break_connection()
        self._is_connected = False
        asyncio.get_running_loop().call_later(again_after_s, self._boot)

    def _boot(self) -> None:
        if self._is_stopped:
            return
        self._is_on = True
        self.boots += 1
        self._retry_s = FIRST_RETRY_S
        self._device = self._make_device(self.state)
        self.start()

    def _halt(self) -> None:
        """Nothing planned happens any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for handle in self._held:
            handle.cancel()
        self._held.clear()
        for task in tuple(self._tasks):
            task.cancel()

    async def _connect(self) -> None:
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
        self._halt()
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
        is_wanted = self._is_on and not self._is_stopped and self._opening is not None
        if not isinstance(transport, asyncio.Transport) or not is_wanted or self._opening is None:
            transport.abort() if isinstance(transport, asyncio.Transport) else transport.close()
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
        if self._is_stopped or not self._is_on:
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
        await self._connect()

    def _wait_s(self) -> float:
        wait_s = self._retry_s * (1 + self.index % 97 / 97)
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
            self._publish(effect)
        elif isinstance(effect, Subscribe) and effect.topics:
            transport.write(encode_subscribe(effect.topics, packet_id=self._next_id()))
        elif isinstance(effect, Unsubscribe) and effect.topics:
            transport.write(encode_unsubscribe(effect.topics, packet_id=self._next_id()))

    def _publish(self, effect: Publish) -> None:
        """Send a message, as often and as late as the wires have it."""
        wires = self._mishaps.wires
        if wires.is_calm:
            self._write(effect)
            return
        loop = asyncio.get_running_loop()
        for delay_ms in wires.plan(self._mishaps.rng, delay_ms=0):
            if delay_ms == 0 or len(self._held) >= MAX_HELD:
                self._write(effect)
                continue
            handle = loop.call_later(delay_ms / 1_000, self._write_held, effect)
            self._held.add(handle)

    def _write_held(self, effect: Publish) -> None:
        now_s = asyncio.get_running_loop().time()
        self._held = {handle for handle in self._held if handle.when() > now_s}
        self._write(effect)

    def _write(self, effect: Publish) -> None:
        if self._transport is None or not self._is_connected:
            return
        self._transport.write(
            encode_publish(
                effect.topic,
                effect.payload,
                packet_id=self._next_id(),
                retain=effect.is_retained,
            )
        )

    async def _run_training(self, request: Train) -> None:
        mishaps = self._mishaps
        if mishaps.watchdog and mishaps.rng.random() < mishaps.watchdog:
            mishaps.num_hangs += 1
            await asyncio.sleep(HANG_S)
            self.cut_power(again_after_s=RESET_S)
            return
        outcome = await self._train(self.index, request)
        self._device.receive(outcome, read_clock())
        self._perform()

    def _next_id(self) -> int:
        self._packet_id = self._packet_id % MAX_PACKET_ID + 1
        return self._packet_id

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
