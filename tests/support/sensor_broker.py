"""An embedded broker on a port of its own, and a client that plays a sensor."""

import contextlib
from collections.abc import Iterator

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from headwater_gateway.shell.broker import embedded_broker, find_free_port

HOST = "127.0.0.1"


def free_port() -> int:
    return find_free_port(HOST)


@contextlib.contextmanager
def running_broker(port: int) -> Iterator[None]:
    with embedded_broker(HOST, port):
        yield


@contextlib.contextmanager
def connected_sensor(port: int) -> Iterator[mqtt.Client]:
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.connect(HOST, port)
    client.loop_start()
    try:
        yield client
    finally:
        client.disconnect()
        client.loop_stop()
