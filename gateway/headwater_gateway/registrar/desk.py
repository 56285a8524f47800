"""The registrar at work: verifies a request, asks the store, and answers.

Its calls may wait for the disk, so a server makes them from a thread; the store takes them one by
one. What the ledger has to say is asked of the gateway's machine on its own thread.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headwater_gateway.registrar.authority import (
    DEVICE_LIFE_MS,
    SERIAL_BYTES,
    Authority,
    IssuedCertificate,
)
from headwater_gateway.registrar.store import RegistrarStore
from headwater_gateway.registrar.tokens import DeviceEntry, Refused
from headwater_protocol.crypto.signing import DirectVerifier, Verifier
from headwater_protocol.identifiers import ChainId, DeviceId, Network, TimeMs
from headwater_protocol.messages.credential import (
    Credential,
    JoinRequest,
    RenewalRequest,
    decode_request,
    verify_request,
)
from headwater_protocol.reasons import ReasonCode


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrarSettings:
    """What a registrar tells the devices that it takes in."""

    network: Network
    genesis: bytes
    """Encoded."""
    shards: tuple[ChainId, ...]
    """Served here."""
    brokers: tuple[str, ...]
    """Where devices connect, the best first."""
    certificate_life_ms: int = DEVICE_LIFE_MS


class RegistrarDesk:
    """Takes requests of devices.

    Args:
        settings: What it tells.
        authority: Certifies transport keys.
        store: Keeps what was promised.
        on_accepted: Told of each device that joined, from the calling thread.
        now_ms: UTC.
        verifier: Checks signatures.
        entropy: Gives serial numbers.
    """

    def __init__(
        self,
        *,
        settings: RegistrarSettings,
        authority: Authority,
        store: RegistrarStore,
        on_accepted: Callable[[DeviceEntry], None],
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        verifier: Verifier | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.settings = settings
        self.authority = authority
        self._store = store
        self._on_accepted = on_accepted
        self._now_ms = now_ms
        self._verifier = verifier or DirectVerifier()
        self._entropy = entropy
        self._lock = threading.Lock()

    def join(self, body: bytes) -> Credential:
        """Take a device in that shows a token.

        Raises:
            InvalidMessage: If the request does not decode or verify, or is refused.
            StorageError: If the store is unusable.
        """
        request = self._open(body)
        if not isinstance(request, JoinRequest):
            raise Refused(ReasonCode.BAD_ENCODING, "expected a request to join")
        with self._lock:
            entry = self._store.accept(
                request,
                shards=self.settings.shards,
                issue=self._issue,
                now_ms=self._now_ms(),
            )
        self._on_accepted(entry)
        return self._answer(entry)

    def renew(self, body: bytes) -> Credential:
        """Give a device another certificate; errors as `join`."""
        request = self._open(body)
        if not isinstance(request, RenewalRequest):
            raise Refused(ReasonCode.BAD_ENCODING, "expected a request to renew")
        with self._lock:
            entry = self._store.renew(request, issue=self._issue, now_ms=self._now_ms())
        return self._answer(entry)

    def find(self, device: DeviceId) -> DeviceEntry:
        """A device that joined here and was not revoked.

        Raises:
            Refused: If there is none.
            StorageError: If the store is unusable.
        """
        with self._lock:
            entry = self._store.device(device)
        if entry is None:
            raise Refused(ReasonCode.NOT_ENROLLED, f"{device.hex()[:16]} did not join here")
        if entry.revoked_ms is not None:
            raise Refused(ReasonCode.REVOKED, f"{device.hex()[:16]} was revoked")
        return entry

    def list_devices(self) -> Sequence[DeviceEntry]:
        """All that joined here."""
        with self._lock:
            return self._store.devices()

    def _open(self, body: bytes) -> JoinRequest | RenewalRequest:
        signed = decode_request(body)
        verify_request(signed, network=self.settings.network, verifier=self._verifier)
        return signed.request

    def _issue(self, device: DeviceId, transport_key: bytes) -> IssuedCertificate:
        try:
            return self.authority.issue_client(
                device.hex(),
                transport_key,
                now_ms=self._now_ms(),
                serial=self._entropy(SERIAL_BYTES),
                life_ms=self.settings.certificate_life_ms,
            )
        except ValueError as error:
            raise Refused(ReasonCode.OUT_OF_BOUNDS, f"no transport key: {error}") from None

    def _answer(self, entry: DeviceEntry) -> Credential:
        return Credential(
            shard=entry.shard,
            weight=entry.weight,
            brokers=self.settings.brokers,
            certificate=entry.certificate.encode(),
            not_after_ms=TimeMs(entry.not_after_ms),
        )
