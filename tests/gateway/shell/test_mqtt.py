"""The MQTT shell against a real, embedded broker that goes away and comes back."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import aiomqtt
import pytest

from headwater_gateway.machine.effects import Publish
from headwater_gateway.shell import mqtt as mqtt_module
from headwater_gateway.shell.broker import embedded_broker, find_free_port
from headwater_gateway.shell.mqtt import MqttBus, ignore_lost_connections, parse_broker_url
from headwater_protocol.errors import ConfigError

HOST = "127.0.0.1"
TIMEOUT_S = 15.0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():
            await asyncio.sleep(0.02)


class Recorder:
    """A bus with what it told."""

    def __init__(self, port: int) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self.num_connected = 0
        self.bus = MqttBus(
            url=f"mqtt://{HOST}:{port}",
            client_id="bus",
            filters=["in/+"],
            on_message=lambda topic, payload: self.messages.append((topic, payload)),
            on_connected=self._on_connected,
        )

    def _on_connected(self) -> None:
        self.num_connected += 1
        self.bus.publish(Publish(topic="kept", payload=b"%d" % self.num_connected, retain=True))


@asynccontextmanager
async def running(recorder: Recorder) -> AsyncIterator[MqttBus]:
    asyncio.get_running_loop().set_exception_handler(ignore_lost_connections)
    task = asyncio.create_task(recorder.bus.run())
    try:
        yield recorder.bus
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def retained(port: int, topic: str) -> bytes:
    async with aiomqtt.Client(HOST, port) as client, asyncio.timeout(TIMEOUT_S):
        await client.subscribe(topic, qos=1)
        async for message in client.messages:
            return bytes(message.payload)
    raise AssertionError("nothing is retained")


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 3 * TIMEOUT_S))


def test_bus_comes_back_subscribes_again_and_publishes_again_what_is_retained() -> None:
    port = find_free_port(HOST)
    recorder = Recorder(port)

    async def serve_once(number: int) -> None:
        with embedded_broker(HOST, port):
            await until(lambda: recorder.num_connected == number)
            assert await retained(port, "kept") == b"%d" % number
            async with aiomqtt.Client(HOST, port) as sender:
                await sender.publish("in/a", b"%d" % number, qos=1)
            await until(lambda: len(recorder.messages) == number)

    async def scenario() -> None:
        async with running(recorder) as bus:
            await serve_once(1)
            await until(lambda: not bus.is_connected)
            await serve_once(2)

    run(scenario)
    assert recorder.messages == [("in/a", b"1"), ("in/a", b"2")]


def test_receipts_wait_for_a_broker_that_is_away_and_retained_messages_do_not() -> None:
    port = find_free_port(HOST)
    recorder = Recorder(port)

    async def scenario() -> None:
        async with running(recorder) as bus:
            await asyncio.sleep(0.3)
            for number in range(50):
                bus.publish(Publish(topic="in/self", payload=b"%d" % number, retain=False))
            bus.publish(Publish(topic="in/old", payload=b"stale", retain=True))
            with embedded_broker(HOST, port):
                await until(lambda: len(recorder.messages) == 50)
                await bus.drain()

    run(scenario)
    assert {topic for topic, _ in recorder.messages} == {"in/self"}
    assert sorted(int(payload) for _, payload in recorder.messages) == list(range(50))


def test_messages_under_way_when_the_broker_dies_go_out_on_the_next_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The task that fails first cancels the others; their messages are not lost with them."""
    port = find_free_port(HOST)
    recorder = Recorder(port)
    original = aiomqtt.Client.publish

    async def hang(client: aiomqtt.Client, topic: str, *args: object, **more: object) -> None:
        if topic == "in/self" and recorder.num_connected == 1:
            await asyncio.sleep(3600)
        await original(client, topic, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(aiomqtt.Client, "publish", hang)

    async def scenario() -> None:
        async with running(recorder) as bus:
            with embedded_broker(HOST, port):
                await until(lambda: recorder.num_connected == 1)
                for number in range(10):
                    bus.publish(Publish(topic="in/self", payload=b"%d" % number, retain=False))
                await asyncio.sleep(0.1)
            with embedded_broker(HOST, port):
                await until(lambda: len(recorder.messages) == 10)

    run(scenario)
    assert sorted(int(payload) for _, payload in recorder.messages) == list(range(10))


def test_a_broker_that_goes_while_the_gateway_stops_does_not_keep_it_from_stopping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As at a machine's shutdown: the stop and the lost connection come in one turn of the loop."""
    port = find_free_port(HOST)
    recorder = Recorder(port)
    original = aiomqtt.Client.publish
    stops: list[str] = []

    async def fail_when_stopped(
        client: aiomqtt.Client, topic: str, *args: object, **more: object
    ) -> None:
        if topic != "in/last" or stops:
            await original(client, topic, *args, **more)  # type: ignore[arg-type]
            return
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            stops.append(topic)
            raise aiomqtt.MqttError("lost") from None

    monkeypatch.setattr(aiomqtt.Client, "publish", fail_when_stopped)

    async def scenario() -> None:
        bus = recorder.bus
        with embedded_broker(HOST, port):
            task = asyncio.create_task(bus.run())
            await until(lambda: recorder.num_connected == 1)
            bus.publish(Publish(topic="in/last", payload=b"", retain=False))
            await asyncio.sleep(0.1)
            task.cancel()
            await asyncio.wait([task], timeout=TIMEOUT_S)
            was_done = task.done()
            task.cancel()
            await asyncio.wait([task])
        assert was_done
        assert stops

    run(scenario)


class DeafClient:
    """Keeps cancellation back, as a publish does that is acknowledged in the same moment."""

    def __init__(self) -> None:
        self.num_published = 0

    async def publish(self, *_: object, **__: object) -> None:
        self.num_published += 1
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


def test_cancellation_that_a_publish_kept_back_still_ends_the_bus() -> None:
    async def scenario() -> None:
        bus, client = Recorder(1).bus, DeafClient()
        bus.publish(Publish(topic="out", payload=b"", retain=False))
        task = asyncio.create_task(bus._publish_all(client))  # type: ignore[arg-type]
        await until(lambda: client.num_published == 1)
        task.cancel()
        async with asyncio.timeout(TIMEOUT_S):
            await asyncio.wait({task})
        assert task.done()

    run(scenario)


def test_queue_at_its_limit_drops_the_oldest_and_still_drains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mqtt_module, "MAX_QUEUED_PUBLISHES", 3)
    port = find_free_port(HOST)
    recorder = Recorder(port)

    async def scenario() -> None:
        bus = recorder.bus
        for number in range(3):
            bus.publish(Publish(topic="in/self", payload=b"%d" % number, retain=False))
        assert bus.dropped == 0
        bus.publish(Publish(topic="in/self", payload=b"3", retain=False))
        assert bus.dropped == 1
        with embedded_broker(HOST, port):
            async with running(recorder):
                await until(lambda: recorder.num_connected == 1)
                async with asyncio.timeout(TIMEOUT_S):
                    await bus.drain()
                await until(lambda: len(recorder.messages) >= 2)

    run(scenario)
    assert b"0" not in {payload for _, payload in recorder.messages}


