"""One MQTT session on paho-mqtt 2, driven from outside and without a thread of its own.

A client is made anew for each session: its will has the session's number, and nothing that paho
queued in an earlier session can be sent again behind the state machine's back. MQTT 3.1.1, because
the embedded broker speaks no other version.
"""

import contextlib
import ssl
from collections import deque
from typing import Final

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, LogLevel
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode as MqttReasonCode

from headwater_agent.config import BrokerAddress, Login, Tls
from headwater_agent.machine.effects import OpenConnection, Publish
from headwater_agent.machine.inputs import Arrived, Connected, Input
from headwater_agent.shell.clock import utc_ms
from headwater_agent.shell.problems import explain_connection, explain_stranger
from headwater_protocol.errors import ConfigError, TransportError
from headwater_protocol.messages.announcement import MAX_ANNOUNCEMENT_BYTES
from headwater_protocol.messages.chunk import MAX_CHUNK_MESSAGE_BYTES
from headwater_protocol.messages.topics import MAX_TOPIC_CHARACTERS

KEEPALIVE_S: Final = 60
CONNACK: Final = 0x20
"""A broker's first byte."""
FIRST_BYTES: Final = 8
CONNECT_TIMEOUT_S: Final = 10.0
MAX_INFLIGHT: Final = 8
"""Unacknowledged messages to the broker; a device has two kinds to send."""
MAX_QUEUED: Final = 16
"""Messages behind these; what does not fit is sent again by the state machine."""
MAX_PACKET_BYTES: Final = (
    max(MAX_ANNOUNCEMENT_BYTES, MAX_CHUNK_MESSAGE_BYTES) + MAX_TOPIC_CHARACTERS + 64
)
"""Of an incoming message; a larger one ends the connection before it is read."""


LOST: Final = "the broker or the network ended the session; it is made again"
"""paho's own word for it is "Unspecified error"."""
MAX_OUTGOING_PACKETS: Final = 256
"""Acknowledgements that a broker does not read while it sends on."""
PUBLISH_BITS: Final = 0x30
QOS_2_BIT: Final = 0x04


class _Refused(Exception):
    """The peer sends what this client takes no memory for; not an `OSError`, which paho hides."""


class _BoundedClient(mqtt.Client):
    """paho with the limits that it lacks under MQTT 3.1.1.

    It would ask for as many bytes as a packet announces, up to 256 MiB, and keep each message of
    QoS 2 until the peer releases it; nothing here is subscribed at QoS 2. The header of the packet
    that is being read is known before its body is asked for.
    """

    _has_heard = False

    def _sock_recv(self, bufsize: int) -> bytes:
        packet = self._in_packet
        announced, command = int(packet["remaining_length"]), int(packet["command"])
        if announced > MAX_PACKET_BYTES:
            raise _Refused(f"a message of {announced} bytes, the limit is {MAX_PACKET_BYTES}")
        if command & 0xF0 == PUBLISH_BITS and command & QOS_2_BIT:
            raise _Refused("a message of a quality of service that nobody asked for")
        if len(self._out_packet) > MAX_OUTGOING_PACKETS:
            raise _Refused(f"{len(self._out_packet)} packets wait for a peer that reads none")
        data: bytes = super()._sock_recv(bufsize)
        if not self._has_heard and data:
            self._has_heard = True
            if data[0] != CONNACK:
                with contextlib.suppress(OSError):
                    data += super()._sock_recv(FIRST_BYTES)
                raise _Refused(explain_stranger(data))
        return data


