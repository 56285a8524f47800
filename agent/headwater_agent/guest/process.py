"""What a process gives up at its start: threads, priority, cores. Imports nothing heavy."""

import ctypes
import gc
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from headwater_agent.guest.config import GuestConfig

THREAD_VARIABLES: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8
"""Of glibc's malloc.h."""
MADV_DONTNEED: Final = 4
"""Of Linux's mman.h."""
LARGE_BYTES: Final = 64 * 1024
"""Blocks of this size are taken from the system one by one, and given back when they are free."""

_log = logging.getLogger("headwater.agent")


def limit_threads() -> None:
    """Keep linear algebra to one thread; only has an effect before numpy is imported.

    It would start one a core, and no array here is large enough to gain from it.
    """
    for name in THREAD_VARIABLES:
        os.environ.setdefault(name, "1")


def share_heap() -> None:
    """Have all threads take memory from one heap; glibc's own choice is a heap for each.

    The training thread's would hold a megabyte that nobody else can use. Models and messages come
    and go; what held one of them is not kept for the next.
    """
    _call_libc("mallopt", M_ARENA_MAX, 1)
    _call_libc("mallopt", M_MMAP_THRESHOLD, LARGE_BYTES)
    _call_libc("mallopt", M_TRIM_THRESHOLD, LARGE_BYTES)


def give_memory_back() -> None:
    """Return to the system what starting up has left behind, before training asks for as much.

    Half of what is resident then is code of libraries, most of it run once, by imports. What is
    needed again is mapped again, from the file.
    """
    gc.collect()
    _call_libc("malloc_trim", 0)
    for start, end in list_code():
        _call_libc("madvise", ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_DONTNEED)


def list_code(maps: Path = Path("/proc/self/maps")) -> list[tuple[int, int]]:
    """Where files' code is mapped, which nobody writes to (see proc_pid_maps(5))."""
    try:
        lines = maps.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    ranges: list[tuple[int, int]] = []
    for line in lines:
        place, permissions, *_, name = line.split(maxsplit=5)
        if permissions == "r-xp" and name.startswith("/") and not name.endswith("(deleted)"):
            start, _, end = place.partition("-")
            ranges.append((int(start, 16), int(end, 16)))
    return ranges


def _call_libc(name: str, *arguments: "int | ctypes.c_void_p | ctypes.c_size_t") -> None:
    try:
        getattr(ctypes.CDLL(None), name)(*arguments)
    except (AttributeError, OSError):
        # Another C library; it has no such heaps.
        return


def give_way(config: "GuestConfig") -> None:
    """Lower this process's priority and keep it to its cores; what the system refuses is logged.

    A service manager that did so already, and then forbids to change it, is not asked again.
    """
    if os.getpriority(os.PRIO_PROCESS, 0) < config.niceness:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, config.niceness)
        except OSError as error:
            _log.warning("event=guest detail=%r", f"niceness {config.niceness}: {error.strerror}")
    if config.pinned_cores:
        try:
            if os.sched_getaffinity(0) != set(config.pinned_cores):
                os.sched_setaffinity(0, config.pinned_cores)
        except (OSError, AttributeError) as error:
            _log.warning("event=guest detail=%r", f"pinned_cores {config.pinned_cores}: {error}")