def test_broker_that_is_not_there_is_a_warning_and_no_crash(
    caplog: pytest.LogCaptureFixture,
) -> None:
    port = find_free_port(HOST)
    recorder = Recorder(port)

    async def scenario() -> None:
        async with running(recorder):
            await until(lambda: "broker_away" in caplog.text)

    with caplog.at_level(logging.WARNING):
        run(scenario)
    assert str(port) in caplog.text


@pytest.mark.parametrize("url", ["", "localhost", "http://x", "mqtt://", "mqtt://x:port", "mqtt:x"])
def test_url_of_no_broker_is_refused_with_the_form(url: str) -> None:
    with pytest.raises(ConfigError, match="use mqtt://host:port"):
        parse_broker_url(url)


def test_url_may_hold_a_login_and_ask_for_tls() -> None:
    address = parse_broker_url("mqtts://me:secret@broker.example")
    assert (address.host, address.port, address.is_tls) == ("broker.example", 8883, True)
    assert (address.username, address.password) == ("me", "secret")


def test_port_in_use_is_one_line_with_the_fix() -> None:
    with embedded_broker(HOST, 0) as url:
        port = parse_broker_url(url).port
        with pytest.raises(ConfigError, match="choose another port"), embedded_broker(HOST, port):
            pass


def test_a_cancellation_that_the_client_loses_still_ends_a_publisher() -> None:
    """As `asyncio.wait_for` loses one to an acknowledgement, before Python 3.12."""

    class Forgetful:
        def __init__(self) -> None:
            self.is_asked = asyncio.Event()

        async def publish(self, *args: object, **options: object) -> None:
            self.is_asked.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    async def go() -> None:
        bus = MqttBus(
            url="mqtt://127.0.0.1",
            client_id="test",
            filters=[],
            on_message=lambda topic, payload: None,
            on_connected=lambda: None,
        )
        bus.publish(Publish(topic="t", payload=b"p", retain=False))
        client = Forgetful()
        task = asyncio.create_task(bus._publish_all(client))  # type: ignore[arg-type]
        await client.is_asked.wait()
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=5)
        assert done

    asyncio.run(go())
