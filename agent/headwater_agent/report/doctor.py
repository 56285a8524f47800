"""Everything that a device needs, looked at one by one; each line is ok or names the fix."""

import time
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from headwater_agent.config import AgentConfig, BrokerAddress, Login, Tls
from headwater_agent.config_sources import load_layers
from headwater_agent.data.config import SensorBroker, TopicSource
from headwater_agent.data.problems import Problems
from headwater_agent.data.source import make_source
from headwater_agent.genesis_file import load_genesis, require_pinned
from headwater_agent.keyfile import load_key
from headwater_agent.report.check import Check, run_check
from headwater_agent.report.machine_checks import (
    check_broker,
    check_clock,
    check_disk,
    check_runtime,
)
from headwater_agent.shell.clock import utc_ms
from headwater_agent.storage.reading import Stored, is_in_use, read_stored
from headwater_models.dataset import Dataset
from headwater_models.program import Program
from headwater_protocol.errors import ConfigError, HeadwaterError
from headwater_protocol.light.client import make_trusted


def examine(path: Path, *, environment: Mapping[str, str], options: Iterable[str]) -> list[Check]:
    """All checks, of the configuration in force; the later ones need it to be readable.

    Args:
        path: Of the configuration.
        environment: Of the process.
        options: From the command line.
    """
    checks = [run_check("runtime", check_runtime)]
    try:
        config = load_layers(path, environment=environment, options=options).config
    except ConfigError as error:
        found = f"{error.key}: {error.problem}"
        return [*checks, Check(name="config", is_ok=False, detail=found, fix=error.fix)]
    checks.append(Check(name="config", is_ok=True, detail=str(path)))
    stored: Stored | None
    try:
        stored = read_stored(config.state)
    except HeadwaterError:
        stored = None  # the check of the state says why
    now_ms = time.time_ns() // 1_000_000
    checks += [
        run_check("key", lambda: _check_key(config)),
        run_check("genesis", lambda: _check_genesis(config)),
        run_check("state", lambda: _check_state(config)),
        run_check("disk", lambda: check_disk(config.state)),
        run_check("clock", lambda: _check_clock(config, stored, now_ms)),
        run_check("data", lambda: _check_data(config)),
        run_check("program", lambda: _check_program(config, stored)),
    ]
    for index, address in enumerate(config.brokers):
        name = "broker" if len(config.brokers) == 1 else f"broker {index + 1}"
        checks.append(run_check(name, partial(_check_broker, config, address, stored)))
    return checks


def _check_broker(config: AgentConfig, address: BrokerAddress, stored: Stored | None) -> str:
    """Connect, or believe the running agent.

    To a broker that goes by certificates both are one client, and a second session would end the
    first.
    """
    report = {} if stored is None else stored.report
    link = report.get("connection")
    told = (link.get("broker"), link.get("is_connected")) if isinstance(link, dict) else None
    if told == (str(address), True) and is_in_use(config.state):
        return f"the running agent is connected to {address}"
    return check_broker(address, login=config.login, tls=config.tls)


def _check_key(config: AgentConfig) -> str:
    key = load_key(config.key)
    return f"{config.key}, device {key.device.hex()[:16]}, readable by its owner alone"


def _check_genesis(config: AgentConfig) -> str:
    genesis = load_genesis(config.genesis)
    require_pinned(genesis, config.network)
    if config.shard not in genesis.shards:
        fix = "one of " + ", ".join(genesis.shards)
        raise ConfigError("shard", f"{config.shard} is not in the genesis", fix=fix)
    return f"{config.genesis} is the pinned network, {genesis.name}"


def _check_state(config: AgentConfig) -> str:
    stored = read_stored(config.state)
    device = load_key(config.key).device
    if stored.device != device or stored.network not in {None, config.network}:
        raise ConfigError(
            "state",
            f"{config.state} is another device's or network's",
            fix="name the file that belongs to the key",
        )
    signed = stored.state.last_signed_round
    running = "in use by a running agent" if is_in_use(config.state) else "not in use"
    return f"{config.state} is whole, {running}, last signed round {signed}"


def _check_clock(config: AgentConfig, stored: Stored | None, now_ms: int) -> str:
    trust = None if stored is None else stored.state.trust
    if trust is not None:
        trusted = trust.trusted
    else:
        trusted = make_trusted(load_genesis(config.genesis), config.pin)
    told = None if stored is None else stored.report.get("block_time_ms")
    return check_clock(
        now_ms=now_ms,
        block_time_ms=max(trusted.time_ms, told if isinstance(told, int) else 0),
        # Up to a pinned epoch elections are followed whatever their age.
        trust_until_ms=None if config.pin is not None else trusted.expires_ms,
    )


def _check_data(config: AgentConfig) -> str:
    if isinstance(config.data.source, TopicSource):
        return _check_sensor(config.data.source.broker)
    problems = Problems()
    dataset = _read_examples(config, problems)
    found = f"{config.data.path} gives {dataset.num_examples} examples"
    if not problems.total:
        return found
    return f"{found}; {problems.total} rows are left out, the last one is {problems.latest[-1]}"


def _check_sensor(broker: SensorBroker) -> str:
    login = None
    if broker.username is not None:
        login = Login(username=broker.username, password_file=broker.password_file)
    found = check_broker(
        BrokerAddress(host=broker.host, port=broker.port, uses_tls=broker.uses_tls),
        login=login,
        tls=Tls(ca_file=broker.ca_file, cert_file=None, key_file=None),
        keys="username and password_file under [data]",
    )
    return f"{found}; readings come while the agent runs"


def _read_examples(config: AgentConfig, problems: Problems) -> Dataset:
    source = make_source(config.data, entropy=bytes(32), problems=problems, clock=utc_ms)
    source.open()
    try:
        return source.dataset()
    finally:
        source.close()


def _check_program(config: AgentConfig, stored: Stored | None) -> str:
    if stored is None or stored.state.program is None:
        return "none fetched yet; it comes with the first round"
    program = Program(stored.state.program)
    if isinstance(config.data.source, TopicSource):
        return f"{program.digest.hex()[:16]} takes {program.input_shape}"
    dataset = _read_examples(config, Problems())
    dataset.reshaped(program.input_shape)
    highest = int(dataset.labels.max())
    if highest >= program.num_classes:
        raise ConfigError(
            "data",
            f"a label is {highest}, the program knows 0 to {program.num_classes - 1}",
            fix="correct the labels, or data.classes",
        )
    return f"{program.digest.hex()[:16]} takes {program.input_shape}, and the data fit"
