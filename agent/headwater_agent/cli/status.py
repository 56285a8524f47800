"""`status`: what the device does, from the state of a running or stopped agent."""

import argparse
from typing import TYPE_CHECKING

from headwater_agent.cli.common import add_json, print_json, print_table, read_config

if TYPE_CHECKING:
    from headwater_agent.cli.common import Commands


def add(commands: "Commands", common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "status", parents=[common], help="what the device does, running or stopped"
    )
    add_json(parser)
    parser.set_defaults(perform=_status)


def _status(arguments: argparse.Namespace) -> int:
    import time

    from headwater_agent.report.status import format_status, make_status

    now_ms = time.time_ns() // 1_000_000
    status = make_status(read_config(arguments), now_ms=now_ms)
    if arguments.json:
        print_json(status)
    else:
        print_table(format_status(status, now_ms=now_ms))
    return 0
