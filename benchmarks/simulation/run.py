"""Both sides of the comparison from one run: this simulator, and Flower's with no-op clients.

    python benchmarks/simulation/run.py [--no-flower]

What a device costs in larger fleets is `scale.py`'s to say. Flower gets an environment of its own,
`benchmarks/simulation/.venv-flower`, made at the first call. Ours does more in its time: every
device trains, quantizes, signs and verifies, two ledgers and a main chain are executed and
certified, and the models are evaluated.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from child import run_child, simulate

HERE = Path(__file__).parent
SCENARIOS = HERE.parents[1] / "examples" / "scenarios"
FLOWER = HERE / ".venv-flower"
CLIENTS, ROUNDS = 1_000, 3


def run_ours(name: str) -> float:
    cost = simulate(SCENARIOS / f"{name}.toml")
    result = json.loads(cost.output)
    print(
        f"headwater {name}: {cost.wall_s:.1f} s, {cost.cpu_s:.1f} s of processor, "
        f"{cost.peak_mb:.0f} MB, {result['counts']['trainings']:,} trainings, "
        f"digest {result['final']['main_chain_digest'][:16]}"
    )
    return cost.wall_s


def run_flower() -> float:
    python = FLOWER / "bin" / "python"
    if not python.exists():
        print(f"making {FLOWER}")
        subprocess.run([sys.executable, "-m", "venv", str(FLOWER)], check=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "-q", "flwr[simulation]>=1.13,<2"], check=True
        )
    cost = run_child([str(python), str(HERE / "flower_side.py"), str(CLIENTS), str(ROUNDS)])
    print(
        f"flower, {CLIENTS} no-op clients, {ROUNDS} rounds: {cost.wall_s:.1f} s, "
        f"{cost.peak_mb:.0f} MB"
    )
    return cost.wall_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-flower", action="store_true")
    options = parser.parse_args()
    ours_s = run_ours("fleet-1000")
    if not options.no_flower:
        print(f"ratio: {run_flower() / ours_s:.1f}")


if __name__ == "__main__":
    main()
