"""What an enrolment leaves on disk, each file whole or not at all.

```
device.key       the device's key; made first, used for ever
ca.pem           the network's authority
genesis.cbor     the genesis that the token named
broker.pem       transport key and certificate in one file, so that they change together
enrolment.json   registrar, place in the network, number of the last renewal
device.db        the device's state
agent.toml       written last: where it is, the enrolment is complete
```
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from headwater_agent.keyfile import create_key, load_key
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.errors import ConfigError, StorageError

MAX_ENROLMENT_BYTES: Final = 16 * 1024
MAX_BROKER_PEM_BYTES: Final = 32 * 1024
SECRET_MODE: Final = 0o600
PUBLIC_MODE: Final = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """What `enrolment.json` holds."""

    url: str
    """Of the registrar."""
    network: str
    """64 hexadecimal digits."""
    shard: str
    weight: int
    brokers: tuple[str, ...]
    ca: str | None
    """A file that vouches for the registrar; None if the network's authority does."""
    sequence: int
    """Of the last request to renew; written before it is sent."""
    is_on_ledger: bool
    """Whether the proof was seen."""


class EnrolmentFolder:
    """The files in one folder.

    Args:
        path: Of the folder; made where it is missing.

    Raises:
        ConfigError: If it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError("--out", f"{path}: {error.strerror}", fix="name another") from None

    @property
    def key(self) -> Path:
        """Of the device's key."""
        return self.path / "device.key"

    @property
    def authority(self) -> Path:
        """Of the authority's certificate."""
        return self.path / "ca.pem"

    @property
    def genesis(self) -> Path:
        """Of the genesis."""
        return self.path / "genesis.cbor"

    @property
    def broker(self) -> Path:
        """Of transport key and certificate."""
        return self.path / "broker.pem"

    @property
    def enrolment(self) -> Path:
        """Of what the registrar said."""
        return self.path / "enrolment.json"

    @property
    def state(self) -> Path:
        """Of the device's state."""
        return self.path / "device.db"

    @property
    def config(self) -> Path:
        """Of the configuration."""
        return self.path / "agent.toml"

    def open_key(self) -> SecretKey:
        """The device's key, made if there is none.

        Raises:
            ConfigError: If it cannot be made or read.
        """
        if self.key.exists():
            return load_key(self.key)
        # A cut while the file is written must not leave half a key under its name.
        draft = self.key.with_name(self.key.name + ".new")
        draft.unlink(missing_ok=True)
        key = create_key(draft, os.urandom(32))
        draft.replace(self.key)
        _sync_folder(self.path)
        return key


def load_enrolment(path: Path) -> Enrolment | None:
    """What the file at `path` holds; None if there is none.

    Raises:
        ConfigError: If it is something else.
    """
    fix = "remove it and enrol again with the same token"
    try:
        with path.open("rb") as file:
            data = file.read(MAX_ENROLMENT_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(str(path), str(error.strerror), fix="check permissions") from None
    try:
        values = json.loads(data)
        return Enrolment(
            url=_text(values["url"]),
            network=_text(values["network"]),
            shard=_text(values["shard"]),
            weight=_number(values["weight"]),
            brokers=tuple(_text(url) for url in values["brokers"]),
            ca=None if values["ca"] is None else _text(values["ca"]),
            sequence=_number(values["sequence"]),
            is_on_ledger=values["is_on_ledger"] is True,
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(str(path), f"is damaged: {error!r}", fix=fix) from None


def save_enrolment(path: Path, enrolment: Enrolment) -> None:
    """Replace the file at `path`; on disk before this returns.

    Raises:
        StorageError: If it cannot be written.
    """
    text = json.dumps(asdict(enrolment), indent=2) + "\n"
    write_whole(path, text.encode(), mode=PUBLIC_MODE)


def write_whole(path: Path, data: bytes, *, mode: int) -> None:
    """Replace the file at `path`; a power cut leaves the old one or the new one.

    Raises:
        StorageError: If it cannot be written.
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
        _sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}; check disk and permissions") from error


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is no text")
    return value


def _number(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no number")
    return value
