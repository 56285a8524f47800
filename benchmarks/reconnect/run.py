"""A fleet comes back after a week without a network: what is lost, what is doubled, how long it takes.

    python benchmarks/reconnect/run.py [--json] [--devices N] [--days N] [--within SECONDS]
        [--folder DIR] [--check]

Needs Mosquitto. Each device has a state file of its own, written and synced as on a Pi; the fleet's
files are on one disk here, so `--folder` may name one in memory. With `--check` the exit code is 1
where a figure is not what it is to be.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.support.week_offline import Figures, spend_week_offline  # noqa: E402

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
    parser.add_argument("--folder", type=Path, help="for the files; it must be empty or not there")
    parser.add_argument("--check", action="store_true", help="exit 1 where a figure is not met")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="headwater-reconnect-") as made:
        folder = options.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        figures = spend_week_offline(
            devices=options.devices,
            days=options.days,
            storm_s=options.within,
            folder=folder,
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
