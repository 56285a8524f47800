"""Founding on several machines: folders that fit each other, and each only its own secrets."""

import ssl
from pathlib import Path

import numpy as np
import pytest

from headwater_gateway.cli import main
from headwater_gateway.config import GatewayConfig, load_config
from headwater_gateway.keyfile import load_key
from headwater_gateway.launch import load_genesis, prepare
from headwater_protocol.identifiers import MAIN_CHAIN
from headwater_shard.engine.cometbft.shell.home import ensure_node_key

HOSTS = [f"10.0.0.{number}" for number in range(1, 7)]


@pytest.fixture
def net(tmp_path: Path) -> Path:
    np.savez(
        tmp_path / "examples.npz",
        features=np.random.default_rng(1).random((60, 64)),
        labels=np.arange(60) % 10,
    )
    arguments = ["init", "--out", str(tmp_path / "net"), "--validators", "3", "--shards", "2"]
    arguments += ["--validation", str(tmp_path / "examples.npz")]
    for host in HOSTS:
        arguments += ["--host", host]
    assert main(arguments) == 0
    return tmp_path / "net"


def configs(net: Path) -> list[GatewayConfig]:
    return [load_config(net / f"gateway-{index}") for index in range(6)]


def test_every_gateway_has_one_key_and_they_are_the_genesis_validators(net: Path) -> None:
    found = configs(net)
    genesis = load_genesis(found[0])
    keys = {}
    for config in found:
        assert load_genesis(config) == genesis
        assert [bool(shard.delegate_keys) for shard in config.shards] == [True, False]
        (path,) = config.shards[0].delegate_keys
        keys[load_key(path, key="keys").validator] = config.shards[0].shard
    assert keys == {entry.validator: entry.shard for entry in genesis.validators}


def test_peers_name_each_other_by_the_right_ids_and_addresses(net: Path) -> None:
    found = configs(net)
    ids = [ensure_node_key(net / f"gateway-{index}" / "keys" / "node.json") for index in range(6)]
    for chain in (MAIN_CHAIN, "shard-1", "shard-2"):
        nodes = [config.comet.node_of(chain) for config in found if config.comet]
        addresses = [
            f"{node_id}@{host}:{node.listen.rpartition(':')[2]}"
            for node_id, node, host in zip(ids, nodes, HOSTS, strict=True)
        ]
        assert len(set(addresses)) == 6
        for own, node in zip(addresses, nodes, strict=True):
            assert set(node.peers) == set(addresses) - {own}
            assert node.listen.startswith("tcp://0.0.0.0:"), "others may know it by another name"
    for index, config in enumerate(found):
        assert len(config.peers) == 5
        assert not any(f"//{HOSTS[index]}:" in url for url in config.peers.values())
        assert config.web is not None
        assert config.web.host == "0.0.0.0"


def test_only_the_first_gateway_can_enrol_and_certify(net: Path) -> None:
    for index, config in enumerate(configs(net)):
        folder = net / f"gateway-{index}"
        assert (config.enrolment is not None) == (index == 0)
        assert (folder / "tls/ca.key").exists() == (index == 0)
        assert (folder / "keys/registrar.key").exists() == (index == 0)
        assert config.tls.ca_file is not None
        context = ssl.create_default_context(cafile=config.tls.ca_file)
        assert config.tls.cert_file is not None
        context.load_cert_chain(config.tls.cert_file, config.tls.key_file)
    for path in net.rglob("*.key"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_examples_are_dealt_out_and_every_gateway_can_prepare(net: Path) -> None:
    sizes = []
    for config in configs(net):
        setup = prepare(config, broker_url=config.brokers[0])
        (data,) = setup.shards[0].validation.values()
        sizes.append(len(data.labels))
        assert setup.shards[1].validation == {}
    assert sizes == [10] * 6


def test_two_brokers_let_all_gateways_in(net: Path) -> None:
    for index in range(2):
        folder = net / f"broker-{index}"
        access = (folder / "access.acl").read_text()
        assert all(f"user gateway-{number}\n" in access for number in range(6))
        assert f"listener {8883 + index}" in (folder / "mosquitto.conf").read_text()
    assert configs(net)[4].brokers == (f"mqtts://{HOSTS[0]}:8883", f"mqtts://{HOSTS[1]}:8884")


def test_ports_count_up_from_the_one_that_is_given(tmp_path: Path) -> None:
    arguments = ["init", "--out", str(tmp_path / "net"), "--validators", "2"]
    assert main([*arguments, "--first-port", "9000"]) == 0
    found = [load_config(tmp_path / "net" / f"gateway-{index}") for index in range(2)]
    assert found[0].enrolment is not None
    assert found[0].enrolment.port == 9000
    assert found[0].brokers == ("mqtts://127.0.0.1:9001", "mqtts://127.0.0.1:9002")
    ports = []
    for config in found:
        assert config.web is not None
        assert config.comet is not None
        ports.append(config.web.port)
        ports += [int(node.listen.rpartition(":")[2]) for node in config.comet.nodes]
    assert ports == list(range(9003, 9009))
    # Brokers on this machine are told of revocations.
    assert found[0].enrolment.reload[0] == "sh"
