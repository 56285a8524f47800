"""`make arm`: follow `docs/raspberry-pi.md` with an emulated Pi, and print what it took.

    python -m tests.arm [--json] [--keep-logs DIR]

A gateway runs on this machine, the agent in the emulated one, and beside it a second device,
because a round counts from two updates on: without the Pi's, every round would close on its base.
Exit code 0 says that a round closed with both updates, or that this machine cannot try, in one
line; the latter is an error where HEADWATER_REQUIRE names `arm`.
"""

import argparse
import json
import os
import signal
import sys
from pathlib import Path

from tests.arm.machine import FOLDER, Machine, MachineError, why_not
from tests.arm.walk import Figures, follow_page


def main() -> int:
    parser = argparse.ArgumentParser(prog="make arm", description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--keep-logs", type=Path, metavar="DIR", help="put the logs there")
    options = parser.parse_args()
    # An exception, so that what was started ends in order; after a kill the kernel ends it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("make arm: stopped"))
    reason = why_not()
    if reason is not None:
        is_required = "arm" in os.environ.get("HEADWATER_REQUIRE", "").split(",")
        word = "required here, but" if is_required else "skipped:"
        print(f"make arm: {word} {reason}", file=sys.stderr)
        return 1 if is_required else 0
    try:
        with Machine(FOLDER) as machine:
            logs = options.keep_logs or machine.work
            logs.mkdir(parents=True, exist_ok=True)
            figures = follow_page(machine, machine.work, logs=logs, says=_tell)
    except MachineError as error:
        print(f"make arm: {error}", file=sys.stderr)
        return 1
    print(json.dumps(figures.to_json()) if options.json else _format(figures))
    return 0


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _format(figures: Figures) -> str:
    lines = [
        ("machine", figures.machine),
        ("installed", f"{figures.install_s:.0f} s emulated"),
        ("", f"{figures.packages_mb:.0f} MB of apt packages, {figures.environment_mb:.0f} MB venv"),
        ("peak memory", f"{figures.peak_mb:.0f} MB, the emulator's own included"),
        ("training", f"{figures.step_ms:.1f} ms a step emulated, {figures.num_steps} steps"),
        ("receipt", figures.receipt),
        ("verdict", figures.verdict),
        ("closed", figures.closed),
        ("accepted", f"{figures.accepted} of the Pi's {figures.verdicts} updates"),
    ]
    return "\n".join(f"{name:13}{text}" for name, text in lines)


if __name__ == "__main__":
    sys.exit(main())
