"""`doctor`: everything a device needs, a line each: ok, or the fix."""

import argparse
from typing import TYPE_CHECKING

from headwater_agent.cli.common import add_json, print_json

if TYPE_CHECKING:
    from headwater_agent.cli.common import Commands


def add(commands: "Commands", common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "doctor", parents=[common], help="check everything that the device needs"
    )
    add_json(parser)
    parser.set_defaults(perform=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    import os

    from headwater_agent.exit_codes import ExitCode
    from headwater_agent.report.doctor import examine

    checks = examine(arguments.config, environment=os.environ, options=arguments.options)
    is_well = all(check.is_ok for check in checks)
    if arguments.json:
        print_json({"ok": is_well, "checks": [check.to_json() for check in checks]})
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            mark = "ok " if check.is_ok else "BAD"
            fix = f"; {check.fix}" if check.fix else ""
            print(f"{mark}  {check.name.ljust(width)}  {check.detail}{fix}")
    return ExitCode.OK if is_well else ExitCode.FAILED
