"""A damaged state is set aside under a dated name: evidence for its owner, never used again."""

from datetime import datetime
from pathlib import Path

from headwater_agent.errors import DamagedState
from headwater_agent.storage.disk import companions
from headwater_agent.storage.files import SystemCalls


def set_aside(path: Path, now: datetime) -> Path:
    """Rename the database at `path` with all that belongs to it, and return the new name.

    Raises:
        OSError: If the disk does not take it; what was not renamed is as it was.
    """
    target = path.with_name(f"{path.name}.damaged-{now:%Y%m%dT%H%M%SZ}")
    number = 1
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}.damaged-{now:%Y%m%dT%H%M%SZ}-{number}")
    calls = SystemCalls()
    # The log before the file: SQLite would take a log that is left over for that of a new file.
    for source in (*companions(path), path):
        if source.exists():
            calls.replace(source, Path(str(target) + str(source)[len(str(path)) :]))
    calls.sync_folder(path.parent)
    return target


def tell_missing(path: Path) -> str:
    """The fix where there is no state at `path`."""
    pattern = f"{path.name}.damaged-*Z*"
    kept = sorted(
        found.name for found in path.parent.glob(pattern) if found.name[-4:] not in {"-wal", "-shm"}
    )
    if kept:
        return (
            f"a damaged one is kept as {kept[-1]}: restore a copy from before the current round, "
            "or, once the current round is over, start with headwater-agent run --new-state"
        )
    return (
        "name the right one, or, if it was lost, wait until the current round is over and start "
        "with headwater-agent run --new-state"
    )


def tell_way_back(error: DamagedState, kept: Path) -> str:
    """The one line for the owner."""
    return (
        f"{error.path} was damaged ({error.problem}) and is kept as {kept.name}; restore a copy "
        "from before the current round, or, once the current round is over, start with "
        "headwater-agent run --new-state: the key and its enrolment stay valid"
    )
