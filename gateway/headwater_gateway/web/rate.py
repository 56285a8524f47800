"""How often an address may ask: a bucket of tries each, refilled with time.

An address is an IPv4 address, or the first 64 bits of an IPv6 one, which is what one household or
host has to itself.
"""

import ipaddress
from collections import OrderedDict
from typing import Final

MAX_ADDRESSES: Final = 10_000
"""Remembered; the one that was silent the longest is forgotten, and begins with a full bucket."""


class RateLimit:
    """A token bucket an address; time is an argument.

    Args:
        burst: Requests that an address may send at once.
        refill_ms: After which it may send one more.
        max_addresses: Remembered at most.
    """

    def __init__(self, *, burst: int, refill_ms: int, max_addresses: int = MAX_ADDRESSES) -> None:
        self._burst = burst
        self._refill_ms = refill_ms
        self._max_addresses = max_addresses
        self._full_ms: OrderedDict[str, int] = OrderedDict()
        """When each bucket will be full again."""

    def wait_ms(self, address: str, now_ms: int) -> int:
        """0 takes a try; otherwise nothing is taken, and that long is to wait."""
        name = _network_of(address)
        full_ms = max(now_ms, self._full_ms.get(name, now_ms))
        wait_ms = full_ms - now_ms - (self._burst - 1) * self._refill_ms
        if wait_ms > 0:
            self._full_ms.move_to_end(name)
            return wait_ms
        self._full_ms[name] = full_ms + self._refill_ms
        self._full_ms.move_to_end(name)
        while len(self._full_ms) > self._max_addresses:
            self._full_ms.popitem(last=False)
        return 0


def _network_of(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 6 and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
