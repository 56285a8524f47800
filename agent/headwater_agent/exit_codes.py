"""What the process's end means, in one place for the command line and the service.

| code | name | means | a service manager should |
|---|---|---|---|
| 0 | ok | done, or stopped by a signal | nothing |
| 1 | failed | something that may pass; `doctor`: at least one line is not ok | start it again |
| 2 | config | something to be corrected by the owner, named in one line | leave it |
| 3 | damaged | the state was damaged and is set aside under a dated name | leave it |
| 4 | in_use | another process signs with this state | start it again later |
| 5 | disk | the disk is full, read-only or failing | start it again later |
"""

from enum import IntEnum
from typing import Final

from headwater_agent.errors import DamagedState, DiskUnavailable, StateInUse, WrongState
from headwater_protocol.errors import ConfigError, HeadwaterError


class ExitCode(IntEnum):
    """Exit codes of every command."""

    OK = 0
    FAILED = 1
    CONFIG = 2
    DAMAGED = 3
    IN_USE = 4
    DISK = 5


NOT_RESTARTED: Final = (ExitCode.CONFIG, ExitCode.DAMAGED)
"""Starting again would end the same way until somebody corrects something."""


def exit_code_of(error: HeadwaterError) -> ExitCode:
    """The code that a command ends with after `error`."""
    match error:
        case ConfigError() | WrongState():
            return ExitCode.CONFIG
        case DamagedState():
            return ExitCode.DAMAGED
        case StateInUse():
            return ExitCode.IN_USE
        case DiskUnavailable():
            return ExitCode.DISK
        case _:
            return ExitCode.FAILED
