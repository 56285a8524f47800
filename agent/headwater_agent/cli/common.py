"""What the commands share: options, the configuration in force, tables and JSON."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headwater_agent.config import AgentConfig
    from headwater_agent.config_sources import Layered

    # argparse gives it no public name.
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
DEFAULT_FILE = "agent.toml"
FILE_VARIABLE = "HEADWATER_AGENT_CONFIG"


def make_common() -> argparse.ArgumentParser:
    """The options of every command."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--config",
        type=Path,
        default=Path(os.environ.get(FILE_VARIABLE) or DEFAULT_FILE),
        metavar="FILE",
        help=f"the device's configuration (default: ${FILE_VARIABLE}, or {DEFAULT_FILE})",
    )
    common.add_argument(
        "--set",
        action="append",
        default=[],
        dest="options",
        metavar="TABLE.KEY=VALUE",
        help="a value that wins over environment and file; may be repeated",
    )
    common.add_argument("--debug", action="store_true", help="show a traceback on errors")
    return common


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def read_layers(arguments: argparse.Namespace) -> "Layered":
    """The configuration in force, with origins.

    Raises:
        ConfigError: Names the key and the fix.
    """
    from headwater_agent.config_sources import load_layers

    return load_layers(arguments.config, environment=os.environ, options=arguments.options)


def read_config(arguments: argparse.Namespace) -> "AgentConfig":
    """The configuration in force.

    Raises:
        ConfigError: Names the key and the fix.
    """
    return read_layers(arguments).config


def print_json(content: object) -> None:
    """Sorted and indented, so that two outputs can be compared."""
    import json

    print(json.dumps(content, indent=2, sort_keys=True))


def print_table(rows: list[tuple[str, ...]]) -> None:
    """Columns as wide as they need to be."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join(cells).rstrip())
