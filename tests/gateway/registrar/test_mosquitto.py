"""The access list: the protocol's table as text, and what a real Mosquitto makes of each row."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from paho.mqtt.client import topic_matches_sub

from headwater_gateway.registrar.mosquitto import (
    MAX_PACKET_OVERHEAD_BYTES,
    compute_message_limit,
    format_access,
)
from headwater_protocol.identifiers import ChainId, EpochNumber
from headwater_protocol.light.update import MAX_EPOCH_UPDATE_BYTES
from headwater_protocol.messages.announcement import MAX_ANNOUNCEMENT_BYTES
from headwater_protocol.messages.topics import ACCESS, Topics, network_name
from tests.support.mosquitto import (
    MONITOR,
    Client,
    Mosquitto,
    make_authority,
    make_broker,
    write_client,
)
from tests.support.network import key, make_cast
from tests.support.records import digest

CAST = make_cast(shards=("shard-0", "shard-1"))
OWN, OTHER = key("own").device, key("other").device
HOME, AWAY = (Topics(CAST.network, ChainId(shard)) for shard in ("shard-0", "shard-1"))
FOREIGN = Topics(make_cast(shards=("shard-0",)).network, ChainId("shard-0"))
EVERYTHING = [
    *(
        topic
        for topics in (HOME, AWAY, FOREIGN)
        for topic in (
            topics.round,
            topics.epoch(EpochNumber(1)),
            topics.latest_epoch,
            topics.chunk(digest("model"), 0),
            topics.enroll("token"),
            *(
                make(device)
                for device in (OWN, OTHER)
                for make in (topics.update, topics.receipt, topics.status)
            ),
        )
    ),
    "hw/1",
    f"{HOME.root}/devices/{OWN.hex()}",
    f"{HOME.root}/devices/{OWN.hex()}/update/more",
    "somewhere/else",
]
NAMES = {"device": OWN.hex(), "gateway": "gateway"}


def may(role: str, topic: str, *, publish: bool) -> bool:
    """What the table says, read in another way than the list's writer does."""
    network = network_name(CAST.network)
    for row in ACCESS:
        # What devices read of rounds and models is nobody's in particular: gateways read it too.
        is_public = not publish and row.role == "device" and "%d" not in row.pattern
        if row.may_publish is not publish or not (row.role == role or is_public):
            continue
        for shard in CAST.genesis.shards:
            device = OWN.hex() if role == "device" else "+"
            pattern = row.pattern.replace("%n", network).replace("%s", shard)
            if topic_matches_sub(pattern.replace("%d", device), topic):
                return True
    return False


def test_the_list_has_a_line_for_every_row_and_shard():
    text = format_access(CAST.genesis, gateways=("gateway", "gateway-2"))
    devices, first, second = re.split(r"\nuser .*\n", text)
    assert first.split() == second.split()
    network = network_name(CAST.network)
    for part, role, word, device in (
        (devices, "device", "pattern", "%u"),
        (first, "gateway", "topic", "+"),
    ):
        expected = {
            f"{word} {'write' if row.may_publish else 'read'} "
            + row.pattern.replace("%n", network).replace("%s", shard).replace("%d", device)
            for row in ACCESS
            if row.role == role
            for shard in CAST.genesis.shards
        }
        lines = {line for line in part.splitlines() if line and not line.startswith("#")}
        assert lines == expected


def test_a_device_writes_nothing_that_does_not_hold_its_id():
    for line in format_access(CAST.genesis, gateways=()).splitlines():
        if line.startswith("pattern write"):
            assert "/%u/" in line


def test_the_broker_takes_the_largest_message_of_the_protocol():
    limit = compute_message_limit(CAST.genesis)
    assert limit >= max(MAX_ANNOUNCEMENT_BYTES, MAX_EPOCH_UPDATE_BYTES) + MAX_PACKET_OVERHEAD_BYTES


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("broker")


@pytest.fixture(scope="module")
def authority():
    return make_authority()


