"""The genesis on disk."""

from pathlib import Path

from headwater_protocol.chain.genesis import (
    MAX_GENESIS_BYTES,
    Genesis,
    decode_genesis,
    genesis_network,
)
from headwater_protocol.errors import ConfigError, InvalidMessage


def load_genesis(path: Path) -> Genesis:
    """The genesis in the file at `path`.

    Raises:
        ConfigError: If it cannot be read or is none.
    """
    fix = "get the genesis file from your network's operator"
    try:
        with path.open("rb") as file:
            return decode_genesis(file.read(MAX_GENESIS_BYTES + 1))
    except OSError as error:
        raise ConfigError("genesis", f"{path}: {error.strerror}", fix=fix) from None
    except InvalidMessage as error:
        raise ConfigError("genesis", f"{path}: {error}", fix=fix) from None


def require_pinned(genesis: Genesis, network: bytes) -> None:
    """Check that the genesis is the network's that the operator pinned.

    Raises:
        ConfigError: If it is another one.
    """
    found = genesis_network(genesis)
    if found != network:
        raise ConfigError(
            "network",
            f"the genesis has the digest {found.hex()}",
            fix="get the genesis of the network that you pinned, or correct the pin",
        )
