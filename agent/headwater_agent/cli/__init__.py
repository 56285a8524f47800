"""`headwater-agent`: set a device up, run it, look after it. One file a command.

What the exit codes mean is in `headwater_agent.exit_codes`. Heavy modules are imported by the
commands that need them, so that `--help` is instant on a Pi.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from headwater_agent.cli import (
    bundle,
    configuration,
    doctor,
    enroll,
    identity,
    init,
    receipts,
    run,
    service,
    status,
)
from headwater_agent.cli.common import make_common
from headwater_protocol.errors import HeadwaterError

COMMANDS = (enroll, init, run, identity, status, doctor, configuration, receipts, bundle, service)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code.

    Args:
        argv: Without the program's name; None takes the process's own.
    """
    arguments = _make_parser().parse_args(argv)
    try:
        code = int(arguments.perform(arguments))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read has seen enough; the interpreter must not flush into the closed pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except HeadwaterError as error:
        if arguments.debug:
            raise
        from headwater_agent.exit_codes import exit_code_of

        print(f"headwater-agent: {error}", file=sys.stderr)
        return int(exit_code_of(error))


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="headwater-agent",
        description="A device that takes part in federated learning with its own data.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = make_common()
    for command in COMMANDS:
        command.add(commands, common)
    return parser
