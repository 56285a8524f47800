"""`init`: make a key, an empty state and a commented configuration."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from headwater_protocol.errors import ConfigError

if TYPE_CHECKING:
    from headwater_agent.cli.common import Commands

UNPINNED = "0" * 64
"""In a template without a network: never the digest of a genesis, so `run` asks for it."""


def add(commands: "Commands", common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "init", parents=[common], help="make a key and write a commented configuration"
    )
    parser.add_argument(
        "--broker",
        action="append",
        metavar="URL",
        help="mqtt://host:port or mqtts://host:port; several to fail over",
    )
    parser.add_argument("--genesis", default="genesis.cbor", metavar="FILE", help="the genesis")
    parser.add_argument(
        "--network",
        default=UNPINNED,
        metavar="DIGEST",
        help="the digest to pin, 64 hexadecimal digits",
    )
    parser.add_argument("--shard", default="shard-1", help="where the device is enrolled")
    parser.add_argument("--key", default="device.key", metavar="FILE", help="the key to make")
    parser.add_argument("--state", default="device.db", metavar="FILE", help="the state to make")
    parser.add_argument(
        "--data", default="data", metavar="PATH", help="folder of *.csv, or an .npz"
    )
    parser.set_defaults(perform=_init)


def _init(arguments: argparse.Namespace) -> int:
    from headwater_agent.config import parse_broker
    from headwater_agent.config_template import format_template
    from headwater_agent.keyfile import create_key
    from headwater_agent.storage.files import write_durably
    from headwater_agent.store import StateStore

    config: Path = arguments.config
    brokers: list[str] = arguments.broker or ["mqtt://127.0.0.1:1883"]
    for broker in brokers:
        parse_broker(broker)
    if config.exists():
        raise ConfigError(
            str(config), "exists already", fix="edit it, or name another with --config"
        )
    folder = config.parent
    template = format_template(
        brokers=brokers,
        genesis=_seen_from(folder, arguments.genesis),
        network=arguments.network,
        shard=arguments.shard,
        key=arguments.key,
        state=arguments.state,
        data=_seen_from(folder, arguments.data),
    )
    state = folder / Path(arguments.state).expanduser()
    if state.exists():
        raise ConfigError("state", f"{state} exists already", fix="name another with --state")
    key = create_key(folder / Path(arguments.key).expanduser(), os.urandom(32))
    StateStore(state, device=key.device, network=None, creates=True).close()
    try:
        write_durably(config, template.encode(), mode=0o644, is_new=True)
    except OSError as error:
        raise ConfigError(str(config), str(error), fix="name another with --config") from None
    print(key.device.hex())
    return 0


def _seen_from(folder: Path, path: str) -> str:
    """A path as the configuration in `folder` has to name what is there, seen from here."""
    there = Path(path).expanduser()
    if there.is_absolute() or (folder / there).exists() or not there.exists():
        return path
    return os.path.relpath(there, folder)
