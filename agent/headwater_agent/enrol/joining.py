"""Joining a network with a token, step by step; each step is on disk before the next begins.

A cut at any place leaves a folder with which the same command goes on: the key is made once, the
same token answers the same key again, and `agent.toml` comes last.
"""

import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

from headwater_agent.config_template import format_template
from headwater_agent.enrol.certificate import compute_fingerprint
from headwater_agent.enrol.client import (
    RegistrarClient,
    RegistrarRefusal,
    load_tls,
    make_tls,
)
from headwater_agent.enrol.folder import (
    PUBLIC_MODE,
    SECRET_MODE,
    Enrolment,
    EnrolmentFolder,
    load_enrolment,
    save_enrolment,
    write_whole,
)
from headwater_agent.enrol.proof import verify_status
from headwater_agent.enrol.transport import format_credential, make_transport_key
from headwater_agent.store import StateStore
from headwater_protocol.chain.device import Device
from headwater_protocol.chain.genesis import Genesis, decode_genesis, genesis_network
from headwater_protocol.crypto.signing import DirectVerifier, SecretKey
from headwater_protocol.errors import ConfigError, InvalidMessage, TransportError
from headwater_protocol.identifiers import ChainId
from headwater_protocol.messages.credential import JoinRequest, sign_request
from headwater_protocol.messages.token import ABBREVIATED_BYTES, Token
from headwater_protocol.reasons import ReasonCode

FIRST_POLL_S: Final = 0.5
LAST_POLL_S: Final = 10.0
POLL_GROWTH: Final = 1.5
MAX_ATTEMPTS: Final = 5
"""To reach the registrar, for each thing that is asked of it."""
FIRST_PAUSE_S: Final = 1.0

T = TypeVar("T")

