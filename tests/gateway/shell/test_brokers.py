"""Several brokers at once, and several gateways at one broker, with real Mosquittos."""

import asyncio
import contextlib
import functools
import ssl
from collections import Counter
from pathlib import Path

import pytest

from headwater_gateway.config import TlsConfig
from headwater_gateway.machine.effects import Publish
from headwater_gateway.registrar.mosquitto import format_access
from headwater_gateway.registrar.setup import make_broker_tls
from headwater_gateway.shell.brokers import Brokers
from headwater_protocol.errors import ConfigError
from headwater_protocol.identifiers import ChainId
from headwater_protocol.messages.topics import Topics, share_filter
from tests.support.mosquitto import MONITOR, Client, make_authority, make_broker, write_client
from tests.support.network import key, make_cast

CAST = make_cast(shards=("shard-0",))
TOPICS = Topics(CAST.network, ChainId("shard-0"))
DEVICE = key("device").device
TIMEOUT_S = 10.0

pytestmark = pytest.mark.broker


def scenario(test):
    """A test that is a coroutine, run on a loop of its own."""

    @functools.wraps(test)
    def run(*arguments, **named):
        asyncio.run(test(*arguments, **named))

    return run


class Setting:
    """Two brokers of one network, and whoever wants to connect to them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = make_authority()
        self.brokers = [
            make_broker(folder / f"broker-{number}", CAST.genesis, self.authority).start()
            for number in range(2)
        ]

    @property
    def ca_file(self) -> Path:
        return self.folder / "broker-0" / "ca.pem"

    def stop(self) -> None:
        for broker in self.brokers:
            broker.stop()

    def client(self, index: int, name: str) -> Client:
        client = Client(
            self.brokers[index], self.ca_file, write_client(self.folder, self.authority, name)
        )
        assert client.is_let_in()
        return client

    def tls(self, name: str) -> ssl.SSLContext:
        path = write_client(self.folder, self.authority, name)
        context = make_broker_tls(TlsConfig(ca_file=self.ca_file, cert_file=path, key_file=path))
        assert context is not None
        return context


@pytest.fixture
def setting(tmp_path):
    setting = Setting(tmp_path)
    yield setting
    setting.stop()


class Gateway:
    """A bus, and what it heard."""

    def __init__(self, setting: Setting, *, urls: list[str], filters: list[str]) -> None:
        self.heard: list[bytes] = []
        self.num_connected = 0
        self.changed = asyncio.Event()
        self.retained: list[Publish] = []
        self.bus = Brokers(
            urls=urls,
            client_id="gateway",
            filters=filters,
            on_message=self.on_message,
            on_connected=self.on_connected,
            tls=setting.tls("gateway"),
        )

    def on_message(self, topic: str, payload: bytes) -> None:
        self.heard.append(payload)
        self.changed.set()

    def on_connected(self) -> None:
        self.num_connected += 1
        for publish in self.retained:
            self.bus.publish(publish)
        self.changed.set()

    async def until(self, is_true) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while not is_true():
                self.changed.clear()
                await self.changed.wait()


@contextlib.asynccontextmanager
async def running(*gateways: Gateway):
    tasks = [asyncio.create_task(gateway.bus.run()) for gateway in gateways]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@scenario
async def test_what_is_published_goes_to_every_broker_and_what_comes_from_any_is_taken(setting):
    gateway = Gateway(
        setting, urls=[broker.url for broker in setting.brokers], filters=[TOPICS.updates]
    )
    devices = [setting.client(index, DEVICE.hex()) for index in range(2)]
    async with running(gateway):
        await gateway.until(lambda: gateway.num_connected == 2)
        for index, device in enumerate(devices):
            device.subscribe(TOPICS.receipt(DEVICE))
            device.publish(TOPICS.update(DEVICE), b"from %d" % index)
        await gateway.until(lambda: len(gateway.heard) == 2)
        assert Counter(gateway.heard) == Counter([b"from 0", b"from 1"])
        receipt = Publish(topic=TOPICS.receipt(DEVICE), payload=b"receipt", retain=False)
        gateway.bus.publish(receipt)
        await gateway.bus.drain()
        for device in devices:
            assert await asyncio.to_thread(device.hear_until, b"receipt") == []
    for device in devices:
        device.stop()


@scenario
async def test_a_broker_that_comes_back_is_told_what_is_retained_and_no_other_is(setting):
    gateway = Gateway(
        setting, urls=[broker.url for broker in setting.brokers], filters=[TOPICS.updates]
    )
    gateway.retained = [Publish(topic=TOPICS.round, payload=b"round", retain=True)]
    first = setting.client(0, DEVICE.hex())
    first.subscribe(TOPICS.round)
    async with running(gateway):
        await gateway.until(lambda: gateway.num_connected == 2)
        await gateway.bus.drain()
        await asyncio.to_thread(first.hear_until, b"round")
        # Persistence would keep it; a broker that lost its disk has nothing.
        setting.brokers[1].stop()
        (setting.folder / "broker-1" / "data" / "mosquitto.db").unlink(missing_ok=True)
        setting.brokers[1].start()
        await gateway.until(lambda: gateway.num_connected == 3)
        await gateway.bus.drain()
        second = setting.client(1, DEVICE.hex())
        second.subscribe(TOPICS.round)
        await asyncio.to_thread(second.hear_until, b"round")
        gateway.bus.publish(Publish(topic=TOPICS.round, payload=b"next", retain=True))
        for device in (first, second):
            assert await asyncio.to_thread(device.hear_until, b"next") == []
            device.stop()


@scenario
async def test_one_broker_that_is_away_holds_nothing_up(setting):
    setting.brokers[0].stop()
    gateway = Gateway(
        setting, urls=[broker.url for broker in setting.brokers], filters=[TOPICS.updates]
    )
    device = setting.client(1, DEVICE.hex())
    async with running(gateway):
        await gateway.until(lambda: gateway.num_connected == 1)
        device.publish(TOPICS.update(DEVICE), b"update")
        await gateway.until(lambda: gateway.heard == [b"update"])
    device.stop()


@scenario
async def test_two_gateways_of_a_group_share_a_shards_updates_out(setting):
    """None is lost, none comes twice, and neither gateway gets all of them."""
    url, count = setting.brokers[0].url, 200
    group = share_filter("intake", TOPICS.updates)
    # Two names, since a broker that goes by certificates has one session a name.
    access = setting.brokers[0].config.parent / "access.acl"
    text = access.read_text()
    lines = text[text.index("user gateway\n") :].partition("\nuser monitor")[0]
    access.write_text(text + "\n" + lines.replace("user gateway", "user gateway-2"))
    setting.brokers[0].reload()
    gateways = [Gateway(setting, urls=[url], filters=[group]) for _ in range(2)]
    second = setting.tls("gateway-2")
    gateways[1].bus = Brokers(
        urls=[url],
        client_id="gateway-2",
        filters=[group],
        on_message=gateways[1].on_message,
        on_connected=gateways[1].on_connected,
        tls=second,
    )
    device = setting.client(0, DEVICE.hex())
    async with running(*gateways):
        for gateway in gateways:
            await gateway.until(lambda gateway=gateway: gateway.num_connected == 1)
        for number in range(count):
            device.client.publish(TOPICS.update(DEVICE), b"%d" % number, qos=1)
        done = asyncio.Event()

        async def watch(gateway: Gateway) -> None:
            while sum(len(entry.heard) for entry in gateways) < count:
                gateway.changed.clear()
                await gateway.changed.wait()
            done.set()

        watching = [asyncio.create_task(watch(gateway)) for gateway in gateways]
        async with asyncio.timeout(TIMEOUT_S):
            await done.wait()
        for task in watching:
            task.cancel()
    heard = [gateway.heard for gateway in gateways]
    assert Counter(heard[0] + heard[1]) == Counter(b"%d" % number for number in range(count))
    assert min(len(part) for part in heard) > count // 10
    device.stop()


@scenario
async def test_an_expired_certificate_is_said_to_be_one(setting, caplog):
    path = write_client(setting.folder, setting.authority, "gateway", life_ms=-1_000)
    with pytest.raises(ConfigError, match=r"expired on .*headwater-gateway certificate gateway"):
        make_broker_tls(TlsConfig(ca_file=setting.ca_file, cert_file=path, key_file=path))


@scenario
async def test_a_brokers_expired_certificate_is_said_to_be_one(setting, caplog):
    pair = setting.authority.issue_pair(
        "broker", ("localhost",), now_ms=1_600_000_000_000, serial=bytes(16), life_ms=1_000
    )
    folder = setting.folder / "broker-0"
    setting.brokers[0].stop()
    (folder / "broker.pem").write_text(pair.certificate_pem)
    (folder / "broker.key").write_text(pair.key_pem)
    setting.brokers[0].start()
    gateway = Gateway(setting, urls=[setting.brokers[0].url], filters=[TOPICS.updates])
    async with running(gateway), asyncio.timeout(TIMEOUT_S):
        while "their certificate has expired" not in caplog.text:
            await asyncio.sleep(0.02)


def test_the_monitor_is_of_the_tests_alone():
    """It would otherwise be a hole in every broker's list."""
    assert MONITOR not in format_access(CAST.genesis, gateways=("gateway",))
