"""One line an event: to systemd's journal with fields, else to stderr.

journald's native protocol is a datagram of `NAME=value` lines. A process whose stderr goes to the
journal, as `JOURNAL_STREAM` tells, writes there with `PRIORITY`, `HEADWATER_EVENT`,
`HEADWATER_ROUND` and so on, so `journalctl HEADWATER_ROUND=12` finds a round. Where the socket
cannot be had, stderr gets the level as a `<6>` in front, which journald understands, too.
"""

import logging
import os
import socket
import struct
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

JOURNAL_SOCKET: Final = Path("/run/systemd/journal/socket")
IDENTIFIER: Final = "headwater-agent"
MAX_VALUE_BYTES: Final = 4_096
"""Of one field; a datagram then fits every kernel's limit."""
PRIORITIES: Final = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
)
DEBUG_PRIORITY: Final = 7

Fields = Mapping[str, object]

_log: Final = logging.getLogger("headwater.agent")


def tell(level: int, event: str, **fields: object) -> None:
    """Log one event: `event=signed round=3 reason=ok`.

    Args:
        level: Of `logging`.
        event: A word.
        fields: In the order of the line; texts with spaces are quoted.
    """
    if not _log.isEnabledFor(level):
        return
    parts = [f"event={event}", *(f"{name}={_show(value)}" for name, value in fields.items())]
    _log.log(level, "%s", " ".join(parts), extra={"headwater": {"event": event, **fields}})


class JournalHandler(logging.Handler):
    """Writes to journald's socket; what it does not take goes to stderr."""

    def __init__(self, path: Path = JOURNAL_SOCKET) -> None:
        super().__init__()
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._fallback = make_stderr_handler(with_priority=True)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        try:
            self._socket.sendto(encode_record_fields(record), self._path)
        except OSError:
            self._fallback.emit(record)

    def close(self) -> None:
        """Send no more."""
        self._socket.close()
        super().close()


class LineFormatter(logging.Formatter):
    """One line a record, whatever the message holds; optionally journald's level in front."""

    def __init__(self, *, with_priority: bool) -> None:
        pattern = (
            "%(message)s" if with_priority else "%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s"
        )
        super().__init__(pattern, datefmt="%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime
        self._with_priority = with_priority

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = super().format(record).replace("\r", "\\r").replace("\n", "\\n")
        return f"<{priority_of(record.levelno)}>{line}" if self._with_priority else line


def make_stderr_handler(*, with_priority: bool) -> logging.Handler:
    """For a terminal, or with the level in front for a journal that reads stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(with_priority=with_priority))
    return handler


def make_handler(environment: Mapping[str, str], *, path: Path = JOURNAL_SOCKET) -> logging.Handler:
    """The handler for where this process's stderr goes."""
    if not is_journal(environment):
        return make_stderr_handler(with_priority=False)
    return JournalHandler(path) if path.exists() else make_stderr_handler(with_priority=True)


def is_journal(environment: Mapping[str, str]) -> bool:
    """Whether stderr is the stream that `JOURNAL_STREAM` names as device and inode."""
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM", "") == f"{status.st_dev}:{status.st_ino}"


def priority_of(level: int) -> int:
    """Syslog's number for a level of `logging`."""
    return next((number for least, number in PRIORITIES if level >= least), DEBUG_PRIORITY)


def encode_record_fields(record: logging.LogRecord) -> bytes:
    """A record in journald's native protocol."""
    fields: dict[str, object] = {
        "MESSAGE": record.getMessage(),
        "PRIORITY": priority_of(record.levelno),
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        "LOGGER": record.name,
    }
    extra = getattr(record, "headwater", None)
    if isinstance(extra, Mapping):
        fields |= {f"HEADWATER_{str(name).upper()}": value for name, value in extra.items()}
    if record.exc_info:
        fields["HEADWATER_TRACEBACK"] = logging.Formatter().formatException(record.exc_info)
    return b"".join(_encode_field(name, str(value)) for name, value in fields.items())


def _encode_field(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "replace")[:MAX_VALUE_BYTES]
    if b"\n" not in data:
        return name.encode("ascii") + b"=" + data + b"\n"
    return name.encode("ascii") + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"


def _show(value: object) -> str:
    text = str(value)
    is_plain = text and not any(char.isspace() or char in "\"'=" for char in text)
    return text if is_plain and text.isprintable() else repr(text)
