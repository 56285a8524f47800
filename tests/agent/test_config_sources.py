"""Command line over environment over file, and a name that is misspelt is refused."""

import json
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from headwater_agent.cli import main
from headwater_agent.config_sources import Source, load_layers, variable_of
from headwater_agent.config_template import list_keys
from headwater_agent.data.config import TopicSource
from headwater_protocol.errors import ConfigError
from headwater_protocol.light.client import Pin
from tests.support.agent_home import make_home, write_sensor

KEYS = list_keys()
TRUST = {
    "HEADWATER_AGENT_TRUST_PIN_EPOCH": "0",
    "HEADWATER_AGENT_TRUST_PIN_DIGEST": "ab" * 32,
    "HEADWATER_AGENT_TRUST_PIN_TIME": "2026-01-31T00:00:00Z",
}


def test_the_stronger_source_wins_and_is_named(tmp_path: Path) -> None:
    path = make_home(tmp_path)
    environment = {"HEADWATER_AGENT_WEIGHT": "2", "HEADWATER_AGENT_SHARD": "shard-2"}
    layered = load_layers(path, environment=environment, options=["weight=3"])
    found = {setting.name: setting for setting in layered.settings}
    assert layered.config.weight == 3
    assert layered.config.shard == "shard-2"
    assert found["weight"].source is Source.COMMAND_LINE
    assert (found["shard"].source, found["shard"].detail) == (
        Source.ENVIRONMENT,
        "HEADWATER_AGENT_SHARD",
    )
    assert found["state"].source is Source.FILE
    assert (found["limits.max_outbox_days"].source, found["limits.max_outbox_days"].value) == (
        Source.DEFAULT,
        14,
    )


def test_lists_tables_and_paths_come_from_the_environment_like_from_the_file(
    tmp_path: Path,
) -> None:
    path = make_home(tmp_path)
    environment = {
        "HEADWATER_AGENT_BROKERS": "mqtt://a, mqtts://b:1",
        "HEADWATER_AGENT_LOGIN_USERNAME": "pi",
        "HEADWATER_AGENT_DATA_PATH": "elsewhere",
    }
    config = load_layers(path, environment=environment).config
    assert [str(broker) for broker in config.brokers] == ["mqtt://a:1883", "mqtts://b:1"]
    assert config.login is not None
    assert config.login.username == "pi"
    assert config.data.path == tmp_path / "elsewhere"


