"""`gateway.toml`: every mistake is one line with the key and the fix."""

from pathlib import Path

import pytest

from headwater_gateway.config import (
    GatewayConfig,
    format_shard,
    format_template,
    load_config,
    parse_device,
)
from headwater_gateway.keyfile import create_key, load_key
from headwater_protocol.errors import ConfigError
from headwater_protocol.identifiers import ChainId, Network

NETWORK = Network(b"\x01" * 32)
ID = "ab" * 32


def write(tmp_path: Path, *, shard: str = "", extra: str = "", devices: str = "") -> Path:
    text = format_template(
        genesis="genesis.cbor",
        network=NETWORK,
        folder="data",
        blobs=("program.tflite",),
        registrar_key="registrar.key",
        port=1883,
    ) + (
        shard
        or format_shard(
            name=ChainId("shard-1"), keys=("a.key", "b.key"), validation="v", devices="devices.txt"
        )
    )
    (tmp_path / "devices.txt").write_text(devices)
    path = tmp_path / "gateway.toml"
    path.write_text(extra + text)
    return path


def load_changed(tmp_path: Path, old: str, new: str) -> GatewayConfig:
    path = write(tmp_path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return load_config(path)


def test_written_template_is_read_back(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, devices=f"# mine\n\n{ID}  # kitchen\n{'00' * 32}\n"))
    assert config.genesis == tmp_path / "genesis.cbor"
    assert config.network == NETWORK
    assert config.blobs == (tmp_path / "program.tflite",)
    assert (config.broker.url, config.broker.host, config.broker.port) == (None, "127.0.0.1", 1883)
    (shard,) = config.shards
    assert shard.delegate_keys == (tmp_path / "a.key", tmp_path / "b.key")
    assert shard.validation == (tmp_path / "v",)
    assert [device.hex() for device in shard.devices] == ["00" * 32, ID]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("genesis =", "genesys =", "genesis: is missing; add it"),
        ("[broker]", "typo = 1\n[broker]", "typo: is no key of this file; use one of genesis"),
        ("port =", "prot = 1\nport =", "broker.prot: is no key"),
        ("port = 1883", "port = 0", "broker.port: is 0; give 1 to 65535"),
        ("port = 1883", 'port = "x"', "broker.port: is 'x'; give a whole number"),
        ("port = 1883", "port = true", "broker.port: is True"),
        ('host = "127.0.0.1"', 'host = ""', "broker.host: is ''"),
        ('"01010101', '"zz010101', "network: "),
        ("[[shards]]", "[[shard]]", "shards: is missing"),
        ('name = "shard-1"', "", "shards[1].name: is missing"),
        ('validation = "v"', 'validation = ["v"]', "shards[1].validation: has 1 paths for 2"),
        ('devices = "devices.txt"', 'devices = ["12"]', "shards[1].devices: '12' is no device id"),
        ('devices = "devices.txt"', "devices = 7", "shards[1].devices: is 7"),
        ('devices = "devices.txt"', 'devices = "none"', "shards[1].devices: "),
        ("# [limits] ", "[limits]\nmax_data_bytes = 0\n#", "limits.max_data_bytes: is 0"),
        ("[[shards]]", "x = [", "is not TOML"),
    ],
)
def test_mistake_names_the_key_and_the_fix(tmp_path: Path, old: str, new: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_changed(tmp_path, old, new)
    assert words in str(caught.value)
    assert "; " in str(caught.value)


def test_delegates_may_have_validation_data_of_their_own(tmp_path: Path) -> None:
    config = load_changed(tmp_path, 'validation = "v"', 'validation = ["v", "w"]')
    assert config.shards[0].validation == (tmp_path / "v", tmp_path / "w")


def test_devices_need_a_registrar(tmp_path: Path) -> None:
    path = write(tmp_path, devices=ID)
    path.write_text(path.read_text().replace("registrar_key", "# registrar_key"))
    with pytest.raises(ConfigError, match=r"registrar_key: is missing, but .*devices lists"):
        load_config(path)


def test_shard_may_come_once(tmp_path: Path) -> None:
    path = write(tmp_path)
    shard = format_shard(
        name=ChainId("shard-1"), keys=("c",), validation="v", devices="devices.txt"
    )
    path.write_text(path.read_text() + shard)
    with pytest.raises(ConfigError, match="shard-1 comes twice"):
        load_config(path)


def test_bad_line_of_a_device_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"devices\.txt line 2"):
        load_config(write(tmp_path, devices=f"{ID}\nnonsense\n"))