class Connection:
    """A session, from the attempt to connect to its end.

    Args:
        address: Of the broker.
        opening: Session and will.
        client_id: Names the device to the broker.
        login: If the broker asks for one.
        tls: For `mqtts://`.

    Raises:
        TransportError: If the broker cannot be reached.
        ConfigError: If a certificate or the password cannot be read.
    """

    def __init__(
        self,
        *,
        address: BrokerAddress,
        opening: OpenConnection,
        client_id: str,
        login: Login | None,
        tls: Tls,
    ) -> None:
        self._session = opening.session
        self._inputs: deque[Input] = deque()
        self.is_connected = False
        self.is_closed = False
        self.problem = ""
        self._socket_error = ""
        client = _BoundedClient(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=True,
            protocol=mqtt.MQTTv311,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(MAX_INFLIGHT)
        client.max_queued_messages_set(MAX_QUEUED)
        client.will_set(
            opening.will.topic,
            opening.will.payload,
            qos=opening.will.qos,
            retain=opening.will.is_retained,
        )
        if login is not None:
            client.username_pw_set(login.username, _read_password(login))
        if address.uses_tls:
            client.tls_set_context(_make_tls_context(tls))
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_log = self._on_log
        self._client = client
        try:
            client.connect(address.host, address.port, keepalive=KEEPALIVE_S)
        except (OSError, ValueError, mqtt.WebsocketConnectionError) as error:
            problem = explain_connection(address, error, now_ms=utc_ms())
            raise TransportError(problem) from error

    def fileno(self) -> int:
        """The socket's, for `select`; -1 once it is closed."""
        connected = self._client.socket()
        return -1 if connected is None else connected.fileno()

    @property
    def wants_write(self) -> bool:
        """Whether bytes wait for the socket to take them."""
        return self._client.want_write()

    @property
    def has_buffered_bytes(self) -> bool:
        """Whether TLS holds bytes that `select` does not see."""
        connected = self._client.socket()
        return isinstance(connected, ssl.SSLSocket) and connected.pending() > 0

    def handle(self, *, can_read: bool, can_write: bool) -> list[Input]:
        """Move bytes and return what came of it, in order."""
        try:
            if can_read:
                self._client.loop_read()
            if can_write:
                self._client.loop_write()
            self._client.loop_misc()
        except _Refused as error:
            self._close(str(error))
        except Exception as error:
            # paho indexes into packets that a hostile broker may have cut short; whatever that
            # raises, the session is over and the process is not.
            self._close(f"{type(error).__name__}: {error}")
        if self.fileno() < 0 and not self.is_closed:
            self._close("the socket is closed")
        inputs = list(self._inputs)
        self._inputs.clear()
        return inputs

    def publish(self, message: Publish) -> None:
        """Send a message, or drop it when too many wait."""
        self._client.publish(
            message.topic, message.payload, qos=message.qos, retain=message.is_retained
        )

    def subscribe(self, topics: tuple[str, ...]) -> None:
        """Listen at QoS 1."""
        self._client.subscribe([(topic, 1) for topic in topics])

    def unsubscribe(self, topics: tuple[str, ...]) -> None:
        """Listen no more."""
        self._client.unsubscribe(list(topics))

    def disconnect(self) -> None:
        """Say goodbye, so that the broker keeps the will to itself."""
        self._client.disconnect()

    def abort(self) -> None:
        """Close the socket without a goodbye."""
        connected = self._client.socket()
        if connected is not None:
            connected.close()
        self.is_closed = True

    def _close(self, problem: str) -> None:
        self.problem = self.problem or problem
        self.abort()

    def _on_connect(
        self,
        client: mqtt.Client,
        userdata: object,
        flags: mqtt.ConnectFlags,
        reason: MqttReasonCode,
        properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self._close(f"the broker refused the connection: {reason}")
        else:
            self.is_connected = True
            self._inputs.append(Connected(session=self._session))

    def _on_disconnect(
        self,
        client: mqtt.Client,
        userdata: object,
        flags: mqtt.DisconnectFlags,
        reason: MqttReasonCode,
        properties: Properties | None,
    ) -> None:
        self.problem = self.problem or self._socket_error or LOST
        self.is_closed = True

    def _on_log(self, client: mqtt.Client, userdata: object, level: int, text: str) -> None:
        # What a TLS library says of a broker's alert is told here and nowhere else.
        if level == LogLevel.MQTT_LOG_ERR and not self._socket_error:
            self._socket_error = text

    def _on_message(self, client: mqtt.Client, userdata: object, message: mqtt.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""
        self._inputs.append(Arrived(topic=topic, payload=bytes(message.payload)))


def _read_password(login: Login) -> str | None:
    if login.password_file is None:
        return None
    try:
        with login.password_file.open(encoding="utf-8") as file:
            return file.readline(4_096).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "login.password_file", f"{login.password_file}: {error}", fix="name a readable file"
        ) from None


def _make_tls_context(tls: Tls) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(
            cafile=None if tls.ca_file is None else str(tls.ca_file)
        )
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if tls.cert_file is not None:
            context.load_cert_chain(tls.cert_file, tls.key_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError("tls", str(error), fix="check the files that [tls] names") from None
    return context
