"""Handing signed transactions to a gateway, through the inbox of its data folder."""

import os
from pathlib import Path

from headwater_protocol.errors import ConfigError
from headwater_protocol.identifiers import AccountId
from headwater_shard.layout import DataFolder

SHORT_HEX = 16
"""Digits of the sender in a file's name."""


def pick_nonce(folder: DataFolder, sender: AccountId, on_ledger: int) -> int:
    """The sender's next nonce, after what the ledger has and what waits in the inbox."""
    waiting = [on_ledger]
    for suffix in ("tx", "queued"):
        for file in folder.inbox.glob(f"*-{sender.hex()[:SHORT_HEX]}-*.{suffix}"):
            number = file.stem.rpartition("-")[2]
            if number.isdecimal():
                waiting.append(int(number))
    return max(waiting) + 1


def hand_in(
    folder: DataFolder, transaction: bytes, *, kind: str, sender: AccountId, nonce: int
) -> Path:
    """Put a transaction where a running gateway finds it, whole or not at all.

    Returns:
        The file; the gateway names its answer in place of `.tx`.

    Raises:
        ConfigError: If it cannot be written.
    """
    file = folder.inbox / f"{kind}-{sender.hex()[:SHORT_HEX]}-{nonce}.tx"
    draft = file.with_suffix(f".{os.getpid()}.partial")
    try:
        folder.inbox.mkdir(exist_ok=True)
        draft.write_bytes(transaction)
        draft.replace(file)
    except OSError as error:
        raise ConfigError(
            "--submit", f"{folder.inbox}: {error.strerror}", fix="take the gateway's data folder"
        ) from error
    return file
