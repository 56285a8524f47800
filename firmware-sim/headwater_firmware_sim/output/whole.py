"""Files that appear whole or not at all.

A set of files is written under temporary names beside the final ones and renamed once the last byte
of the last file is on disk. So a disk that fills, a kill or a power cut leaves the old files or the
new ones, and never half of one.
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

from headwater_protocol.errors import ConfigError

TEMPORARY_SUFFIX: Final = ".partial"
"""Of a file that is being written; one that is found was left by a kill and means nothing."""

FULL_DISK: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

Writer = Callable[[IO[bytes]], object]
"""Writes the content of one file."""


def write_whole(files: dict[Path, bytes | Writer]) -> None:
    """Write all `files`, or none of them; folders are made where they are missing.

    Args:
        files: By path, the content or what writes it. The first one appears last, so that where it
            is, all are.

    Raises:
        ConfigError: If the disk is full, or the place cannot be written to.
    """
    path = Path()
    temporary = {path: path.with_name(path.name + TEMPORARY_SUFFIX) for path in files}
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary[path].open("wb") as stream:
                if isinstance(content, bytes):
                    stream.write(content)
                else:
                    content(stream)
                stream.flush()
                os.fsync(stream.fileno())
        for path in reversed(files):
            temporary[path].replace(path)
    except OSError as error:
        raise explain(error, path=path) from error
    finally:
        for name in temporary.values():
            # A full disk still deletes; whatever else is wrong was said already.
            try:
                name.unlink(missing_ok=True)
            except OSError:
                continue


def explain(error: OSError, *, path: Path | None = None, name: str = "--out") -> ConfigError:
    """What a user can do about a file that cannot be written.

    Args:
        error: What the system says.
        path: What was written, for errors that do not name it.
        name: What to call it if there is no path.
    """
    name = str(error.filename or path or name)
    if error.errno in FULL_DISK:
        return ConfigError(name, "the disk is full", fix="free some space or name another folder")
    return ConfigError(
        name, (error.strerror or str(error)).lower(), fix="name a folder that you can write to"
    )
