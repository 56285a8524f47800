"""A gateway whose clock is wrong: `python -m headwater_firmware_sim.machines.shifted_clock MS ...`.

The clock that the gateway reads for blocks, updates and requests is moved. CometBFT is a program
of its own and keeps the machine's; no ledger reads its times.
"""

import sys
import time
from collections.abc import Callable


def shift(read_ns: Callable[[], int], offset_ms: int) -> Callable[[], int]:
    """A clock that is `offset_ms` ahead of `read_ns`."""
    return lambda: read_ns() + offset_ms * 1_000_000


def main() -> int:
    """Run `headwater-gateway` with the arguments after the first, which is the offset."""
    time.time_ns = shift(time.time_ns, int(sys.argv[1]))
    from headwater_gateway.cli import main as gateway  # noqa: PLC0415  # after the clock is moved

    return gateway(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