def test_data_and_guest_come_from_the_environment_in_their_own_types(tmp_path: Path) -> None:
    path = make_home(tmp_path)
    environment = {
        "HEADWATER_AGENT_GUEST_PINNED_CORES": "1, 3",
        "HEADWATER_AGENT_GUEST_HOURS": "22:00-06:00",
        "HEADWATER_AGENT_GUEST_MAX_TEMPERATURE_C": "72.5",
        "HEADWATER_AGENT_GUEST_STOPS_WHEN_THROTTLED": "false",
        "HEADWATER_AGENT_DATA_PER_CLASS": "true",
        "HEADWATER_AGENT_DATA_CLASSES": "idle, running",
    }
    layered = load_layers(path, environment=environment)
    guest, data = layered.config.guest, layered.config.data
    assert (guest.pinned_cores, guest.max_temperature_c) == ((1, 3), 72.5)
    assert [str(window) for window in guest.hours] == ["22:00-06:00"]
    assert not guest.stops_when_throttled
    assert data.memory.per_class
    assert data.labels.num_classes == 2
    defaults = {
        setting.name: setting.value
        for setting in layered.settings
        if setting.source is Source.DEFAULT
    }
    assert defaults["guest.look_again_s"] == 60
    assert defaults["guest.max_load"] == 0.0
    assert defaults["data.max_examples"] == 100_000
    for name, value, words in (
        ("GUEST_PINNED_CORES", "one", "whole number"),
        ("GUEST_MAX_LOAD", "much", "give a number"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_layers(path, environment={f"HEADWATER_AGENT_{name}": value})


def test_a_sensors_secrets_may_lie_elsewhere_and_its_tables_are_values(tmp_path: Path) -> None:
    path = write_sensor(make_home(tmp_path))
    environment = {
        "HEADWATER_AGENT_DATA_PASSWORD_FILE": "/run/sensor",
        "HEADWATER_AGENT_DATA_CA_FILE": "/run/ca.pem",
    }
    layered = load_layers(path, environment=environment)
    source = layered.config.data.source
    assert isinstance(source, TopicSource)
    assert source.broker.password_file == Path("/run/sensor")
    assert source.broker.ca_file == Path("/run/ca.pem")
    found = {setting.name: setting for setting in layered.settings}
    assert (found["data.label"].value, found["data.label"].source) == (
        {"field": "state"},
        Source.FILE,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("home"))


@given(name=st.sampled_from(sorted(KEYS)), place=st.integers(0, 30))
def test_a_misspelt_variable_is_refused(home: Path, name: tuple[str, str], place: int) -> None:
    variable = variable_of(name)
    start = len("HEADWATER_AGENT_")
    place = start + place % (len(variable) - start)
    misspelt = variable[:place] + "Q" + variable[place + 1 :]
    assume(misspelt not in {variable_of(known) for known in KEYS})
    with pytest.raises(ConfigError, match=rf"{misspelt}: names no key of agent.toml; .+"):
        load_layers(home, environment={misspelt: "1"})


def test_a_misspelt_variable_and_option_name_the_fix(tmp_path: Path) -> None:
    path = make_home(tmp_path)
    with pytest.raises(ConfigError, match="did you mean HEADWATER_AGENT_WEIGHT"):
        load_layers(path, environment={"HEADWATER_AGENT_WIEGHT": "1"})
    with pytest.raises(ConfigError, match=r"did you mean limits\.max_outbox_days"):
        load_layers(path, environment={}, options=["limits.max_outbox_day=3"])
    with pytest.raises(ConfigError, match=r"write --set table\.key=value"):
        load_layers(path, environment={}, options=["weight"])
    with pytest.raises(ConfigError, match="whole number"):
        load_layers(path, environment={"HEADWATER_AGENT_WEIGHT": "many"})
    load_layers(path, environment={"HEADWATER_AGENT_CONFIG": "x", "HEADWATER_OTHER": "1"})


def test_no_two_keys_share_a_variable() -> None:
    assert len({variable_of(name) for name in KEYS}) == len(KEYS) > 20


def test_an_epoch_can_be_pinned(tmp_path: Path) -> None:
    path = make_home(tmp_path)
    pin = load_layers(path, environment=TRUST).config.pin
    assert pin == Pin(epoch=0, digest=b"\xab" * 32, time_ms=1_769_817_600_000)  # type: ignore[arg-type]
    assert load_layers(path, environment={}).config.pin is None
    for name, value, words in (
        ("PIN_EPOCH", "-1", "trust.pin_epoch"),
        ("PIN_DIGEST", "ab", "64 hexadecimal"),
        ("PIN_TIME", "yesterday", "give UTC"),
        ("PIN_TIME", "1901-01-01", "too early"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_layers(path, environment={**TRUST, f"HEADWATER_AGENT_TRUST_{name}": value})
    with pytest.raises(ConfigError, match=r"trust\.pin_epoch: is missing"):
        load_layers(path, environment={"HEADWATER_AGENT_TRUST_PIN_TIME": "2026-01-31"})


def test_config_show_prints_every_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_home(tmp_path)
    capsys.readouterr()
    monkeypatch.setenv("HEADWATER_AGENT_CONFIG", str(path))
    assert main(["config", "show", "--json", "--set", "weight=5"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert len(shown) == len(KEYS)
    assert shown["weight"] == {"value": 5, "source": "command line", "detail": "--set weight"}
    assert main(["config", "show"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(KEYS)
