"""Standard output that may be a file on a full disk, or a pipe whose reader has gone."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from headwater_firmware_sim.output.whole import explain


@contextmanager
def standard_output() -> Iterator[None]:
    """Print in this block; all of it is written when the block ends.

    Raises:
        ConfigError: If it cannot be written.
        BrokenPipeError: If nobody reads it.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        _silence()
        if isinstance(error, BrokenPipeError):
            raise
        raise explain(error, name="standard output") from error


def _silence() -> None:
    """What is still buffered goes nowhere, so that the end of the process does not fail on it."""
    try:
        descriptor = sys.stdout.fileno()
    except OSError:
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, descriptor)
    finally:
        os.close(nowhere)
