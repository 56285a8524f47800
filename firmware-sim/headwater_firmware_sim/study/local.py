"""A sweep's workers as processes of this machine.

Processes are spawned, not forked: a fork of a process with threads of numpy and a TFLite runtime
can hang. A worker ends with the sweep, also when that is killed.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess

from headwater_firmware_sim.study.grid import Point
from headwater_firmware_sim.study.work import Outcome, Runner, compute_point
from headwater_protocol.errors import HeadwaterError


class WorkerLost(HeadwaterError):
    """A worker's process ended before its point did; a kill, or no memory left."""

    def __init__(self) -> None:
        super().__init__(
            "a worker was killed, most often for want of memory; run the same command again with "
            "fewer --workers, finished points are kept"
        )


def run_on_processes(
    points: Sequence[Point], runner: Runner, *, workers: int
) -> Generator[Outcome, None, None]:
    """Run all points, `workers` at a time; outcomes come as they are ready.

    Raises:
        WorkerLost: If a process dies.
    """
    waiting = iter(points)
    running: set[Future[Outcome]] = set()
    pool = ProcessPoolExecutor(
        max_workers=workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_follow_parent,
    )
    try:
        while True:
            # Only what runs is handed over, so that a stop has nothing to take back.
            while len(running) < workers and (point := next(waiting, None)) is not None:
                running.add(pool.submit(compute_point, point, runner))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BrokenProcessPool:
        raise WorkerLost from None
    finally:
        _stop(pool)


def _stop(pool: ProcessPoolExecutor) -> None:
    """End the workers now; a point under way is lost, which is what a stop means."""
    workers = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in workers:
        process.terminate()
    for process in workers:
        process.join()


def _follow_parent() -> None:
    """Leave Ctrl-C to the sweep, and end when it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
