"""What a device needs that trains mlp-64-32-10 for ten rounds: disk and memory, side by side.

    python benchmarks/agent/run.py [--json] [--rounds N] [--only headwater,flower,torch] [--check]

One run on one machine: the agent of this tree against a real gateway, a Flower node against its
SuperLink, and a torch client against a socket, each in an environment of its own and each training
five passes over the same 60 examples a round. Servers are not counted. With `--check` the exit code
is 1 where a figure is above its target.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import flower_side
import headwater_side
import numpy as np
import torch_side
from measure import Side

from headwater_firmware_sim.data.digits import load_digits

SIDES = ("headwater", "flower", "torch")
NUM_VALIDATION, NUM_EXAMPLES = 120, 60
MAX_PEAK_MB, MAX_INSTALLED_MB, MAX_SHARE_OF_FLOWER = 60.0, 150.0, 0.5


def save_data(work: Path) -> tuple[Path, Path]:
    """The device's examples and the delegates' validation data; no example is in both."""
    digits = load_digits()
    data, validation = work / "data.npz", work / "validation.npz"
    parts = (
        (validation, slice(0, NUM_VALIDATION)),
        (data, slice(NUM_VALIDATION, NUM_VALIDATION + NUM_EXAMPLES)),
    )
    for path, part in parts:
        np.savez(path, features=digits.features[part], labels=digits.labels[part])
    return data, validation


def run_side(name: str, rounds: int) -> Side:
    with tempfile.TemporaryDirectory(prefix="headwater-agent-") as folder:
        work = Path(folder)
        data, validation = save_data(work)
        if name == "headwater":
            return headwater_side.measure(work, data=data, validation=validation, rounds=rounds)
        side = flower_side if name == "flower" else torch_side
        return side.measure(work, data=data, rounds=rounds)


def find_misses(sides: dict[str, Side]) -> list[str]:
    """What is above its target."""
    ours, misses = sides.get("headwater"), []
    if ours is None:
        return []
    if ours.peak_mb >= MAX_PEAK_MB:
        misses.append(f"peak {ours.peak_mb:.1f} MB, target {MAX_PEAK_MB:.0f}")
    if ours.installed_mb >= MAX_INSTALLED_MB:
        misses.append(f"installed {ours.installed_mb:.1f} MB, target {MAX_INSTALLED_MB:.0f}")
    if flower := sides.get("flower"):
        # The figure that is kinder to several processes is the one to be beaten.
        for what, mine, theirs in (
            ("peak", ours.peak_mb, flower.proportional_mb),
            ("installed", ours.installed_mb, flower.installed_mb),
        ):
            if mine >= MAX_SHARE_OF_FLOWER * theirs:
                misses.append(f"{what}: {mine / theirs:.2f} of Flower's")
    return misses


def print_table(sides: dict[str, Side]) -> None:
    ours = sides.get("headwater")
    print(f"{'':18}{'installed MB':>13}{'ratio':>7}{'peak MB':>9}{'ratio':>7}{'Pss MB':>8}  rounds")
    for side in sides.values():
        ratios = ("", "")
        if ours is not None:
            ratios = (
                f"{side.installed_mb / ours.installed_mb:.1f}",
                f"{side.peak_mb / ours.peak_mb:.1f}",
            )
        print(
            f"{side.name:18}{side.installed_mb:13.0f}{ratios[0]:>7}{side.peak_mb:9.1f}"
            f"{ratios[1]:>7}{side.proportional_mb:8.1f}  {side.rounds:6}  {side.note}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", default=",".join(SIDES), help="sides, separated by commas")
    parser.add_argument("--check", action="store_true", help="exit 1 above a target")
    options = parser.parse_args()
    sides, skipped = {}, {}
    for name in options.only.split(","):
        if name not in SIDES:
            parser.error(f"--only: {name!r} is none of {', '.join(SIDES)}")
        reason = torch_side.why_not() if name == "torch" else None
        if reason is None:
            sides[name] = run_side(name, options.rounds)
        else:
            skipped[name] = reason
    misses = find_misses(sides)
    if options.json:
        rows = {name: side.to_json() for name, side in sides.items()}
        print(json.dumps({"sides": rows, "skipped": skipped, "above_target": misses}))
    else:
        print_table(sides)
        for name, reason in skipped.items():
            print(f"{name}: skipped, {reason}")
        for miss in misses:
            print(f"above target: {miss}")
    return 1 if options.check and misses else 0


if __name__ == "__main__":
    sys.exit(main())
