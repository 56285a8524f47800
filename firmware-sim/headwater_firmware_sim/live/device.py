"""One simulated device over MQTT: the machine of the agent, with its state in memory."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import aiomqtt

from headwater_agent.device import Device
from headwater_agent.machine.effects import (
    Effect,
    Notice,
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
from headwater_gateway.shell.mqtt import BrokerAddress
from headwater_protocol.identifiers import RoundNumber
from headwater_protocol.messages.topics import TopicKind, parse_topic

logger = logging.getLogger(__name__)

CLIENT_LOGGER: Final = logging.getLogger("headwater.mqtt")
"""aiomqtt warns of every publish that waits and of every answer that came after a loss; both are
what a burst and a reconnect look like."""
CLIENT_LOGGER.setLevel(logging.CRITICAL)

FIRST_RETRY_S: Final = 0.2
LAST_RETRY_S: Final = 10.0

TrainNow = Callable[[Train], Awaitable[Trained | TrainingFailed]]


class LiveDevice:
    """Drives a `Device` with aiomqtt until it is cancelled."""

    def __init__(
        self,
        device: Device,
        *,
        name: str,
        broker: BrokerAddress,
        train: TrainNow,
        absences: Sequence[tuple[RoundNumber, float]] = (),
        on_notice: Callable[[Notice], None] | None = None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """Set up; `run` does the work.

        Args:
            device: The machine.
            name: For the broker and the log.
            broker: Where to connect.
            train: Runs a training request.
            absences: Rounds in which the device drops off the net when it hears of them, and for
                how many seconds.
            on_notice: Told of what the machine reports.
            now_ms: The clock.
        """
        self._device = device
        self._name = name
        self._broker = broker
        self._train = train
        self._absences = dict(absences)
        self._on_notice = on_notice
        self._now_ms = now_ms
        self._client: aiomqtt.Client | None = None
        self._wake = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self.num_absences = 0

    @property
    def device(self) -> Device:
        """The machine."""
        return self._device

    async def run(self) -> None:
        """Connect, take part, come back after every loss."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self._run_timer())
            retry_s = FIRST_RETRY_S
            while True:
                away_s = 0.0
                try:
                    away_s = await self._connect_once()
                    retry_s = FIRST_RETRY_S
                except aiomqtt.MqttError as error:
                    logger.debug("%s: %s", self._name, error)
                    retry_s = min(LAST_RETRY_S, retry_s * 2)
                finally:
                    self._client = None
                self._device.receive(Disconnected(), self._now_ms())
                await self._perform()
                # A device that is away does nothing; jitter spreads a fleet that lost its broker.
                await asyncio.sleep(away_s or retry_s * random.uniform(0.5, 1.0))  # noqa: S311

    async def _connect_once(self) -> float:
        """One session; for how many seconds the device is away after it."""
        self._device.receive(Connecting(), self._now_ms())
        opening = await self._perform()
        if opening is None:
            return 0.0
        async with aiomqtt.Client(
            hostname=self._broker.host,
            port=self._broker.port,
            username=self._broker.username,
            password=self._broker.password,
            identifier=f"hw-{self._device.id.hex()[:20]}",
            protocol=aiomqtt.ProtocolVersion.V311,
            will=aiomqtt.Will(
                topic=opening.will.topic, payload=opening.will.payload, qos=1, retain=True
            ),
            clean_session=True,
            logger=CLIENT_LOGGER,
        ) as client:
            self._client = client
            self._device.receive(Connected(session=opening.session), self._now_ms())
            await self._perform()
            async for message in client.messages:
                topic = str(message.topic)
                arrived = Arrived(topic=topic, payload=message.payload)
                self._device.receive(arrived, self._now_ms())
                away_s = self._absence(topic)
                if away_s:
                    self.num_absences += 1
                    return away_s
                await self._perform()
        return 0.0

    def _absence(self, topic: str) -> float:
        if parse_topic(topic).kind is not TopicKind.ROUND:
            return 0.0
        number = self._device.round_in_work
        return 0.0 if number is None else self._absences.pop(number, 0.0)

    async def _perform(self) -> OpenConnection | None:
        opening = None
        for effect in self._device.effects():
            if isinstance(effect, OpenConnection):
                opening = effect
            else:
                await self._perform_one(effect)
        self._wake.set()
        return opening

    async def _perform_one(self, effect: Effect) -> None:
        client = self._client
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            # A publish that is acknowledged while it is cancelled returns as if nothing had
            # happened: `asyncio.wait_for` of Python 3.11, which aiomqtt uses, keeps it back.
            raise asyncio.CancelledError
        if isinstance(effect, Train):
            if self._group is not None:
                self._group.create_task(self._run_training(effect))
        elif isinstance(effect, Notice):
            if self._on_notice is not None:
                self._on_notice(effect)
        elif isinstance(effect, Persist) or client is None:
            # State lives in memory here; what cannot be sent now is sent after the next connection.
            return
        elif isinstance(effect, Publish):
            await client.publish(
                effect.topic, effect.payload, qos=effect.qos, retain=effect.is_retained
            )
        elif isinstance(effect, Subscribe):
            for topic in effect.topics:
                await client.subscribe(topic, qos=1)
        elif isinstance(effect, Unsubscribe):
            for topic in effect.topics:
                await client.unsubscribe(topic)

    async def _run_training(self, request: Train) -> None:
        outcome = await self._train(request)
        self._device.receive(outcome, self._now_ms())
        try:
            await self._perform()
        except aiomqtt.MqttError as error:
            logger.debug("%s: %s", self._name, error)

    async def _run_timer(self) -> None:
        while True:
            self._wake.clear()
            at = self._device.next_timer()
            timeout_s = None if at is None else max(0, at - self._now_ms()) / 1_000
            try:
                async with asyncio.timeout(timeout_s):
                    await self._wake.wait()
            except TimeoutError:
                self._device.on_timer(self._now_ms())
                try:
                    await self._perform()
                except aiomqtt.MqttError as error:
                    logger.debug("%s: %s", self._name, error)
