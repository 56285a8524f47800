"""Transactions that people bring: files in a folder, submitted once and kept with the answer.

```
data/inbox/lend.tx          to be submitted; any name, as long as it ends so
data/inbox/lend.queued      in the queue of its chain
data/inbox/lend.wrong_nonce  refused, and why, for each reason code
```

Whoever may write into the folder of a gateway may submit; who signed is what counts. A queue does
not survive the process, so what was queued is submitted again at the next start: the ledger takes
no transaction twice.
"""

import logging
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Final

from headwater_gateway.machine.effects import Submit
from headwater_protocol.chain.block import MAX_TRANSACTION_BYTES
from headwater_protocol.chain.transaction import decode_transaction
from headwater_protocol.errors import InvalidMessage
from headwater_protocol.identifiers import ChainId
from headwater_protocol.reasons import ReasonCode

MAX_FILES_AT_ONCE: Final = 100
TX: Final = ".tx"
QUEUED: Final = ".queued"
TICKET: Final = "inbox/"

logger = logging.getLogger("headwater.gateway")


class Inbox:
    """The folder `inbox` of a data folder."""

    def __init__(self, path: Path) -> None:
        """Take up what was queued when the process ended; the folder may be missing."""
        self._path = path
        self._submitted: dict[str, Path] = {}
        for file in sorted(path.glob(f"*{QUEUED}")):
            _rename(file, TX)

    def look(self, chains: Mapping[ChainId, object]) -> Iterator[Submit]:
        """What has come in since the last look, at most `MAX_FILES_AT_ONCE` of it."""
        waiting = (file for file in sorted(self._path.glob(f"*{TX}")) if file.is_file())
        for file in islice(waiting, MAX_FILES_AT_ONCE):
            ticket = TICKET + file.name
            if ticket in self._submitted:
                continue
            data = _read(file)
            try:
                if len(data) > MAX_TRANSACTION_BYTES:
                    self._answer(file, ReasonCode.TOO_LARGE)
                    continue
                chain = decode_transaction(data).transaction.chain
            except InvalidMessage as error:
                self._answer(file, error.reason)
                continue
            if chain not in chains:
                self._answer(file, ReasonCode.WRONG_CHAIN)
                continue
            self._submitted[ticket] = file
            yield Submit(chain=chain, transaction=data, ticket=ticket)

    def on_submitted(self, ticket: str, reason: ReasonCode) -> None:
        """What the engine said; a queue that was full is asked again at the next look."""
        file = self._submitted.pop(ticket, None)
        if file is not None and reason is not ReasonCode.BUSY:
            self._answer(file, reason)

    def _answer(self, file: Path, reason: ReasonCode) -> None:
        is_good = reason is ReasonCode.OK
        _rename(file, QUEUED if is_good else f".{reason.value}")
        level = logging.INFO if is_good else logging.WARNING
        logger.log(level, "event=brought file=%s reason=%s", file.name, reason.value)


def _read(file: Path) -> bytes:
    """At most a byte more than a transaction may have; nothing where it cannot be read."""
    try:
        with file.open("rb") as stream:
            return stream.read(MAX_TRANSACTION_BYTES + 1)
    except OSError:
        return b""


def _rename(file: Path, suffix: str) -> None:
    """Name the answer; a folder that refuses leaves the file to be answered again."""
    try:
        file.replace(file.with_suffix(suffix))
    except OSError as error:
        logger.warning("event=inbox file=%s detail=%s", file.name, error.strerror)