TLS_SECTION: Final = """\
[tls]                              # what brokers know this device by; renewed by itself
ca_file = "ca.pem"
cert_file = "broker.pem"
key_file = "broker.pem"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinPlan:
    """What was asked for on the command line."""

    url: str
    token: Token
    folder: EnrolmentFolder
    ca_file: Path | None
    """Vouches for the registrar in place of the network's authority."""
    fingerprint: bytes | None
    """SHA-256 of the authority, in place of what the token says."""
    data: str
    """The data's path, as it is to stand in the configuration."""
    wait_s: float
    """How long to wait for the ledger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """What came of it."""

    key: SecretKey
    enrolment: Enrolment
    entry: Device | None
    """On the ledger, proven; None if that took longer than was waited."""


class Joining:
    """The steps; `tell` is given a line about each.

    Args:
        plan: What was asked for.
        tell: Shown to whoever waits.
        now_ms: UTC.
        sleep: Takes seconds.
    """

    def __init__(
        self,
        plan: JoinPlan,
        *,
        tell: Callable[[str], None],
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._plan = plan
        self._folder = plan.folder
        self._tell = tell
        self._now_ms = now_ms
        self._sleep = sleep

    def run(self) -> Joined:
        """Join, or go on where the last attempt was cut off.

        Raises:
            ConfigError: If something is to be corrected by the user.
            InvalidMessage: If the registrar refuses, or shows what does not hold.
            TransportError: If it cannot be reached.
            StorageError: If a file cannot be written.
        """
        key = self._folder.open_key()
        self._tell(f"device {key.device.hex()}")
        client = RegistrarClient(self._plan.url, self._trust())
        genesis = self._get_genesis(client)
        enrolment = load_enrolment(self._folder.enrolment)
        network = genesis_network(genesis)
        if enrolment is None or not self._folder.broker.exists():
            enrolment = self._join(client, key, genesis)
        elif enrolment.network != network.hex():
            raise ConfigError(
                "--out",
                f"{self._folder.path} is of network {enrolment.network[:16]}…",
                fix="name another folder",
            )
        else:
            self._tell(f"joined already: {enrolment.shard}, weight {enrolment.weight}")
        entry = self._wait_for_ledger(client, key, genesis, enrolment)
        if entry is not None and not enrolment.is_on_ledger:
            enrolment = replace(enrolment, is_on_ledger=True, weight=entry.weight)
            save_enrolment(self._folder.enrolment, enrolment)
        self._write_config(key, enrolment)
        return Joined(key=key, enrolment=enrolment, entry=entry)

    def _trust(self) -> ssl.SSLContext:
        plan = self._plan
        pem = self._read_authority()
        if pem is None:
            blind = RegistrarClient(
                plan.url, None if plan.ca_file is None else load_tls(plan.ca_file)
            )
            pem = self._again(blind.fetch_authority)
        found = compute_fingerprint(pem)
        if not self._is_pinned(found):
            raise ConfigError(
                "--token" if plan.fingerprint is None else "--fingerprint",
                f"the registrar shows authority {found.hex()[:16]}…, which it does not name",
                fix="check URL and token; if both are right, somebody is in between",
            )
        write_whole(self._folder.authority, pem, mode=PUBLIC_MODE)
        return make_tls(pem) if plan.ca_file is None else load_tls(plan.ca_file)

    def _read_authority(self) -> bytes | None:
        try:
            pem = self._folder.authority.read_bytes()
            return pem if self._is_pinned(compute_fingerprint(pem)) else None
        except (OSError, InvalidMessage):
            return None

    def _is_pinned(self, found: bytes) -> bool:
        if self._plan.fingerprint is not None:
            return found == self._plan.fingerprint
        return self._plan.token.names_authority(found)

    def _get_genesis(self, client: RegistrarClient) -> Genesis:
        with _ignored():
            known = decode_genesis(self._folder.genesis.read_bytes())
            if self._plan.token.names_network(genesis_network(known)):
                return known
        data = self._again(client.fetch_genesis)
        genesis = decode_genesis(data)
        network = genesis_network(genesis)
        if not self._plan.token.names_network(network):
            raise ConfigError(
                "--token",
                f"is for network {self._plan.token.network.hex()[:16]}…, the registrar's is "
                f"{network[:ABBREVIATED_BYTES].hex()[:16]}…",
                fix="check URL and token",
            )
        write_whole(self._folder.genesis, data, mode=PUBLIC_MODE)
        self._tell(f"network {network.hex()} ({genesis.name})")
        return genesis

    def _join(self, client: RegistrarClient, key: SecretKey, genesis: Genesis) -> Enrolment:
        transport = make_transport_key()
        network = genesis_network(genesis)
        request = JoinRequest(
            device=key.device,
            transport_key=transport.public_key,
            token=self._plan.token.token,
            secret=self._plan.token.secret,
        )
        signed = sign_request(key, transport, network, request)
        credential = self._again(lambda: client.join(signed))
        if credential.shard not in genesis.shards:
            raise ConfigError(
                "URL", f"the genesis has no {credential.shard}", fix="ask the operator"
            )
        write_whole(self._folder.broker, format_credential(transport, credential), mode=SECRET_MODE)
        enrolment = Enrolment(
            url=self._plan.url,
            network=network.hex(),
            shard=credential.shard,
            weight=credential.weight,
            brokers=credential.brokers,
            ca=None if self._plan.ca_file is None else str(self._plan.ca_file.absolute()),
            sequence=0,
            is_on_ledger=False,
        )
        save_enrolment(self._folder.enrolment, enrolment)
        self._tell(f"joined {enrolment.shard}, weight {enrolment.weight}")
        return enrolment

    def _wait_for_ledger(
        self, client: RegistrarClient, key: SecretKey, genesis: Genesis, enrolment: Enrolment
    ) -> Device | None:
        deadline_ms = self._now_ms() + int(self._plan.wait_s * 1_000)
        pause_s, is_told = FIRST_POLL_S, False
        while True:
            status = self._again(lambda: client.fetch_status(key.device))
            entry = verify_status(
                status,
                genesis=genesis,
                shard=ChainId(enrolment.shard),
                device=key.device,
                fetch_epoch=lambda epoch: self._again(lambda: client.fetch_epoch(epoch)),
                now_ms=self._now_ms(),
                verifier=DirectVerifier(),
            )
            if entry is not None:
                height = entry.enrolled_height
                self._tell(f"on the ledger since block {height}, proven from the genesis")
                return entry
            if self._now_ms() >= deadline_ms:
                return None
            if not is_told:
                self._tell("waiting for the ledger")
                is_told = True
            self._sleep(pause_s)
            pause_s = min(LAST_POLL_S, pause_s * POLL_GROWTH)

    def _write_config(self, key: SecretKey, enrolment: Enrolment) -> None:
        folder = self._folder
        if not folder.state.exists():
            StateStore(folder.state, device=key.device, network=None, creates=True).close()
        if folder.config.exists():
            return
        text = format_template(
            brokers=list(enrolment.brokers),
            genesis=folder.genesis.name,
            network=enrolment.network,
            shard=enrolment.shard,
            key=folder.key.name,
            state=folder.state.name,
            data=self._plan.data,
        )
        text = text.replace("weight = 1\n", f"weight = {enrolment.weight}\n", 1)
        text = text.replace(
            '# enrolment = "enrolment.json"\n', f'enrolment = "{folder.enrolment.name}"\n', 1
        )
        start = text.index("# [tls]")
        end = text.index("# [trust]")
        text = text[:start] + TLS_SECTION + "\n" + text[end:]
        write_whole(folder.config, text.encode(), mode=PUBLIC_MODE)

    def _again(self, ask: Callable[[], T]) -> T:
        """Ask, and ask again where there was no answer or the registrar is busy."""
        pause_s = FIRST_PAUSE_S
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                return ask()
            except (TransportError, RegistrarRefusal) as error:
                is_busy = isinstance(error, RegistrarRefusal) and error.refusal is ReasonCode.BUSY
                if attempt == MAX_ATTEMPTS or not (isinstance(error, TransportError) or is_busy):
                    raise
                self._tell(f"{error}; trying again")
            self._sleep(pause_s)
            pause_s *= 2
        raise TransportError(f"{self._plan.url} does not answer")


@contextmanager
def _ignored() -> Iterator[None]:
    """For a file that may be missing or damaged, where there is another way to get it."""
    try:
        yield
    except (OSError, InvalidMessage):
        return
