"""Renewing the certificate while the device runs: a thread that mostly sleeps.

A third of the certificate's life before its end it asks the registrar for another one, over a new
transport key; a broker that says that the certificate has expired makes it ask at once. The file
changes whole, and the next connection reads it. The connection that is up goes on: a certificate
is looked at when a connection begins.
"""

import logging
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from headwater_agent.config import AgentConfig
from headwater_agent.enrol.certificate import read_validity_ms
from headwater_agent.enrol.client import RegistrarClient, RegistrarRefusal, load_tls
from headwater_agent.enrol.folder import (
    MAX_BROKER_PEM_BYTES,
    SECRET_MODE,
    Enrolment,
    load_enrolment,
    save_enrolment,
    write_whole,
)
from headwater_agent.enrol.transport import format_credential, make_transport_key
from headwater_agent.machine.backoff import Jitter, compute_wait_ms
from headwater_protocol.crypto.hashing import Domain, hash_bytes
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.errors import BadEncoding, ConfigError, HeadwaterError
from headwater_protocol.identifiers import Network
from headwater_protocol.messages.credential import RenewalRequest, sign_request
from headwater_protocol.reasons import ReasonCode

LIFE_SHARE_LEFT: Final = 3
"""A certificate is renewed when one of so many parts of its life is left."""
FIRST_RETRY_MS: Final = 30_000
MAX_RETRY_MS: Final = 6 * 3_600_000
MAX_SLEEP_S: Final = 3_600.0
"""A clock that was set is seen within this time."""

_log = logging.getLogger("headwater.agent")


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalFiles:
    """What a renewal reads and writes."""

    enrolment: Path
    certificate: Path
    """Key and certificate in one file."""
    authority: Path
    """Vouches for the registrar, unless the enrolment names another file."""


def compute_due_ms(*, begin_ms: int, end_ms: int) -> int:
    """When to renew what is valid from `begin_ms` to `end_ms`."""
    return end_ms - max(0, end_ms - begin_ms) // LIFE_SHARE_LEFT


def renew(files: RenewalFiles, key: SecretKey, *, network: Network, now_ms: int) -> int:
    """Ask for a certificate over a new transport key and put it in place; its end.

    Args:
        files: What it reads and writes.
        key: The device's.
        network: Part of what is signed.
        now_ms: UTC, the least that the request's number is.

    Raises:
        RegistrarRefusal: With the reason.
        InvalidMessage: If the answer does not hold.
        TransportError: If the registrar cannot be reached.
        ConfigError: If a file is missing.
        StorageError: If a file cannot be written.
    """
    client, enrolment = open_registrar(files)
    sequence = max(enrolment.sequence + 1, now_ms)
    # Before it is sent: a number that was used once must not be used for another key.
    save_enrolment(files.enrolment, replace(enrolment, sequence=sequence))
    transport = make_transport_key()
    request = RenewalRequest(
        device=key.device, transport_key=transport.public_key, sequence=sequence
    )
    credential = client.renew(sign_request(key, transport, network, request))
    write_whole(files.certificate, format_credential(transport, credential), mode=SECRET_MODE)
    return credential.not_after_ms


def open_registrar(files: RenewalFiles) -> tuple[RegistrarClient, Enrolment]:
    """Whom to ask, and what it said at last.

    Raises:
        ConfigError: If a file is missing or damaged.
    """
    enrolment = load_enrolment(files.enrolment)
    if enrolment is None:
        raise ConfigError(
            "enrolment", f"{files.enrolment} does not exist", fix="enrol again, or drop the key"
        )
    tls = load_tls(files.authority if enrolment.ca is None else Path(enrolment.ca))
    return RegistrarClient(enrolment.url, tls), enrolment


