"""agent.toml: what is accepted, and one line with the fix for what is not."""

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from headwater_agent.config import load_config, parse_broker, parse_config
from headwater_agent.config_template import TEMPLATE, format_template, list_keys
from headwater_agent.guest.config import DEFAULT_GUEST
from headwater_agent.machine.limits import DeviceLimits
from headwater_protocol.errors import ConfigError

MINIMAL: dict[str, object] = {
    "brokers": ["mqtt://broker"],
    "genesis": "genesis.cbor",
    "network": "ab" * 32,
    "shard": "shard-1",
    "key": "device.key",
    "state": "/var/lib/device.db",
    "data": {"path": "data"},
}


def test_minimal_file_has_the_defaults() -> None:
    config = parse_config(MINIMAL, folder=Path("/etc/headwater"))
    assert config.genesis == Path("/etc/headwater/genesis.cbor")
    assert config.state == Path("/var/lib/device.db")
    assert config.network == b"\xab" * 32
    assert (config.weight, config.login, config.limits) == (1, None, DeviceLimits())
    assert str(config.brokers[0]) == "mqtt://broker:1883"


def test_template_is_a_valid_file_whose_comments_name_every_key() -> None:
    text = format_template(
        brokers=["mqtts://a:1", "mqtt://[::1]"],
        genesis='odd "name"\\',
        network="00" * 32,
        shard="s",
        key="k",
        state="t",
        data="d",
    )
    config = parse_config(tomllib.loads(text), folder=Path())
    assert config.genesis == Path('odd "name"\\')
    assert [broker.port for broker in config.brokers] == [1, 1883]
    uncommented = re.sub(r"^# (?=\[|[a-z_]+ = )", "", text, flags=re.MULTILINE)
    values = tomllib.loads(uncommented)
    del values["data"]["per_class"]
    full = parse_config(values, folder=Path())
    assert replace(full.guest, pinned_cores=()) == DEFAULT_GUEST
    assert full.login is not None
    assert full.limits == DeviceLimits()
    assert full.tls.ca_file == Path("ca.pem")
    for name in DeviceLimits.__dataclass_fields__:
        assert name in text


@pytest.mark.parametrize(
    ("source", "more"),
    [
        ("sqlite", {"label": "state", "features": ["speed"]}),
        ("mqtt", {"label": {"field": "state"}}),
        ("python", {}),
    ],
)
def test_template_names_the_keys_of_every_source(source: str, more: dict[str, object]) -> None:
    _, _, after = TEMPLATE.partition(f'# With source = "{source}"')
    block = re.match(r"[^\n]*\n((?:## .*\n)+)", after)
    assert block is not None
    own = tomllib.loads(re.sub(r"^## ", "", block[1], flags=re.MULTILINE))
    data = {"source": source, **own, **more}
    config = parse_config(MINIMAL | {"data": data}, folder=Path())
    assert config.data.memory.max_examples == 100_000
    assert set(own) <= {key for table, key in list_keys() if table == "data"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"brokers": []}, ["brokers"]),
        ({"brokers": "mqtt://a"}, ["brokers", "list"]),
        ({"brokers": ["mqtt://a"] * 17}, ["brokers", "16"]),
        ({"brokers": ["http://a"]}, ["'http://a'", "mqtt://host:port"]),
        ({"brokers": ["mqtt://a:70000"]}, ["70000"]),
        ({"brokers": ["mqtt://user:secret@a"]}, ["[login]"]),
        ({"network": "ab"}, ["network", "64 hexadecimal"]),
        ({"network": "zz" * 32}, ["network", "64 hexadecimal"]),
        ({"shard": 3}, ["shard", "text in quotes"]),
        ({"weight": 0}, ["weight", "whole number"]),
        ({"weight": True}, ["weight", "whole number"]),
        ({"genesis": None}, ["genesis", "is missing"]),
        ({"colour": "red"}, ["colour", "is no key"]),
        ({"data": {"path": "a", "folder": "b"}}, ["data.folder", "is no key"]),
        ({"data": "here"}, ["data", "[data]"]),
        ({"tls": {"cert_file": "a"}}, ["tls", "both or none"]),
        ({"limits": {"max_outbox_bytes": 2**40}}, ["limits", "max_outbox_bytes"]),
        ({"limits": {"max_outbox_byte": 1}}, ["limits.max_outbox_byte", "is no key"]),
        ({"limits": {"first_resend_ms": 9, "max_resend_ms": 8}}, ["limits"]),
    ],
)
def test_wrong_value_names_the_key_and_the_fix(
    changes: dict[str, object], words: list[str]
) -> None:
    values = {key: value for key, value in (MINIMAL | changes).items() if value is not None}
    with pytest.raises(ConfigError) as caught:
        parse_config(values, folder=Path())
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_password_is_never_part_of_an_error() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_broker("mqtt://user:secret@a")
    assert "secret" not in str(caught.value)


def test_file_that_is_missing_or_not_toml_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="headwater-agent init"):
        load_config(tmp_path / "agent.toml")
    path = tmp_path / "agent.toml"
    for content in (b"brokers = [", b"\xff\xfe", b"#" * 70_000):
        path.write_bytes(content)
        with pytest.raises(ConfigError):
            load_config(path)
