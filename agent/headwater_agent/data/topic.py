"""The connection to a sensor's broker, with paho's own thread; the rules are in `stream.py`."""

import ssl
import threading
from collections.abc import Callable
from typing import Final

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode as MqttReasonCode

from headwater_agent.data.config import SensorBroker, TopicSource
from headwater_agent.data.pool import Pool
from headwater_agent.data.stream import SensorStream
from headwater_models.dataset import Dataset
from headwater_protocol.errors import ConfigError, OutOfBounds

KEEPALIVE_S: Final = 60
FIRST_RECONNECT_S: Final = 1
MAX_RECONNECT_S: Final = 120
MAX_PASSWORD_CHARACTERS: Final = 4_096

_ALLOWED: Final = "check its login, and that it may read "


class SensorTopic:
    """A sensor's messages, as labelled windows in a reservoir."""

    is_stream = True

    def __init__(
        self, source: TopicSource, stream: SensorStream, pool: Pool, *, clock: Callable[[], int]
    ) -> None:
        self._source = source
        self._stream = stream
        self.pool = pool
        self._clock = clock
        self._lock = threading.Lock()
        broker = source.broker
        self._place = f"{broker.host}:{broker.port}"
        self._client: mqtt.Client | None = None

    def open(self) -> None:
        """Begin to connect; a broker that is away is tried again for as long as it takes.

        Raises:
            ConfigError: If the password or the authorities' file cannot be read.
        """
        broker = self._source.broker
        client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv311)
        if broker.username is not None:
            client.username_pw_set(broker.username, _read_password(broker))
        if broker.uses_tls:
            client.tls_set_context(_make_tls_context(broker))
        client.reconnect_delay_set(FIRST_RECONNECT_S, MAX_RECONNECT_S)
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        self._client = client
        client.connect_async(broker.host, broker.port, keepalive=KEEPALIVE_S)
        client.loop_start()

    def dataset(self) -> Dataset:
        """The windows so far, as far as they are kept.

        Raises:
            NoExamples: If there are none yet.
        """
        return self.pool.dataset(why_empty=self._why_empty, copies=True)

    def close(self) -> None:
        """Say goodbye."""
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()
            self._client = None

    def _why_empty(self) -> str:
        with self._lock:
            state = self._stream.describe()
        problems = self.pool.problems
        return f"{state}; {problems.latest[-1]}" if problems.total else state

    def _on_connect(
        self,
        client: mqtt.Client,
        userdata: object,
        flags: mqtt.ConnectFlags,
        reason: MqttReasonCode,
        properties: Properties | None,
    ) -> None:
        topics = self._stream.topics
        if reason.is_failure:
            self.pool.problems.add(
                self._place, f"the broker refuses: {reason}", fix=_ALLOWED + ", ".join(topics)
            )
            return
        client.subscribe([(topic, 1) for topic in topics])

    def _on_connect_fail(self, client: mqtt.Client, userdata: object) -> None:
        self.pool.problems.add(
            self._place, "there is no broker", fix="check data.broker; it is tried again"
        )

    def _on_disconnect(
        self,
        client: mqtt.Client,
        userdata: object,
        flags: mqtt.DisconnectFlags,
        reason: MqttReasonCode,
        properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self.pool.problems.add(
                self._place, f"the connection ended: {reason}", fix="it is made again"
            )

    def _on_message(self, client: mqtt.Client, userdata: object, message: mqtt.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        with self._lock:
            example = self._stream.receive(
                topic, bytes(message.payload), is_retained=message.retain, now_ms=self._clock()
            )
        if example is not None:
            try:
                self.pool.offer(*example)
            except OutOfBounds as error:
                self.pool.problems.add(topic, str(error), fix="see docs/data-sources.md")


def _read_password(broker: SensorBroker) -> str | None:
    if broker.password_file is None:
        return None
    try:
        with broker.password_file.open(encoding="utf-8") as file:
            return file.readline(MAX_PASSWORD_CHARACTERS).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "data.password_file", f"{broker.password_file}: {error}", fix="name a readable file"
        ) from None


def _make_tls_context(broker: SensorBroker) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(
            cafile=None if broker.ca_file is None else str(broker.ca_file)
        )
    except (OSError, ssl.SSLError) as error:
        raise ConfigError("data.ca_file", str(error), fix="name a readable PEM file") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