def test_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="headwater-gateway init"):
        load_config(tmp_path / "none.toml")


def test_device_id_has_64_digits() -> None:
    assert parse_device(ID, key="k").hex() == ID
    for text in ("", ID[:-1], ID + "0", "zz" * 32, " " + ID[:-1]):
        with pytest.raises(ConfigError, match="headwater-agent id"):
            parse_device(text, key="k")


def test_key_is_private_and_made_once(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    key = create_key(path, b"\x07" * 32)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_key(path, key="k").public_key == key.public_key
    with pytest.raises(ConfigError):
        create_key(path, b"\x08" * 32)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match=r"k: .* can be read by others; chmod 600"):
        load_key(path, key="k")
    path.chmod(0o600)
    path.write_text("no key")
    with pytest.raises(ConfigError, match="holds no key"):
        load_key(path, key="k")
    with pytest.raises(ConfigError, match="does not exist"):
        load_key(tmp_path / "none", key="k")


COMET = """engine = "cometbft"
[[cometbft.nodes]]
chain = "main"
listen = "tcp://0.0.0.0:26656"
peers = ["ab12@10.0.0.2:26656"]
[[cometbft.nodes]]
chain = "shard-1"
listen = "tcp://0.0.0.0:26657"
"""


def load_comet(tmp_path: Path, old: str = "", new: str = "") -> GatewayConfig:
    path = write(tmp_path)
    first, _, rest = COMET.partition("\n")
    tables = rest.replace(old, new, 1) if old else rest
    path.write_text(f"{first}\n{path.read_text()}\n{tables}")
    return load_config(path)


def test_the_embedded_engine_is_the_default(tmp_path: Path) -> None:
    assert load_config(write(tmp_path)).comet is None
    assert load_config(write(tmp_path, extra='engine = "embedded"\n')).comet is None


def test_cometbft_names_a_node_for_each_chain(tmp_path: Path) -> None:
    comet = load_comet(tmp_path).comet
    assert comet is not None
    assert comet.binary is None
    node = comet.node_of(ChainId("main"))
    assert (node.listen, node.peers) == ("tcp://0.0.0.0:26656", ("ab12@10.0.0.2:26656",))
    assert comet.node_of(ChainId("shard-1")).peers == ()
    with pytest.raises(ConfigError, match="none for shard-2"):
        comet.node_of(ChainId("shard-2"))


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('listen = "tcp://0.0.0.0:26656"', 'listen = "0.0.0.0:26656"', "cometbft.nodes"),
        ('listen = "tcp://0.0.0.0:26656"', 'listen = "tcp://0.0.0.0"', "cometbft.nodes"),
        ("ab12@10.0.0.2:26656", "10.0.0.2:26656", "cometbft.nodes"),
        ("ab12@10.0.0.2:26656", "ab12@10.0.0.2", "cometbft.nodes"),
        ('chain = "shard-1"', 'chain = "main"', "cometbft.nodes"),
        ('chain = "main"', 'chain = "main"\nport = 1', "cometbft.nodes"),
        ("[[cometbft.nodes]]", "[[cometbft.node]]", "cometbft"),
    ],
)
def test_a_mistake_in_a_node_is_named(tmp_path: Path, old: str, new: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_comet(tmp_path, old, new)
    assert key in str(caught.value)


def test_an_unknown_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="embedded, cometbft"):
        load_config(write(tmp_path, extra='engine = "raft"\n'))
