"""Folders of gateways on several machines: who listens where, who finds whom, who comes later."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from headwater_gateway.cli import main
from headwater_gateway.config import GatewayConfig, load_config
from headwater_gateway.gateway_folders import pick_listen_host
from headwater_gateway.keyfile import load_key
from headwater_gateway.registrar.authority import read_common_name, read_first_host
from headwater_protocol.errors import ConfigError
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId, ValidatorId
from headwater_shard.engine.cometbft.shell.home import ensure_node_key

HOSTS = [f"gateway-{index}.example" for index in range(3)]
SHARD = ChainId("shard-1")


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = tmp_path_factory.mktemp("machines") / "net"
    hosts = [word for host in HOSTS for word in ("--host", host)]
    brokers = ["--broker-host", "broker-0.example", "--broker-host", "broker-1.example"]
    assert main(["init", "--out", str(net), "--validators", "3", *hosts, *brokers]) == 0
    return net


@pytest.fixture(scope="module")
def invited(net: Path) -> Path:
    out = net / "gateway-3"
    arguments = ["invite", "gateway-3", "--host", "late.example", "--first-port", "27000"]
    arguments += ["--config", str(net / "gateway-0/gateway.toml"), "--out", str(out)]
    assert main(arguments) == 0
    return out


def node_id(config: GatewayConfig) -> str:
    assert config.comet is not None
    assert config.comet.node_key is not None
    return ensure_node_key(config.comet.node_key)


def peers_of(config: GatewayConfig, chain: ChainId) -> set[str]:
    assert config.comet is not None
    return set(config.comet.node_of(chain).peers)


def port_of(config: GatewayConfig, chain: ChainId) -> int:
    assert config.comet is not None
    return int(config.comet.node_of(chain).listen.rpartition(":")[2])


def validator_of(config: GatewayConfig) -> ValidatorId:
    return load_key(config.shards[0].delegate_keys[0], key="keys").validator


@pytest.mark.parametrize(
    ("host", "listens"),
    [
        ("gateway-0.example", "0.0.0.0"),
        ("192.0.2.7", "0.0.0.0"),
        ("2001:db8::7", "::"),
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.1.2", "127.0.1.2"),
        ("::1", "::1"),
        ("localhost", "localhost"),
    ],
)
def test_where_a_gateway_listens_does_not_depend_on_what_its_name_resolves_to(
    host: str, listens: str
) -> None:
    assert pick_listen_host(host) == listens


def test_everybody_listens_everywhere_and_is_found_by_name(net: Path) -> None:
    configs = [load_config(net / f"gateway-{index}") for index in range(3)]
    for config, host in zip(configs, HOSTS, strict=True):
        assert config.web is not None
        assert config.comet is not None
        assert config.web.host == "0.0.0.0"
        assert all(node.listen.startswith("tcp://0.0.0.0:") for node in config.comet.nodes)
        url = f"https://{host}:{config.web.port}"
        for other in configs:
            if other is config:
                continue
            assert other.peers[validator_of(config)] == url
            for chain in (MAIN_CHAIN, SHARD):
                entry = f"{node_id(config)}@{host}:{port_of(config, chain)}"
                assert entry in peers_of(other, chain)


def test_one_who_is_invited_knows_all_and_has_keys_of_its_own(net: Path, invited: Path) -> None:
    founders = [load_config(net / f"gateway-{index}") for index in range(3)]
    config = load_config(invited)
    assert config.network == founders[0].network
    assert config.genesis.read_bytes() == founders[0].genesis.read_bytes()
    assert [path.read_bytes() for path in config.blobs] == [
        path.read_bytes() for path in founders[0].blobs
    ]
    assert (config.brokers, config.intake_group) == (founders[0].brokers, "intake")
    assert (config.enrolment, config.registrar_key) == (None, None)
    assert {validator_of(founder) for founder in founders} == set(config.peers)
    assert validator_of(config) not in config.peers
    for founder in founders:
        assert founder.web is not None
        url = urlsplit(config.peers[validator_of(founder)])
        assert url.port == founder.web.port
        for chain in (MAIN_CHAIN, SHARD):
            entry = f"{node_id(founder)}@{url.hostname}:{port_of(founder, chain)}"
            assert entry in peers_of(config, chain)
    assert node_id(config) not in {node_id(founder) for founder in founders}
    assert [port_of(config, chain) for chain in (MAIN_CHAIN, SHARD)] == [27_001, 27_002]
    certificate = (invited / "tls/gateway-3.pem").read_bytes()
    assert read_common_name(certificate, key="k") == "gateway-3"
    assert read_first_host(certificate, key="k") == "late.example"
    for path in (invited / "keys").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_brokers_list_with_the_lines_of_one_who_is_invited_is_the_whole_list(
    net: Path, invited: Path, tmp_path: Path
) -> None:
    arguments = ["broker-config", "--config", str(net / "gateway-0/gateway.toml")]
    names = [word for index in range(4) for word in ("--gateway", f"gateway-{index}")]
    assert main([*arguments, *names, "--out", str(tmp_path / "broker")]) == 0
    before = (net / "broker-0/access.acl").read_text()
    added = (invited / "broker-access.acl").read_text()
    assert before + added == (tmp_path / "broker/access.acl").read_text()


def test_mistakes_in_an_invitation_are_one_line(
    net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--out", str(tmp_path / "one"), "--tls", "--host", "a"]) == 0
    at = ["--config", str(net / "gateway-0/gateway.toml"), "--host", "a.example"]
    for arguments, words in (
        (["g", *at, "--out", str(net)], "is not empty; choose a new folder"),
        (["../g", *at, "--out", str(tmp_path / "x")], "NAME: is '../g'"),
        (["g", *at, "--out", str(tmp_path / "x"), "--first-port", "65535"], "--first-port"),
        (["g", *at[:3], "no host", "--out", str(tmp_path / "x")], "no host"),
        (
            ["g", "--config", str(net / "gateway-1/gateway.toml"), *at[2:], "--out", "x"],
            "enrolment",
        ),
        (
            ["g", "--config", str(tmp_path / "one/gateway.toml"), *at[2:], "--out", "x"],
            "init --validators",
        ),
    ):
        capsys.readouterr()
        assert main(["invite", *arguments]) == 2
        error = capsys.readouterr().err
        assert words in error, error
        assert error.count("\n") == 1


def test_a_certificate_without_hosts_has_no_first_one(net: Path, tmp_path: Path) -> None:
    arguments = ["certificate", "c", "--out", str(tmp_path)]
    assert main([*arguments, "--config", str(net / "gateway-0/gateway.toml")]) == 0
    with pytest.raises(ConfigError, match="names no host"):
        read_first_host((tmp_path / "c.pem").read_bytes(), key="k")
