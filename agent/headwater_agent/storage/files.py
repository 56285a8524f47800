"""Files that a power cut leaves whole, old or absent, never half written."""

import os
from pathlib import Path
from typing import Final, Protocol

TEMPORARY_SUFFIX: Final = ".part"
"""What a cut may leave behind; the next write of the same file replaces it."""


class FileCalls(Protocol):
    """The system calls that durability takes; a test stands in a disk that loses power."""

    def write(self, path: Path, data: bytes, mode: int) -> None:
        """Make `path` anew with this content and mode, and fsync it."""
        ...

    def replace(self, source: Path, target: Path) -> None:
        """Rename over what is there."""
        ...

    def link(self, source: Path, target: Path) -> None:
        """A second name; fails if it is taken."""
        ...

    def unlink(self, path: Path) -> None:
        """Remove a name."""
        ...

    def sync_folder(self, folder: Path) -> None:
        """Make the names in `folder` durable."""
        ...


class SystemCalls:
    """The machine's own."""

    def write(self, path: Path, data: bytes, mode: int) -> None:
        """Make `path` anew with this content and mode, and fsync it."""
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def replace(self, source: Path, target: Path) -> None:
        """Rename over what is there."""
        source.replace(target)

    def link(self, source: Path, target: Path) -> None:
        """A second name; fails if it is taken."""
        target.hardlink_to(source)

    def unlink(self, path: Path) -> None:
        """Remove a name."""
        path.unlink()

    def sync_folder(self, folder: Path) -> None:
        """Make the names in `folder` durable."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_durably(
    path: Path,
    data: bytes,
    *,
    mode: int,
    is_new: bool = False,
    calls: FileCalls | None = None,
) -> None:
    """Write a file so that after a power cut it is the old one or the new one.

    Args:
        path: Of the file; its folder exists.
        data: All of it.
        mode: Of a file that did not exist.
        is_new: Refuse to replace one that is there.
        calls: The system's, or a simulated disk's.

    Raises:
        FileExistsError: If `is_new` and there is one.
        OSError: If the disk does not take it; what was there is as it was.
    """
    calls = calls or SystemCalls()
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    calls.write(temporary, data, mode)
    if is_new:
        # A rename would replace what another process made meanwhile; a link does not.
        try:
            calls.link(temporary, path)
        finally:
            calls.unlink(temporary)
    else:
        calls.replace(temporary, path)
    calls.sync_folder(path.parent)
