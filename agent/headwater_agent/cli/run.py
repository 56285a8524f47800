"""`run`: take part until stopped."""

import argparse
import os
import sys
from typing import TYPE_CHECKING

from headwater_agent.cli.common import read_config
from headwater_protocol.errors import ConfigError

if TYPE_CHECKING:
    from headwater_agent.cli.common import Commands
    from headwater_agent.config import AgentConfig

LOG_LEVELS = ("debug", "info", "warning", "error")
EXTRA = 'pip install "headwater[agent]"'


def add(commands: "Commands", common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser("run", parents=[common], help="take part until stopped")
    parser.add_argument("--log-level", choices=LOG_LEVELS, default="info")
    parser.add_argument(
        "--new-state",
        action="store_true",
        help="start with an empty state if there is none; safe only if this key has signed "
        "nothing in the current round",
    )
    parser.set_defaults(perform=_run)


def _run(arguments: argparse.Namespace) -> int:
    import logging

    from headwater_agent.guest.process import limit_threads, share_heap
    from headwater_agent.shell.journal import make_handler

    # Before numpy is loaded: its linear algebra would start a thread a core, and nothing here is
    # large enough to gain from them.
    limit_threads()
    share_heap()
    config = read_config(arguments)
    _require_extra()
    logging.basicConfig(level=arguments.log_level.upper(), handlers=[make_handler(os.environ)])
    return _serve_or_set_aside(config, creates_state=arguments.new_state)


def _serve_or_set_aside(config: "AgentConfig", *, creates_state: bool) -> int:
    from datetime import UTC, datetime

    from headwater_agent.errors import DamagedState
    from headwater_agent.exit_codes import ExitCode
    from headwater_agent.storage.aside import set_aside, tell_way_back

    try:
        return _serve(config, creates_state=creates_state)
    except DamagedState as error:
        # A state that merely became unreadable must not be used again by the next start.
        try:
            kept = set_aside(error.path, datetime.now(UTC))
        except OSError as reason:
            raise DamagedState(error.path, f"{error.problem}; not set aside: {reason}") from error
        print(f"headwater-agent: {tell_way_back(error, kept)}", file=sys.stderr)
        return ExitCode.DAMAGED


def _serve(config: "AgentConfig", *, creates_state: bool) -> int:
    import logging
    import signal

    from headwater_agent.data.keep import Keeper
    from headwater_agent.data.problems import Problem, Problems
    from headwater_agent.data.source import make_source
    from headwater_agent.device import Device
    from headwater_agent.errors import DiskUnavailable
    from headwater_agent.genesis_file import load_genesis, require_pinned
    from headwater_agent.guest.host import Host
    from headwater_agent.guest.probes import Probes
    from headwater_agent.guest.process import give_memory_back, give_way
    from headwater_agent.keyfile import load_key
    from headwater_agent.shell.clock import SteadyClock
    from headwater_agent.shell.journal import tell
    from headwater_agent.shell.mqtt import MqttShell
    from headwater_agent.shell.notify import Notifier
    from headwater_agent.storage.aside import tell_missing
    from headwater_agent.store import StateStore
    from headwater_agent.training import LocalTraining
    from headwater_agent.trial import try_stranger
    from headwater_protocol.crypto.hashing import Domain, hash_bytes
    from headwater_protocol.identifiers import ChainId, Network

    key = load_key(config.key)
    genesis = load_genesis(config.genesis)
    give_way(config.guest)
    entropy = hash_bytes(Domain.SEED, key.seed, b"entropy")
    clock = SteadyClock()

    def tell_problem(problem: Problem, count: int) -> None:
        tell(logging.WARNING, "bad-data", count=count, detail=str(problem))

    problems = Problems(tell_problem)
    source = make_source(config.data, entropy=entropy, problems=problems, clock=clock.now_ms)
    network = Network(config.network)
    # A state that is begun belongs to the network of its first use: it has to be the right one.
    require_pinned(genesis, network)
    if not creates_state and not config.state.exists():
        raise ConfigError(
            "state",
            f"{config.state} does not exist",
            fix=tell_missing(config.state),
        )
    with StateStore(
        config.state, device=key.device, network=network, creates=creates_state
    ) as store:
        device = Device(
            key=key,
            genesis=genesis,
            network=network,
            shard=ChainId(config.shard),
            entropy=entropy,
            state=store.load(),
            weight=config.weight,
            limits=config.limits,
            pin=config.pin,
            asks_permission=True,
            memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        )
        keeper = Keeper(
            source, store.examples, interval_ms=1_000 * config.data.memory.persist_interval_s
        )
        keeper.restore()
        source.open()
        renewer = None
        if config.enrolment is not None:
            from headwater_agent.enrol.renewal import make_renewer

            renewer = make_renewer(config, key)
        shell = MqttShell(
            device=device,
            store=store,
            training=LocalTraining(source, num_threads=config.guest.cores, trial=try_stranger),
            config=config,
            clock=clock,
            host=Host(config.guest, Probes().read),
            upkeep=keeper.tick,
            source=source,
            notifier=Notifier(os.environ),
            on_certificate_refused=None if renewer is None else renewer.on_refused,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: shell.stop())
        num_examples = source.pool.num_examples
        tell(logging.INFO, "started", examples=num_examples, device=device.id.hex())
        if renewer is not None:
            renewer.start()
        give_memory_back()
        try:
            shell.run()
        finally:
            if renewer is not None:
                renewer.stop()
            source.close()
        try:
            keeper.flush()
        except DiskUnavailable as error:
            # Its promises are on the disk; of the examples, those since the last write are lost.
            tell(logging.ERROR, "disk-unavailable", detail=error)
        tell(logging.INFO, "stopped", device=device.id.hex())
    return 0


def _require_extra() -> None:
    """Say which extra to install before anything is opened.

    Raises:
        ConfigError: If paho-mqtt or a TFLite runtime is missing.
    """
    from importlib.util import find_spec

    if find_spec("paho") is None:
        raise ConfigError("paho-mqtt", "is not installed", fix=EXTRA)
    if find_spec("tflite_runtime") is None and find_spec("ai_edge_litert") is None:
        raise ConfigError("TFLite runtime", "is not installed", fix=EXTRA)
