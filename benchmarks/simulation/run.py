"""Both sides of the comparison from one run: this simulator, and Flower's with no-op clients.

    python benchmarks/simulation/run.py [--no-flower] [--large]

Flower gets an environment of its own, `benchmarks/simulation/.venv-flower`, made at the first call.
Ours does more in its time: every device trains, quantizes, signs and verifies, two ledgers and a
main chain are executed and certified, and the models are evaluated.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
SCENARIOS = HERE.parents[1] / "examples" / "scenarios"
FLOWER = HERE / ".venv-flower"
CLIENTS, ROUNDS = 1_000, 3


def measure(command: list[str]) -> tuple[float, float, float, str]:
    """Wall seconds, processor seconds and peak megabytes of a command with its children."""
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
        times = os.times()
        return (
            wall_s,
            times.children_user + times.children_system,
            peak / 1e6,
            Path(log.name).read_text(),
        )


def resident_bytes(pid: int) -> int:
    """Of a process and all that it started; 0 once it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(resident_bytes(int(one)) for one in children)


def run_ours(name: str) -> tuple[float, float]:
    before = os.times()
    wall_s, cpu_s, peak_mb, text = measure(
        [
            str(Path(sys.executable).with_name("headwater-sim")),
            "run",
            str(SCENARIOS / f"{name}.toml"),
            "--json",
        ]
    )
    cpu_s -= before.children_user + before.children_system
    start = text.index("{")
    result = json.loads(text[start:])
    trained = result["counts"]["trainings"]
    print(
        f"headwater {name}: {wall_s:.1f} s, {cpu_s:.1f} s of processor, {peak_mb:.0f} MB, "
        f"{1_000 * cpu_s / trained:.2f} ms of processor a device and round, "
        f"digest {result['final']['main_chain_digest'][:16]}"
    )
    return wall_s, cpu_s / trained


def run_flower() -> float:
    python = FLOWER / "bin" / "python"
    if not python.exists():
        print(f"making {FLOWER}")
        subprocess.run([sys.executable, "-m", "venv", str(FLOWER)], check=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "-q", "flwr[simulation]>=1.13,<2"], check=True
        )
    wall_s, _, peak_mb, _ = measure(
        [str(python), str(HERE / "flower_side.py"), str(CLIENTS), str(ROUNDS)]
    )
    print(f"flower, {CLIENTS} no-op clients, {ROUNDS} rounds: {wall_s:.1f} s, {peak_mb:.0f} MB")
    return wall_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-flower", action="store_true")
    parser.add_argument("--large", action="store_true", help="100,000 devices as well")
    options = parser.parse_args()
    ours_s, small = run_ours("fleet-1000")
    if options.large:
        _, large = run_ours("fleet-100000")
        print(f"processor time a device and round, 100,000 to 1,000: {large / small:.2f}")
    if not options.no_flower:
        print(f"ratio: {run_flower() / ours_s:.1f}")


if __name__ == "__main__":
    main()