@pytest.fixture(scope="module")
def broker(folder, authority) -> Iterator[Mosquitto]:
    with make_broker(folder / "broker", CAST.genesis, authority) as broker:
        yield broker


def connect(broker: Mosquitto, folder: Path, authority, name: str, **changes) -> Client:
    return Client(
        broker=broker,
        ca_file=broker.config.parent / "ca.pem",
        certificate=write_client(folder, authority, name, **changes),
    )


@pytest.mark.broker
@pytest.mark.parametrize("role", ["device", "gateway"])
def test_mosquitto_takes_what_the_table_lets_a_role_publish_and_nothing_else(
    broker, folder, authority, role
):
    marker = {"device": HOME.status(OWN), "gateway": HOME.round}[role]
    with (
        connect(broker, folder, authority, MONITOR) as monitor,
        connect(broker, folder, authority, NAMES[role]) as client,
    ):
        assert monitor.is_let_in()
        assert client.is_let_in()
        monitor.subscribe("#")
        for number, topic in enumerate(EVERYTHING):
            client.publish(topic, b"%d" % number)
            client.publish(marker, b"end %d" % number)
            heard = monitor.hear_until(b"end %d" % number)
            expected = [(topic, b"%d" % number)] if may(role, topic, publish=True) else []
            assert heard == expected, (role, topic)


@pytest.mark.broker
@pytest.mark.parametrize("role", ["device", "gateway"])
def test_mosquitto_tells_what_the_table_lets_a_role_read_and_nothing_else(
    broker, folder, authority, role
):
    marker = {"device": HOME.round, "gateway": HOME.update(OWN)}[role]
    with (
        connect(broker, folder, authority, MONITOR) as monitor,
        connect(broker, folder, authority, NAMES[role]) as client,
    ):
        assert monitor.is_let_in()
        assert client.is_let_in()
        client.subscribe("#", "$SYS/#")
        for number, topic in enumerate(EVERYTHING):
            monitor.publish(topic, b"%d" % number)
            monitor.publish(marker, b"end %d" % number)
            heard = client.hear_until(b"end %d" % number)
            expected = [(topic, b"%d" % number)] if may(role, topic, publish=False) else []
            assert heard == expected, (role, topic)


@pytest.mark.broker
def test_who_somebody_is_the_certificate_says(broker, folder, authority):
    """A client id of one's choice does not push a device's session aside."""
    with connect(broker, folder, authority, OWN.hex()) as device:
        assert device.is_let_in()
        certificate = write_client(folder, authority, OTHER.hex())
        ca_file = broker.config.parent / "ca.pem"
        with Client(broker, ca_file, certificate, client_id=OWN.hex()) as other:
            assert other.is_let_in()
            device.publish(HOME.status(OWN), b"still here")
            assert not device.ended.is_set()


@pytest.mark.broker
def test_nobody_gets_in_without_a_certificate_of_this_network(broker, folder, authority):
    ca_file = broker.config.parent / "ca.pem"
    stranger = write_client(folder, make_authority(), OWN.hex())
    expired = write_client(folder, authority, OTHER.hex(), life_ms=-1_000)
    for certificate in (None, stranger, expired):
        with Client(broker, ca_file, certificate) as client:
            assert not client.is_let_in()


@pytest.mark.broker
def test_a_message_past_the_limit_is_refused(broker, folder, authority):
    limit = compute_message_limit(CAST.genesis)
    with (
        connect(broker, folder, authority, MONITOR) as monitor,
        connect(broker, folder, authority, OWN.hex()) as device,
    ):
        assert monitor.is_let_in()
        assert device.is_let_in()
        monitor.subscribe(HOME.updates)
        device.publish(HOME.update(OWN), bytes(limit))
        assert monitor.heard.get(timeout=10)[1] == bytes(limit)
        device.client.publish(HOME.update(OWN), bytes(limit + 1), qos=1)
        device.client.publish(HOME.update(OWN), b"end", qos=1)
        heard = [monitor.heard.get(timeout=10)[1]]
        assert heard == [b"end"]
