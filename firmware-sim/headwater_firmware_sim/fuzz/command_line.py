"""`headwater-sim fuzz`: many seeds on all cores, and one line for each that fails."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from rich.console import Console
from rich.progress import Progress

from headwater_firmware_sim.fuzz.draw import PARTS
from headwater_firmware_sim.fuzz.search import Outcome, shrink, try_seed
from headwater_protocol.errors import ConfigError

CHUNK_SEEDS: int = 4
"""Handed to a process at a time."""


def fuzz_seeds(
    seeds: Sequence[int], *, workers: int | None, without: str, console: Console, as_json: bool
) -> int:
    """Try all seeds; 0 if everything held, else 1.

    Raises:
        ConfigError: If `without` names something that is no part of a scenario.
    """
    parts = frozenset(part for part in without.split(",") if part)
    for part in sorted(parts):
        if part not in PARTS:
            raise ConfigError("--without", f"no part {part!r}", fix=f"use {', '.join(PARTS)}")
    started = time.monotonic()
    virtual_ms = cpu_ms = blocks = beyond = 0
    failures: list[Outcome] = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("seeds", total=len(seeds))
        for outcome in _try_all(seeds, workers=workers or os.cpu_count() or 1, without=parts):
            progress.advance(task)
            virtual_ms += outcome.virtual_ms
            cpu_ms += outcome.processor_ms
            blocks += outcome.num_blocks
            beyond += outcome.is_beyond
            if outcome.invariant is not None:
                failures.append(outcome)
                console.print(
                    f"seed {outcome.seed}: {outcome.invariant}: {outcome.detail}", soft_wrap=True
                )
    failures.sort(key=lambda outcome: outcome.seed)
    smallest = [shrink(outcome) for outcome in failures[:3]]
    wall_s = time.monotonic() - started
    rate = virtual_ms / max(1, cpu_ms)
    if as_json:
        print(
            json.dumps(
                {
                    "seeds": len(seeds),
                    "failures": [
                        {"seed": one.seed, "invariant": one.invariant, "detail": one.detail}
                        for one in failures
                    ],
                    "beyond_fault_model": beyond,
                    "replay": [one.command for one in smallest],
                    "blocks": blocks,
                    "simulated_s": virtual_ms // 1_000,
                    "wall_s": round(wall_s, 1),
                    "simulated_s_per_s": round(rate),
                }
            )
        )
    else:
        for one in smallest:
            console.print(f"{one.invariant}: replay with: {one.command}", soft_wrap=True)
        console.print(
            f"{len(seeds)} seeds, {len(failures)} failed, {beyond} ended early because liars were "
            f"elected to a third of a committee, {blocks} blocks, "
            f"{virtual_ms / 1_000:,.0f} s simulated in {wall_s:.0f} s, "
            f"{rate:,.0f} simulated seconds a second of processor time"
        )
    return 1 if failures else 0


def _try_all(seeds: Sequence[int], *, workers: int, without: frozenset[str]) -> Iterator[Outcome]:
    attempt = partial(try_seed, without=without)
    if workers == 1 or len(seeds) == 1:
        yield from map(attempt, seeds)
        return
    with ProcessPoolExecutor(min(workers, len(seeds))) as pool:
        yield from pool.map(attempt, seeds, chunksize=CHUNK_SEEDS)
