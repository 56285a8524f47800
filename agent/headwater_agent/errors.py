"""What a device finds wrong with its inputs and its disk, beyond the protocol's own checks."""

from pathlib import Path

from headwater_protocol.errors import InvalidMessage, StorageError
from headwater_protocol.reasons import ReasonCode


class StaleRound(InvalidMessage):
    """A message or a result is about a round that is over for this device."""

    reason = ReasonCode.STALE_ROUND


class WrongDigest(InvalidMessage):
    """Bytes or a receipt are about another digest than the one asked for."""

    reason = ReasonCode.WRONG_DIGEST


class NotDelegate(InvalidMessage):
    """A receipt is signed by a key that is no delegate of the shard."""

    reason = ReasonCode.NOT_PERMITTED


class StateInUse(StorageError):
    """Another process holds the state: two that sign with one key could sign two updates."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} is in use by another process; only one may sign with a key: "
            "stop the other one (systemctl stop headwater-agent)"
        )


class WrongState(StorageError):
    """What is on disk is a state, and another one than the configuration means."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} is the state of another device, network or format; name the right one with "
            "the key state of the configuration"
        )


class DamagedState(StorageError):
    """What is on disk is no state; `path` was not changed."""

    def __init__(self, path: Path, problem: str) -> None:
        # SQLite tells of a damaged page on lines of its own.
        problem = " ".join(problem.split())
        super().__init__(
            f"{path} is damaged: {problem}; "
            "start the agent: it sets the file aside and tells the way back"
        )
        self.path = path
        self.problem = problem


class DiskUnavailable(StorageError):
    """The disk takes no writes for now; the state on it is whole, and the fix is the owner's."""

    def __init__(self, path: Path, problem: str, *, fix: str) -> None:
        super().__init__(f"{path}: {problem}; {fix}")
        self.path = path
        self.problem = problem
        self.fix = fix


class DiskFull(DiskUnavailable):
    """No space is left."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            path,
            "the disk is full",
            fix="free some space (journalctl --vacuum-size=50M, apt-get clean); "
            "the agent goes on by itself",
        )


class DiskReadOnly(DiskUnavailable):
    """The file system or the file cannot be written."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            path,
            "cannot be written, the file system is read-only or the file is another user's",
            fix="look at dmesg for errors of the card, then mount -o remount,rw, or chown the "
            "file; the agent goes on by itself",
        )


class DiskFailing(DiskUnavailable):
    """The disk reports errors; what it holds has to be read anew."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(
            path,
            f"the disk reports an error ({problem})",
            fix="look at dmesg, and replace the card or disk if it says I/O error",
        )


class UnsoundProgram(InvalidMessage):
    """A program that a trial did not survive."""

    reason = ReasonCode.OUT_OF_BOUNDS
