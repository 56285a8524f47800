"""What a block costs on a large ledger: the root after 1,000 of 1,000,000 accounts changed, against
building the same root from scratch. Both sides in one run, medians.

    python benchmarks/state_root/run.py [--accounts N] [--touched N] [--blocks N]
"""

import argparse
import random
import statistics
import time

from headwater_protocol.identifiers import Units
from headwater_shard.mainchain.records import ACCOUNTS, MAIN_TABLES, Account
from headwater_shard.state.state import State


def build(balances: dict[bytes, int]) -> State:
    """The state that holds these balances and nothing else."""
    accounts = {key: Account(balance=Units(balance)) for key, balance in balances.items()}
    return State(MAIN_TABLES).updated({ACCOUNTS.namespace: accounts})


def main() -> None:
    """Measure and print one line a figure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--accounts", type=int, default=1_000_000)
    parser.add_argument("--touched", type=int, default=1_000)
    parser.add_argument("--blocks", type=int, default=9)
    options = parser.parse_args()
    draw = random.Random(1)
    balances = {draw.randbytes(32): draw.randrange(10**9) for _ in range(options.accounts)}
    keys = sorted(balances)
    started = time.perf_counter()
    state = build(balances)
    first_s = time.perf_counter() - started
    blocks_s = []
    for _ in range(options.blocks):
        touched = {key: draw.randrange(10**9) for key in draw.sample(keys, options.touched)}
        balances.update(touched)
        changes = {key: Account(balance=Units(balance)) for key, balance in touched.items()}
        started = time.perf_counter()
        state = state.updated({ACCOUNTS.namespace: changes})
        blocks_s.append(time.perf_counter() - started)
    started = time.perf_counter()
    rebuilt = build(balances)
    rebuild_s = statistics.median([first_s, time.perf_counter() - started])
    if rebuilt.root != state.root:
        raise SystemExit("the two roots differ")
    block_s = statistics.median(blocks_s)
    print(f"accounts                {options.accounts:>12,}")
    print(f"touched by a block      {options.touched:>12,}")
    print(f"root after a block      {block_s * 1_000:>12.1f} ms (median of {options.blocks})")
    print(f"root from scratch       {rebuild_s * 1_000:>12.1f} ms")
    print(f"ratio                   {rebuild_s / block_s:>12.0f}")


if __name__ == "__main__":
    main()
