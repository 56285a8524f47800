"""A fleet comes back after a week without a network: what is lost, doubled, and how long it takes.

    python -m benchmarks.reconnect [--json] [--devices N] [--days N] [--within SECONDS]
        [--files DIR] [--check]

Needs Mosquitto. Each device has a state file of its own, written and synced as on a Pi. Here a
thousand of them would share one disk, so they are in memory where there is `/dev/shm`, or in
`--files`; the gateway's ledgers are on the disk. With `--check` the exit code is 1
where a figure is not what it is to be.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.support.week_figures import Figures
from tests.support.week_offline import find_memory, spend_week_offline

MAX_P99_MS = 1_000.0


def find_misses(figures: Figures) -> list[str]:
    """What is not as it is to be."""
    misses = [
        f"{count} {what}"
        for what, count in (
            ("updates lost", figures.lost_updates),
            ("updates doubled", figures.doubled_updates),
            ("readings lost", figures.lost_readings),
            ("readings doubled", figures.doubled_readings),
            ("devices not in the next round", figures.devices - figures.second_round),
        )
        if count
    ]
    if figures.p99_ms >= MAX_P99_MS:
        misses.append(f"99th percentile {figures.p99_ms:.0f} ms, to be under {MAX_P99_MS:.0f}")
    return misses


def print_table(figures: Figures) -> None:
    rows = (
        ("devices", f"{figures.devices}, each {figures.hours} hours without a network"),
        ("came back", f"within {figures.storm_s:.1f} s, to one Mosquitto and one gateway"),
        ("updates", f"{figures.receipts} receipts; {figures.lost_updates} lost, "
         f"{figures.doubled_updates} doubled; {figures.taken_before} were on the ledger before"),
        ("receipt after", f"{figures.p50_ms:.0f} ms median, {figures.p99_ms:.0f} ms 99th "
         f"percentile, {figures.max_ms:.0f} ms longest"),
        ("from connecting", f"{figures.p99_from_connecting_ms:.0f} ms 99th percentile, with the "
         "random wait that spreads a fleet"),
        ("readings", f"{figures.readings}; {figures.lost_readings} lost, "
         f"{figures.doubled_readings} doubled"),
        ("next round", f"{figures.second_round} updates that count for all readings"),
    )  # fmt: skip
    for name, text in rows:
        print(f"{name:16}{text}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--devices", type=int, default=1_000)
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--within", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument(
        "--files", type=Path, metavar="DIR", help="under which the devices' files are for the run"
    )
    parser.add_argument("--check", action="store_true", help="exit 1 where a figure is not met")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="headwater-gateway-") as folder,
        tempfile.TemporaryDirectory(
            prefix="headwater-devices-", dir=options.files or find_memory(options.devices)
        ) as files,
    ):
        figures = spend_week_offline(
            devices=options.devices,
            days=options.days,
            storm_s=options.within,
            folder=Path(folder),
            files=Path(files),
            says=lambda line: print(line, file=sys.stderr, flush=True),
        )
    misses = find_misses(figures)
    if options.json:
        print(json.dumps(figures.to_json() | {"not_met": misses}))
    else:
        print_table(figures)
        for miss in misses:
            print(f"not met: {miss}")
    return 1 if options.check and misses else 0


if __name__ == "__main__":
    sys.exit(main())
