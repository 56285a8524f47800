"""A registrar without a network: an authority, a store, devices that ask."""

import itertools
from pathlib import Path

from headwater_gateway.registrar.authority import Authority
from headwater_gateway.registrar.desk import RegistrarDesk, RegistrarSettings
from headwater_gateway.registrar.store import RegistrarStore
from headwater_gateway.registrar.tokens import DeviceEntry, TokenEntry
from headwater_protocol.chain.genesis import encode_genesis
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.identifiers import ChainId, DeviceId
from headwater_protocol.messages.credential import (
    Credential,
    JoinRequest,
    RenewalRequest,
    sign_request,
)
from headwater_protocol.messages.token import TokenId, TokenSecret, token_digest
from tests.support.network import key, make_cast

NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
CAST = make_cast(shards=("shard-0", "shard-1"))
NETWORK = CAST.network
AUTHORITY = Authority.create("test", now_ms=NOW_MS, serial=bytes(16))
SHARDS = (ChainId("shard-0"), ChainId("shard-1"))
BROKERS = ("mqtts://one.example:8883", "mqtts://two.example:8883")


def secret_of(number: int) -> TokenSecret:
    return TokenSecret(number.to_bytes(16, "big"))


def token_id(number: int) -> TokenId:
    return TokenId(number.to_bytes(6, "big"))


def make_token(
    number: int,
    *,
    shard: ChainId | None = None,
    weight: int = 1,
    life_ms: int = HOUR_MS,
    now_ms: int = NOW_MS,
) -> TokenEntry:
    salt = b"%16d" % number
    return TokenEntry(
        token=token_id(number),
        salt=salt,
        digest=token_digest(salt, secret_of(number)),
        shard=shard,
        weight=weight,
        label="",
        created_ms=now_ms,
        expires_ms=now_ms + life_ms,
    )


def make_join(device: SecretKey, transport: SecretKey, number: int) -> JoinRequest:
    return JoinRequest(
        device=device.device,
        transport_key=transport.public_key,
        token=token_id(number),
        secret=secret_of(number),
    )


class Desk:
    """A registrar's desk over a store in a folder, with a clock that is set by hand."""

    def __init__(
        self, folder: Path, *, shards: tuple[ChainId, ...] = SHARDS, first_serial: int = 1
    ) -> None:
        self.now_ms = NOW_MS
        self.accepted: list[DeviceEntry] = []
        self.store = RegistrarStore(folder / "registrar.sqlite", network=NETWORK)
        serials = itertools.count(first_serial)
        self.desk = RegistrarDesk(
            settings=RegistrarSettings(
                network=NETWORK,
                genesis=encode_genesis(CAST.genesis),
                shards=shards,
                brokers=BROKERS,
            ),
            authority=AUTHORITY,
            store=self.store,
            on_accepted=self.accepted.append,
            now_ms=lambda: self.now_ms,
            entropy=lambda size: next(serials).to_bytes(size, "big"),
        )

    def give(self, *entries: TokenEntry) -> None:
        self.store.add_tokens(entries, self.now_ms)

    def join(self, name: str, number: int, *, transport: str | None = None) -> Credential:
        device, other = key(name), key(transport or f"{name}/transport")
        request = make_join(device, other, number)
        return self.desk.join(sign_request(device, other, NETWORK, request))

    def renew(self, name: str, sequence: int, *, transport: str) -> Credential:
        device, other = key(name), key(transport)
        request = RenewalRequest(
            device=device.device, transport_key=other.public_key, sequence=sequence
        )
        return self.desk.renew(sign_request(device, other, NETWORK, request))

    def revoke(self, name: str) -> None:
        self.store.revoke_device(device_id(name), self.now_ms)


def device_id(name: str) -> DeviceId:
    return key(name).device
