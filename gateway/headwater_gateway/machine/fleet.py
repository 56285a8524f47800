"""What devices report of themselves: who is there, and which class each of them is.

A class that differs from the ledger's becomes a transaction. A status is retained and small, but
anybody whom the broker lets may send one, and a signature takes time to check: of each device one
is checked in `CHECK_INTERVAL_MS`, and only if it says something that the ledger does not.
"""

from collections.abc import Iterator
from typing import Final

from headwater_gateway.machine.metrics import Metrics
from headwater_protocol.chain.transaction import DeclareCapability
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.errors import InvalidMessage
from headwater_protocol.identifiers import ChainId, DeviceId, Network
from headwater_protocol.messages.status import SignedStatus, decode_status, verify_status
from headwater_shard.shardchain.records import DEVICES
from headwater_shard.state.state import State

CHECK_INTERVAL_MS: Final = 1_000

MAX_REPORTS: Final = 100_000
"""Devices whose last report is kept; of others it is forgotten, oldest first."""

MAX_DECLARATIONS_UNDER_WAY: Final = 100


class Fleet:
    """The devices of one shard.

    Args:
        network: Part of what they sign.
        state: The shard's.
        verifier: Checks their signatures.
        metrics: Counted into.
    """

    def __init__(
        self, *, network: Network, state: State, verifier: Verifier, metrics: Metrics
    ) -> None:
        self._metrics = metrics
        self._network = network
        self._state = state
        self._verifier = verifier
        self._reports: dict[DeviceId, SignedStatus] = {}
        self._checked_ms: dict[DeviceId, int] = {}
        self._waiting: dict[DeviceId, SignedStatus] = {}
        """Classes that the ledger does not have."""
        self.num_refused = 0
        """Statuses of strangers, or not signed by their device."""

    @property
    def reports(self) -> dict[DeviceId, SignedStatus]:
        """The last report of each device, verified."""
        return dict(self._reports)

    def receive(self, sender: DeviceId, payload: bytes, now_ms: int) -> bool:
        """Take a message of a status topic; whether something is owed to the ledger by it.

        Nothing is raised, whatever it is.
        """
        try:
            signed = decode_status(payload)
        except InvalidMessage:
            self._metrics.garbage += 1
            return False
        report = signed.status.report
        if signed.status.device != sender or self._state.get(DEVICES, sender) is None:
            self.num_refused += 1
            return False
        if report is None:
            return False
        known = self._reports.get(sender)
        last = None if known is None else known.status.report
        if last is not None and report.number <= last.number:
            return False
        checked_ms = self._checked_ms.get(sender)
        if checked_ms is not None and checked_ms <= now_ms < checked_ms + CHECK_INTERVAL_MS:
            return False
        self._checked_ms[sender] = now_ms
        try:
            verify_status(signed, network=self._network, verifier=self._verifier)
        except InvalidMessage:
            self.num_refused += 1
            return False
        self._reports.pop(sender, None)
        while len(self._reports) >= MAX_REPORTS:
            oldest = next(iter(self._reports))
            del self._reports[oldest]
            self._checked_ms.pop(oldest, None)
            self._waiting.pop(oldest, None)
        self._reports[sender] = signed
        self._waiting.pop(sender, None)
        if self._is_news(signed):
            self._waiting[sender] = signed
            return True
        return False

    def on_finalized(self, state: State) -> None:
        """The ledger went on."""
        self._state = state
        for device in [key for key, signed in self._waiting.items() if not self._is_news(signed)]:
            del self._waiting[device]

    def due(self, shard: ChainId) -> Iterator[tuple[str, DeclareCapability]]:
        """Tickets and transactions that are owed, the longest waiting first."""
        for device in list(self._waiting)[:MAX_DECLARATIONS_UNDER_WAY]:
            signed = self._waiting[device]
            report = signed.status.report
            number = 0 if report is None else report.number
            yield f"{shard}/capability/{device.hex()}/{number}", DeclareCapability(status=signed)

    def _is_news(self, signed: SignedStatus) -> bool:
        device, report = self._state.get(DEVICES, signed.status.device), signed.status.report
        return (
            device is not None
            and report is not None
            and report.number > device.declared
            and report.capability is not device.capability
        )
