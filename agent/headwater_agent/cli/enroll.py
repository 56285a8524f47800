"""`enroll`: join a network with a token, and write the configuration."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headwater_agent.cli.common import Commands


def add(commands: "Commands", common: argparse.ArgumentParser) -> None:
    """Add the command; it makes the configuration, so it takes none."""
    parser = commands.add_parser(
        "enroll", help="join a network with a token, and write the configuration"
    )
    parser.add_argument("url", metavar="URL", help="of the registrar: https://host:8443")
    parser.add_argument(
        "--token", required=True, metavar="TOKEN", help="as the operator gave it; - reads a line"
    )
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="default: here")
    trust = parser.add_mutually_exclusive_group()
    trust.add_argument(
        "--ca", type=Path, metavar="FILE", help="vouches for the URL, if not the network itself"
    )
    trust.add_argument(
        "--fingerprint", metavar="SHA256", help="of the network's authority, if not the token's"
    )
    parser.add_argument("--data", default="data", metavar="PATH", help="folder of *.csv, or .npz")
    parser.add_argument(
        "--wait", type=int, default=300, metavar="SECONDS", help="for the ledger (default: 300)"
    )
    parser.add_argument("--debug", action="store_true", help="show a traceback on errors")
    parser.set_defaults(perform=_enroll)


def _enroll(arguments: argparse.Namespace) -> int:
    from headwater_agent.enrol.cli import run_enroll

    return run_enroll(arguments)
