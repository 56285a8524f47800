"""`headwater-agent`: set a device up, run it, tell its id.

Exit codes: 0 done, 1 the device had to stop, 2 something to be corrected by the user, in one line.
Heavy modules are imported by the commands that need them, so that `--help` is instant on a Pi.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from headwater_protocol.errors import ConfigError, HeadwaterError

if TYPE_CHECKING:
    from headwater_agent.config import AgentConfig
    from headwater_protocol.chain.genesis import Genesis

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
EXTRA: Final = 'pip install "headwater[agent]"'
UNPINNED: Final = "0" * 64
"""In a template without a network: never the digest of a genesis, so `run` asks for it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code.

    Args:
        argv: Without the program's name; None takes the process's own.
    """
    arguments = _make_parser().parse_args(argv)
    try:
        if arguments.command == "enroll":
            from headwater_agent.enrol.cli import run_enroll

            return run_enroll(arguments)
        command = {"init": _init, "run": _run, "id": _id}[arguments.command]
        return command(arguments)
    except HeadwaterError as error:
        if arguments.debug:
            raise
        print(f"headwater-agent: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="headwater-agent",
        description="A device that takes part in federated learning with its own data.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--config",
        type=Path,
        default=Path("agent.toml"),
        metavar="FILE",
        help="the device's configuration (default: agent.toml)",
    )
    common.add_argument("--debug", action="store_true", help="show a traceback on errors")
    init = commands.add_parser(
        "init", parents=[common], help="make a key and write a commented configuration"
    )
    init.add_argument(
        "--broker",
        action="append",
        metavar="URL",
        help="mqtt://host:port or mqtts://host:port; several to fail over",
    )
    init.add_argument("--genesis", default="genesis.cbor", metavar="FILE", help="the genesis")
    init.add_argument(
        "--network",
        default=UNPINNED,
        metavar="DIGEST",
        help="the digest to pin, 64 hexadecimal digits",
    )
    init.add_argument("--shard", default="shard-1", help="where the device is enrolled")
    init.add_argument("--key", default="device.key", metavar="FILE", help="the key to make")
    init.add_argument("--state", default="device.db", metavar="FILE", help="the state to make")
    init.add_argument("--data", default="data", metavar="PATH", help="folder of *.csv, or an .npz")
    run = commands.add_parser("run", parents=[common], help="take part until stopped")
    run.add_argument("--log-level", choices=LOG_LEVELS, default="info")
    run.add_argument(
        "--new-state",
        action="store_true",
        help="start with an empty state if there is none; safe only if this key has signed "
        "nothing in the current round",
    )
    commands.add_parser("id", parents=[common], help="print the device's id")
    enroll = commands.add_parser(
        "enroll", help="join a network with a token, and write the configuration"
    )
    enroll.add_argument("url", metavar="URL", help="of the registrar: https://host:8443")
    enroll.add_argument(
        "--token", required=True, metavar="TOKEN", help="as the operator gave it; - reads a line"
    )
    enroll.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="default: here")
    trust = enroll.add_mutually_exclusive_group()
    trust.add_argument(
        "--ca", type=Path, metavar="FILE", help="vouches for the URL, if not the network itself"
    )
    trust.add_argument(
        "--fingerprint", metavar="SHA256", help="of the network's authority, if not the token's"
    )
    enroll.add_argument("--data", default="data", metavar="PATH", help="folder of *.csv, or .npz")
    enroll.add_argument(
        "--wait", type=int, default=300, metavar="SECONDS", help="for the ledger (default: 300)"
    )
    enroll.add_argument("--debug", action="store_true", help="show a traceback on errors")
    return parser


def _init(arguments: argparse.Namespace) -> int:
    from headwater_agent.config import format_template, parse_broker
    from headwater_agent.keyfile import create_key
    from headwater_agent.store import StateStore

    config: Path = arguments.config
    brokers: list[str] = arguments.broker or ["mqtt://127.0.0.1:1883"]
    for broker in brokers:
        parse_broker(broker)
    if config.exists():
        raise ConfigError(
            str(config), "exists already", fix="edit it, or name another with --config"
        )
    template = format_template(
        brokers=brokers,
        genesis=arguments.genesis,
        network=arguments.network,
        shard=arguments.shard,
        key=arguments.key,
        state=arguments.state,
        data=arguments.data,
    )
    folder = config.parent
    state = folder / Path(arguments.state).expanduser()
    if state.exists():
        raise ConfigError("state", f"{state} exists already", fix="name another with --state")
    key = create_key(folder / Path(arguments.key).expanduser(), os.urandom(32))
    StateStore(state, device=key.device, network=None, creates=True).close()
    try:
        config.write_text(template, encoding="utf-8")
    except OSError as error:
        raise ConfigError(str(config), str(error), fix="name another with --config") from None
    print(key.device.hex())
    return 0


def _id(arguments: argparse.Namespace) -> int:
    from headwater_agent.config import load_config
    from headwater_agent.keyfile import load_key

    print(load_key(load_config(arguments.config).key).device.hex())
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from headwater_agent.guest.process import limit_threads

    limit_threads()
    from headwater_agent.config import load_config

    config = load_config(arguments.config)
    _require_extra()
    _start_log(arguments.log_level)
    return _serve(config, creates_state=arguments.new_state)


def _serve(config: "AgentConfig", *, creates_state: bool) -> int:
    import logging
    import signal

    from headwater_agent.data.keep import Keeper
    from headwater_agent.data.problems import Problem, Problems
    from headwater_agent.data.source import make_source
    from headwater_agent.device import Device
    from headwater_agent.enrol.renewal import make_renewer
    from headwater_agent.guest.host import Host
    from headwater_agent.guest.probes import Probes
    from headwater_agent.guest.process import give_way
    from headwater_agent.keyfile import load_key
    from headwater_agent.shell.mqtt import MqttShell, utc_ms
    from headwater_agent.store import StateStore
    from headwater_agent.training import LocalTraining
    from headwater_protocol.crypto.hashing import Domain, hash_bytes
    from headwater_protocol.identifiers import ChainId, Network

    log = logging.getLogger("headwater.agent")
    key = load_key(config.key)
    genesis = _load_genesis(config.genesis)
    give_way(config.guest)
    entropy = hash_bytes(Domain.SEED, key.seed, b"entropy")

    def tell(problem: Problem, count: int) -> None:
        log.warning("event=bad_data count=%d detail=%r", count, str(problem))

    source = make_source(config.data, entropy=entropy, problems=Problems(tell), clock=utc_ms)
    network = Network(config.network)
    if not creates_state and not config.state.exists():
        raise ConfigError(
            "state",
            f"{config.state} does not exist",
            fix="if it was lost, wait until the current round is over and start with --new-state",
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
            asks_permission=True,
            memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        )
        keeper = Keeper(
            source, store.examples, interval_ms=1_000 * config.data.memory.persist_interval_s
        )
        keeper.restore()
        source.open()
        renewer = make_renewer(config, key)
        shell = MqttShell(
            device=device,
            store=store,
            training=LocalTraining(source, num_threads=config.guest.cores),
            config=config,
            host=Host(config.guest, Probes().read),
            upkeep=keeper.tick,
            on_certificate_refused=None if renewer is None else renewer.on_refused,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: shell.stop())
        log.info("event=started device=%s examples=%d", device.id.hex(), source.pool.num_examples)
        if renewer is not None:
            renewer.start()
        try:
            shell.run()
        finally:
            if renewer is not None:
                renewer.stop()
            source.close()
            keeper.flush()
        log.info("event=stopped device=%s", device.id.hex())
    return 0


def _load_genesis(path: Path) -> "Genesis":
    from headwater_protocol.chain.genesis import MAX_GENESIS_BYTES, decode_genesis
    from headwater_protocol.errors import InvalidMessage

    fix = "get the genesis file from your network's operator"
    try:
        with path.open("rb") as file:
            return decode_genesis(file.read(MAX_GENESIS_BYTES + 1))
    except OSError as error:
        raise ConfigError("genesis", f"{path}: {error.strerror}", fix=fix) from None
    except InvalidMessage as error:
        raise ConfigError("genesis", f"{path}: {error}", fix=fix) from None


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


def _start_log(level: str) -> None:
    import logging
    import time

    formatter = logging.Formatter(
        "%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler])


if __name__ == "__main__":
    sys.exit(main())
