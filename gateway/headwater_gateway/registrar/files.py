"""Writing files whole or not at all."""

import os
from pathlib import Path

from headwater_protocol.errors import ConfigError

PUBLIC_MODE = 0o644
SECRET_MODE = 0o600


def write_whole(path: Path, data: bytes, *, mode: int) -> None:
    """Replace the file at `path`; a crash leaves the old one or the new one.

    Raises:
        ConfigError: If it cannot be written.
    """
    draft = path.with_name(path.name + ".new")
    try:
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise ConfigError(
            str(path), f"cannot be written: {error.strerror}", fix="check folder and permissions"
        ) from error


def read_file(path: Path, *, key: str, max_bytes: int, is_secret: bool = False) -> bytes:
    """The bytes of a file that a configuration names.

    Raises:
        ConfigError: If it cannot be read, is too long, or is a secret that others can read; `key`
            names it.
    """
    try:
        mode = path.stat().st_mode
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise ConfigError(
            key, f"{path}: {error.strerror}", fix="headwater-gateway init --tls makes it"
        ) from None
    if len(data) > max_bytes:
        raise ConfigError(key, f"{path} is too long", fix=f"it has {max_bytes} bytes at most")
    if is_secret and mode & 0o077:
        raise ConfigError(key, f"{path} can be read by others", fix=f"chmod 600 {path}")
    return data
