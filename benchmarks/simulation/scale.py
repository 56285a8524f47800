"""What a device costs as fleets grow: like fleets, like rounds, each run in a process of its own.

    python benchmarks/simulation/scale.py [--sizes 1000,10000,100000] [--rounds 1] [--json]

The scenario is `fleet-1000` with other numbers. What a run costs before it has devices to speak of
(interpreter, imports, program, delegates, blocks) is measured, not guessed: it is the same scenario
with one device a shard. Small fleets run several times and give their median. The exit code is 1 if
a device of the largest fleet costs more than 1.3 times one of the smallest, or if repeated runs end
in different blocks.
"""

import argparse
import json
import re
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from child import Cost, simulate

BASE: Final = Path(__file__).parents[2] / "examples" / "scenarios" / "fleet-1000.toml"
SIZES: Final = (1_000, 10_000, 100_000)
MAX_RATIO: Final = 1.3
"""Of the processor time a device, largest fleet to smallest."""
DEVICES_MEASURED: Final = 20_000
"""A size is repeated until so many devices were simulated."""
MOST_REPEATS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One size; medians over its runs."""

    devices: int
    runs: int
    wall_s: float
    cpu_s: float
    peak_mb: float
    cpu_ms_a_device: float
    """Without what the smallest fleet costs."""
    kb_a_device: float
    """The same of memory."""
    digest: str
    """Of the main chain's last block."""


def make_scenario(folder: Path, *, devices: int, rounds: int) -> Path:
    """`fleet-1000` with other numbers, and nothing else changed between sizes."""
    text = BASE.read_text(encoding="utf-8")
    for key, value in (("devices", devices), ("rounds", rounds)):
        text, count = re.subn(rf"(?m)^{key} = \d+$", f"{key} = {value}", text)
        if count != 1:
            sys.exit(f"{BASE} has {count} lines of {key}")
    path = folder / f"fleet-{devices}.toml"
    path.write_text(text + "\n[output]\ndevice_rounds = false\n", encoding="utf-8")
    return path


def measure(scenario: Path, *, devices: int, rounds: int, repeats: int) -> tuple[Cost, str]:
    """Medians, and the digest in which all runs ended."""
    costs = [simulate(scenario) for _ in range(repeats)]
    digests = set()
    for cost in costs:
        result = json.loads(cost.output)
        trained = result["counts"]["trainings"]
        if not result["final"]["is_complete"] or trained != devices * rounds:
            sys.exit(f"{devices:,} devices: {trained:,} trainings, not {devices * rounds:,}")
        digests.add(result["final"]["main_chain_digest"])
    if len(digests) > 1:
        sys.exit(f"{devices:,} devices: runs ended in different blocks: {sorted(digests)}")
    median = Cost(
        wall_s=statistics.median(cost.wall_s for cost in costs),
        cpu_s=statistics.median(cost.cpu_s for cost in costs),
        peak_mb=statistics.median(cost.peak_mb for cost in costs),
        output="",
    )
    return median, digests.pop()


def run(sizes: tuple[int, ...], rounds: int, folder: Path) -> tuple[Row, list[Row]]:
    """The fixed cost, and a row a size."""

    def one(devices: int, base: Cost | None, base_devices: int) -> tuple[Row, Cost]:
        repeats = min(MOST_REPEATS, max(1, DEVICES_MEASURED // devices))
        path = make_scenario(folder, devices=devices, rounds=rounds)
        cost, digest = measure(path, devices=devices, rounds=rounds, repeats=repeats)
        more = devices - base_devices
        row = Row(
            devices=devices,
            runs=repeats,
            wall_s=cost.wall_s,
            cpu_s=cost.cpu_s,
            peak_mb=cost.peak_mb,
            cpu_ms_a_device=0.0 if base is None else 1_000 * (cost.cpu_s - base.cpu_s) / more,
            kb_a_device=0.0 if base is None else 1_000 * (cost.peak_mb - base.peak_mb) / more,
            digest=digest,
        )
        return row, cost

    smallest = 2
    fixed, base = one(smallest, None, 0)
    show(fixed)
    rows: list[Row] = []
    for devices in sizes:
        row, _ = one(devices, base, smallest)
        rows.append(row)
        show(row)
    return fixed, rows


def show(row: Row) -> None:
    print(
        f"{row.devices:>9,} {row.runs:>5} {row.wall_s:>9.2f} {row.cpu_s:>9.2f} {row.peak_mb:>9.0f} "
        + (
            f"{row.cpu_ms_a_device:>13.3f} {row.kb_a_device:>13.1f}"
            if row.cpu_ms_a_device
            else f"{'fixed':>13} {'fixed':>13}"
        )
        + f"  {row.digest[:16]}",
        file=sys.stderr,
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON on stdout")
    options = parser.parse_args()
    sizes = tuple(int(size) for size in options.sizes.split(","))
    if len(sizes) < 2 or min(sizes) < 100:
        parser.error("--sizes takes two or more of at least 100 devices")
    print(
        f"{'devices':>9} {'runs':>5} {'wall s':>9} {'cpu s':>9} {'peak MB':>9} "
        f"{'cpu ms/device':>13} {'KB/device':>13}  main chain",
        file=sys.stderr,
    )
    with tempfile.TemporaryDirectory(prefix="headwater-scale-") as folder:
        fixed, rows = run(sizes, options.rounds, Path(folder))
    ratio = rows[-1].cpu_ms_a_device / rows[0].cpu_ms_a_device
    holds = ratio <= MAX_RATIO
    print(
        f"processor time a device and {options.rounds} round(s), {rows[-1].devices:,} to "
        f"{rows[0].devices:,}: {ratio:.2f}; {MAX_RATIO} at the most"
        + ("" if holds else ", which does not hold"),
        file=sys.stderr,
    )
    if options.json:
        table = {"fixed": asdict(fixed), "sizes": [asdict(row) for row in rows], "ratio": ratio}
        print(json.dumps(table, indent=1))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
