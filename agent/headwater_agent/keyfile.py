"""The secret key on disk: 64 hexadecimal digits that only the owner can read."""

import os
import stat
from pathlib import Path
from typing import Final

from headwater_protocol.crypto.signing import SEED_BYTES, SecretKey
from headwater_protocol.errors import ConfigError

KEY: Final = "key"
MAX_KEY_FILE_BYTES: Final = 1_024


def create_key(path: Path, seed: bytes) -> SecretKey:
    """Write `seed` to a new file with mode 0600, on disk before this returns.

    Raises:
        ConfigError: If there is a file already, or it cannot be written.
    """
    key = SecretKey(seed)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigError(
            KEY, f"{path} exists already", fix="use it, or name another file with --key"
        ) from None
    except OSError as error:
        raise ConfigError(KEY, f"cannot write {path}: {error}", fix="name another file") from None
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(seed.hex() + "\n")
        file.flush()
        os.fsync(file.fileno())
    return key


def load_key(path: Path) -> SecretKey:
    """The key in the file at `path`.

    Raises:
        ConfigError: If the file is missing, readable by others, or holds no key.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        with path.open("rb") as file:
            text = file.read(MAX_KEY_FILE_BYTES).strip()
    except FileNotFoundError:
        raise ConfigError(
            KEY, f"{path} does not exist", fix="make one with headwater-agent init"
        ) from None
    except OSError as error:
        raise ConfigError(KEY, f"cannot read {path}: {error}", fix="check permissions") from None
    if mode & 0o077:
        raise ConfigError(KEY, f"{path} can be read by others", fix=f"chmod 600 {path}")
    try:
        seed = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        seed = b""
    if len(seed) != SEED_BYTES:
        raise ConfigError(
            KEY, f"{path} holds no key", fix=f"it has {2 * SEED_BYTES} hexadecimal digits"
        )
    return SecretKey(seed)
