"""`bundle`: what support needs to see, in one archive without a secret."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headwater_agent.cli.common import Commands


def add(commands: "Commands", common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "bundle", parents=[common], help="pack a support archive without secrets"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="default: headwater-agent-TIME.tar.gz"
    )
    parser.add_argument(
        "--log", type=Path, metavar="FILE", help="a log file, if it is not in the journal"
    )
    parser.set_defaults(perform=_bundle)


def _bundle(arguments: argparse.Namespace) -> int:
    import os
    from datetime import UTC, datetime

    from headwater_agent.report.bundle import write_bundle

    now = datetime.now(UTC)
    path = arguments.out or Path(f"headwater-agent-{now:%Y%m%dT%H%M%SZ}.tar.gz")
    write_bundle(
        path,
        config_path=arguments.config,
        environment=os.environ,
        options=arguments.options,
        log=arguments.log,
        now=now,
    )
    print(path)
    return 0
