"""One seed: a safety phase with faults, then calm in which everything must come to its end."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headwater_firmware_sim.fuzz.draw import PARTS, SAFETY_S, draw_scenario
from headwater_firmware_sim.fuzz.invariants import Invariants
from headwater_firmware_sim.fuzz.violation import LeftFaultModel, Violation
from headwater_firmware_sim.scenario.model import Scenario
from headwater_firmware_sim.stage import make_stage
from headwater_firmware_sim.virtual.run import VirtualRun
from headwater_protocol.identifiers import MAIN_CHAIN

LIVENESS: Final = "liveness"
CALM_S: Final = 14_400.0
"""In which a network without faults has to finish."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one seed."""

    seed: int
    without: tuple[str, ...]
    """Parts that were left out."""
    invariant: str | None
    """What did not hold; None if everything did."""
    detail: str
    virtual_ms: int
    processor_ms: int
    num_blocks: int
    is_beyond: bool = False
    """Whether an election left the fault model, so that the run was not followed to its end."""

    @property
    def command(self) -> str:
        """Replays it."""
        without = f" --without {','.join(self.without)}" if self.without else ""
        return f"headwater-sim fuzz --first {self.seed} --seeds 1{without}"


def try_seed(seed: int, *, without: frozenset[str] = frozenset()) -> Outcome:
    """Run one seed's scenario and say what did not hold."""
    started = time.process_time()
    scenario = draw_scenario(seed, without=without)
    run, invariants = make_watched_run(scenario)
    found: Violation | None = None
    is_beyond = False
    try:
        _go(run)
    except LeftFaultModel:
        is_beyond = True
    except Violation as violation:
        found = violation
    except Exception as error:  # whatever escapes a core is a bug of ours as well
        found = Violation("crash", f"{type(error).__name__}: {error}")
    return Outcome(
        seed=seed,
        without=tuple(sorted(without)),
        invariant=None if found is None else found.invariant,
        detail="" if found is None else found.detail,
        virtual_ms=run.elapsed_ms,
        processor_ms=int((time.process_time() - started) * 1_000),
        num_blocks=invariants.num_blocks,
        is_beyond=is_beyond,
    )


def make_watched_run(scenario: Scenario) -> tuple[VirtualRun, Invariants]:
    """A run with invariants that watch it."""
    invariants = Invariants()
    run = VirtualRun(
        make_stage(scenario, folder=Path()),
        keeps_payloads=True,
        on_block=invariants.on_block,
        on_message=invariants.on_message,
    )
    invariants.watch(run)
    return run, invariants


def shrink(outcome: Outcome) -> Outcome:
    """The same seed with as few parts as still break the same invariant."""
    best = outcome
    for part in PARTS:
        smaller = frozenset({*best.without, part})
        attempt = try_seed(best.seed, without=smaller)
        if attempt.invariant == best.invariant:
            best = attempt
    return best


def _go(run: VirtualRun) -> None:
    run.start()
    first_ms = run.world.start_ms + run.stage.warm_up_ms
    run.run_until(first_ms + round(SAFETY_S * 1_000))
    run.faults.stop()
    calm_ms = run.world.clock.now_ms + round(CALM_S * 1_000)
    run.run_until(calm_ms)
    for gateway in run.gateways:
        for chain in sorted(gateway.nodes):
            halted = gateway.nodes[chain].halted
            if halted is not None:
                raise Violation("I2", f"{chain} halted at {halted.height}: {halted.error}")
    if not run.is_complete:
        heights = {
            chain: run.height(chain) for chain in (MAIN_CHAIN, *run.stage.plan.genesis.shards)
        }
        raise Violation(
            LIVENESS,
            f"{run.num_closed} rounds closed, heights {heights} after {CALM_S:.0f} s of calm",
        )
