"""`id`: tell the device's id, which an operator enrols."""

import argparse
from typing import TYPE_CHECKING

from headwater_agent.cli.common import read_config

if TYPE_CHECKING:
    from headwater_agent.cli.common import Commands


def add(commands: "Commands", common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser("id", parents=[common], help="print the device's id")
    parser.set_defaults(perform=_id)


def _id(arguments: argparse.Namespace) -> int:
    from headwater_agent.keyfile import load_key

    print(load_key(read_config(arguments).key).device.hex())
    return 0
