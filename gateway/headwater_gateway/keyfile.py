"""A gateway's secret keys on disk: 64 hexadecimal digits each, which only the owner can read."""

import os
import stat
from pathlib import Path
from typing import Final

from headwater_protocol.crypto.signing import SEED_BYTES, SecretKey
from headwater_protocol.errors import ConfigError

MAX_KEY_FILE_BYTES: Final = 1_024


def create_key(path: Path, seed: bytes) -> SecretKey:
    """Write `seed`, 32 bytes, to a new file with mode 0600, on disk before this returns.

    Raises:
        ConfigError: If there is a file already, or it cannot be written.
    """
    key = SecretKey(seed)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigError(str(path), str(error.strerror), fix="choose another folder") from None
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(seed.hex() + "\n")
        file.flush()
        os.fsync(file.fileno())
    return key


def load_key(path: Path, *, key: str) -> SecretKey:
    """The key in the file at `path`.

    Args:
        path: The file.
        key: Of the configuration that names it, for the error.

    Raises:
        ConfigError: If the file is missing, readable by others, or holds no key.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        with path.open("rb") as file:
            text = file.read(MAX_KEY_FILE_BYTES).strip()
    except FileNotFoundError:
        raise ConfigError(
            key, f"{path} does not exist", fix="put the key there; headwater-gateway init made it"
        ) from None
    except OSError as error:
        raise ConfigError(key, f"cannot read {path}: {error}", fix="check permissions") from None
    if mode & 0o077:
        raise ConfigError(key, f"{path} can be read by others", fix=f"chmod 600 {path}")
    try:
        seed = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        seed = b""
    if len(seed) != SEED_BYTES:
        raise ConfigError(
            key, f"{path} holds no key", fix=f"it has {2 * SEED_BYTES} hexadecimal digits"
        )
    return SecretKey(seed)
