"""`config show`: each value in force and where it comes from."""

import argparse
from typing import TYPE_CHECKING

from headwater_agent.cli.common import add_json, print_json, print_table, read_layers

if TYPE_CHECKING:
    from headwater_agent.cli.common import Commands


def add(commands: "Commands", common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser("config", help="look at the configuration in force")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser(
        "show", parents=[common], help="each value and where it comes from; secrets are masked"
    )
    add_json(show)
    show.set_defaults(perform=_show)


def _show(arguments: argparse.Namespace) -> int:
    settings = read_layers(arguments).settings
    if arguments.json:
        print_json(
            {
                setting.name: {
                    "value": _plain(setting.value),
                    "source": setting.source,
                    "detail": setting.detail,
                }
                for setting in settings
            }
        )
        return 0
    print_table(
        [
            (
                setting.name,
                "-" if setting.value is None else str(_plain(setting.value)),
                f"{setting.source} {setting.detail}".strip(),
            )
            for setting in settings
        ]
    )
    return 0


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | list | None) else str(value)
