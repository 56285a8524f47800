"""Both sides of the comparison from one run: this simulator, and Flower's with no-op clients.

    python benchmarks/simulation/run.py [--no-flower]

What a device costs in larger fleets is `scale.py`'s to say. Flower gets an environment of its own,
`benchmarks/simulation/.venv-flower`, made at the first call. Ours does more in its time: every
device trains, quantizes, signs and verifies, two ledgers and a main chain are executed and
certified, and the models are evaluated.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from child import simulate

HERE = Path(__file__).parent
SCENARIOS = HERE.parents[1] / "examples" / "scenarios"
FLOWER = HERE / ".venv-flower"
CLIENTS, ROUNDS = 1_000, 3


def measure(command: list[str]) -> tuple[float, float]:
    """Wall seconds and peak megabytes of a command with all processes that it starts."""
    with tempfile.NamedTemporaryFile() as log:
        began = time.monotonic()
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        peak = 0
        while child.poll() is None:
            peak = max(peak, resident_bytes(child.pid))
            time.sleep(0.05)
        wall_s = time.monotonic() - began
        if child.returncode:
            sys.exit(f"{' '.join(command)} failed:\n" + Path(log.name).read_text()[-2_000:])
        return wall_s, peak / 1e6


def resident_bytes(pid: int) -> int:
    """Of a process and all that it started; 0 once it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(resident_bytes(int(one)) for one in children)


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
    wall_s, peak_mb = measure(
        [str(python), str(HERE / "flower_side.py"), str(CLIENTS), str(ROUNDS)]
    )
    print(f"flower, {CLIENTS} no-op clients, {ROUNDS} rounds: {wall_s:.1f} s, {peak_mb:.0f} MB")
    return wall_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-flower", action="store_true")
    options = parser.parse_args()
    ours_s = run_ours("fleet-1000")
    if not options.no_flower:
        print(f"ratio: {run_flower() / ours_s:.1f}")


if __name__ == "__main__":
    main()