class Renewer:
    """Renews in time; `start`, `hurry` when a broker says so, `stop`.

    Args:
        files: What it reads and writes.
        key: The device's.
        network: Part of what is signed.
        jitter: Spreads a fleet's attempts.
        now_ms: UTC.
    """

    def __init__(
        self,
        files: RenewalFiles,
        key: SecretKey,
        *,
        network: Network,
        jitter: Jitter,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._files = files
        self._key = key
        self._network = network
        self._jitter = jitter
        self._now_ms = now_ms
        self._wake = threading.Event()
        self._is_stopping = False
        self._is_hurried = False
        self._is_in_doubt = False
        self._attempt = 0
        self._retry_ms = 0
        self._thread = threading.Thread(target=self._run, name="renewal", daemon=True)

    def start(self) -> None:
        """Begin to watch the certificate."""
        self._thread.start()

    def hurry(self, *, is_certain: bool) -> None:
        """A broker did not let the device in.

        Args:
            is_certain: It refused the certificate: renew now, unless that was just tried. Otherwise
                ask only how the enrolment stands, which says whether it was revoked.
        """
        if is_certain:
            self._is_hurried = True
        else:
            self._is_in_doubt = True
        self._wake.set()

    def on_refused(self, is_certain: bool) -> None:
        """As `hurry`, for a shell that tells what a broker did."""
        self.hurry(is_certain=is_certain)

    def stop(self) -> None:
        """End; a request that is under way is left behind."""
        self._is_stopping = True
        self._wake.set()

    def _run(self) -> None:
        while not self._is_stopping:
            now_ms = self._now_ms()
            due_ms = self._read_due_ms()
            is_renewal = self._is_hurried or due_ms <= now_ms
            if is_renewal or self._is_in_doubt:
                due_ms = max(now_ms, self._retry_ms)
            if due_ms <= now_ms:
                self._is_hurried = self._is_in_doubt = False
                self._try(self._renew if is_renewal else self._ask, now_ms)
                continue
            self._wake.wait(min(MAX_SLEEP_S, (due_ms - now_ms) / 1_000))
            self._wake.clear()

    def _read_due_ms(self) -> int:
        """When the certificate is to be renewed; now if it cannot be read."""
        try:
            with self._files.certificate.open("rb") as file:
                data = file.read(MAX_BROKER_PEM_BYTES)
            begin_ms, end_ms = read_validity_ms(data)
        except (OSError, BadEncoding):
            return 0
        return compute_due_ms(begin_ms=begin_ms, end_ms=end_ms)

    def _renew(self, now_ms: int) -> None:
        end_ms = renew(self._files, self._key, network=self._network, now_ms=now_ms)
        _log.info("event=certificate_renewed until_ms=%d", end_ms)

    def _ask(self, now_ms: int) -> None:
        client, _ = open_registrar(self._files)
        client.fetch_status(self._key.device)

    def _try(self, call: Callable[[int], None], now_ms: int) -> None:
        try:
            call(now_ms)
        except (HeadwaterError, OSError, ssl.SSLError) as error:
            self._attempt += 1
            wait_ms = compute_wait_ms(
                attempt=self._attempt - 1,
                first_ms=FIRST_RETRY_MS,
                max_ms=MAX_RETRY_MS,
                jitter=self._jitter,
            )
            is_final = isinstance(error, RegistrarRefusal) and error.refusal in {
                ReasonCode.REVOKED,
                ReasonCode.NOT_ENROLLED,
            }
            self._retry_ms = now_ms + (MAX_RETRY_MS if is_final else wait_ms)
            _log.warning(
                "event=renewal_failed retry_ms=%d detail=%r",
                *(self._retry_ms - now_ms, str(error)),
            )
        else:
            self._attempt = 0
            # One that is refused although it is new is not helped by another one right away.
            self._retry_ms = now_ms + FIRST_RETRY_MS


def make_renewer(config: AgentConfig, key: SecretKey) -> Renewer | None:
    """What renews a device's certificate; None where nobody gave it one by a token.

    Raises:
        ConfigError: If the configuration names an enrolment, and not the files that go with it.
    """
    if config.enrolment is None:
        return None
    if config.tls.cert_file is None or config.tls.ca_file is None:
        raise ConfigError(
            "tls", "lacks ca_file or cert_file, but enrolment is set", fix="give both, or drop it"
        )
    if config.tls.key_file != config.tls.cert_file:
        raise ConfigError(
            "tls.key_file",
            "is another file than cert_file",
            fix="name one file for both: they change together",
        )
    return Renewer(
        RenewalFiles(
            enrolment=config.enrolment,
            certificate=config.tls.cert_file,
            authority=config.tls.ca_file,
        ),
        key,
        network=Network(config.network),
        jitter=Jitter(hash_bytes(Domain.SEED, key.seed, b"renewal")),
    )
