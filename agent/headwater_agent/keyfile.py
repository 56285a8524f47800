"""The secret key on disk: 64 hexadecimal digits that only the owner can read."""

import os
import stat
from pathlib import Path
from typing import Final

from headwater_agent.storage.files import write_durably
from headwater_protocol.crypto.signing import SEED_BYTES, SecretKey
from headwater_protocol.errors import ConfigError

KEY: Final = "key"
MAX_KEY_FILE_BYTES: Final = 1_024
GROUP_BITS: Final = 0o070
OTHERS_BITS: Final = 0o007
CREDENTIALS_VARIABLE: Final = "CREDENTIALS_DIRECTORY"


def create_key(path: Path, seed: bytes) -> SecretKey:
    """Write `seed` to a new file with mode 0600, on disk before this returns.

    Raises:
        ConfigError: If there is a file already, or it cannot be written.
    """
    key = SecretKey(seed)
    try:
        write_durably(path, f"{seed.hex()}\n".encode("ascii"), mode=0o600, is_new=True)
    except FileExistsError:
        raise ConfigError(
            KEY, f"{path} exists already", fix="use it, or name another file with --key"
        ) from None
    except OSError as error:
        raise ConfigError(KEY, f"cannot write {path}: {error}", fix="name another file") from None
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
    if mode & (OTHERS_BITS if _is_credential(path) else OTHERS_BITS | GROUP_BITS):
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


def _is_credential(path: Path) -> bool:
    """Whether systemd put the file there for this service.

    It lets one user in by an access list, whose mask shows as the group's bits.
    """
    folder = os.environ.get(CREDENTIALS_VARIABLE)
    return bool(folder) and path.parent == Path(str(folder))
