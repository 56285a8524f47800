"""A revoked device is shut out of a real Mosquitto, and its live session ends."""

import asyncio
import time
from pathlib import Path

import pytest
from cryptography import x509

from headwater_agent.enrol.transport import format_credential
from headwater_gateway.registrar import keeper as keeper_module
from headwater_gateway.registrar.authority import CRL_BACKDATE_MS
from headwater_gateway.registrar.desk import RegistrarDesk, RegistrarSettings
from headwater_gateway.registrar.keeper import Keeper, KeeperSettings, make_revocation_file
from headwater_gateway.registrar.store import RegistrarStore
from headwater_protocol.chain.genesis import encode_genesis
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.identifiers import ChainId, DeviceId
from headwater_protocol.messages.credential import sign_request
from tests.support.mosquitto import Client, Mosquitto, make_authority, make_broker, wall_ms
from tests.support.network import key
from tests.support.registrar import CAST, NETWORK, SHARDS, make_join, make_token

TIMEOUT_S = 15.0


class Told:
    """A gateway that notes what it is told."""

    def __init__(self) -> None:
        self.enrolled: set[DeviceId] = set()
        self.revoked: set[DeviceId] = set()

    def enrol(self, shard: ChainId, device: DeviceId, *, weight: int) -> None:
        self.enrolled.add(device)

    def revoke(self, shard: ChainId, device: DeviceId) -> None:
        self.revoked.add(device)


class Office:
    """Store, authority and keeper of a network whose broker is real."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = make_authority()
        self.crl_file = folder / "revoked.crl"
        self.stores = [
            RegistrarStore(folder / "registrar.sqlite", network=NETWORK) for _ in range(2)
        ]
        make_revocation_file(self.stores[0], self.authority, self.crl_file, now_ms=wall_ms())
        self.broker: Mosquitto = make_broker(
            folder / "broker", CAST.genesis, self.authority, crl_file=self.crl_file
        )
        self.told = Told()
        self.desk = RegistrarDesk(
            settings=RegistrarSettings(
                network=NETWORK,
                genesis=encode_genesis(CAST.genesis),
                shards=SHARDS,
                brokers=(self.broker.url,),
            ),
            authority=self.authority,
            store=self.stores[0],
            on_accepted=lambda entry: None,
        )

    def accept(self, name: str, number: int) -> Path:
        """A device's key and certificate in one file."""
        transport = SecretKey(bytes([number]) * 32)
        now_ms = wall_ms()
        self.stores[0].add_tokens([make_token(number, now_ms=now_ms)], now_ms)
        request = make_join(key(name), transport, number)
        credential = self.desk.join(sign_request(key(name), transport, NETWORK, request))
        path = self.folder / f"{name}.pem"
        path.write_bytes(format_credential(transport, credential))
        return path

    def keeper(self, reload: tuple[str, ...] | None = None) -> Keeper:
        command = ("kill", "-HUP", str(self.broker.pid)) if reload is None else reload
        return Keeper(
            settings=KeeperSettings(
                crl_file=self.crl_file,
                reload=command,
                brokers=(self.broker.url,),
                ca_file=self.folder / "broker" / "ca.pem",
            ),
            store=self.stores[1],
            authority=self.authority,
            gateway=self.told,
            now_ms=wall_ms,
        )

    def connect(self, certificate: Path) -> Client:
        return Client(self.broker, self.folder / "broker" / "ca.pem", certificate)

    def run(self, keeper: Keeper, until) -> None:
        """Until something is true, or time is up."""

        async def scenario() -> None:
            keeper.start()
            running = asyncio.create_task(keeper.run())
            deadline = time.monotonic() + TIMEOUT_S
            try:
                while not await asyncio.to_thread(until):
                    assert time.monotonic() < deadline, self.broker.log.read_text()
                    assert not running.done(), running
                    await asyncio.sleep(0.05)
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

        asyncio.run(scenario())

    def is_cut(self, name: str) -> bool:
        entry = self.stores[0].device(key(name).device)
        return entry is not None and entry.cut_ms is not None

    def close(self) -> None:
        self.broker.stop()
        for store in self.stores:
            store.close()


@pytest.fixture
def office(tmp_path, monkeypatch):
    monkeypatch.setattr(keeper_module, "WATCH_S", 0.05)
    monkeypatch.setattr(keeper_module, "FIRST_RETRY_S", 0.1)
    office = Office(tmp_path)
    yield office
    office.close()


@pytest.mark.broker
def test_a_revoked_device_is_cut_off_and_does_not_come_back(office):
    certificates = {name: office.accept(name, number) for number, name in enumerate("ab", start=1)}
    with (
        office.broker,
        office.connect(certificates["a"]) as a,
        office.connect(certificates["b"]) as b,
    ):
        assert a.is_let_in()
        assert b.is_let_in()

        def revoke_and_wait() -> bool:
            # As the command line does it: in another connection, while the gateway runs.
            if not office.told.revoked:
                office.stores[0].revoke_device(key("a").device, wall_ms())
            return office.is_cut("a")

        office.run(office.keeper(), revoke_and_wait)
        assert a.ended.wait(TIMEOUT_S)
        assert not b.ended.is_set()
        with office.connect(certificates["a"]) as again:
            assert not again.is_let_in()
        with office.connect(certificates["b"]) as again:
            assert again.is_let_in()
    assert office.told.revoked == {key("a").device}
    assert office.told.enrolled >= {key("b").device}


@pytest.mark.broker
def test_a_gateway_that_was_killed_between_goes_on_where_it_was(office):
    certificate = office.accept("a", 1)
    office.stores[0].revoke_device(key("a").device, wall_ms())
    with office.broker, office.connect(certificate) as device:
        assert device.is_let_in(), "the broker has not read any list yet"
        office.run(office.keeper(), lambda: office.is_cut("a"))
        assert device.ended.wait(TIMEOUT_S)


@pytest.mark.broker
def test_a_broker_that_is_away_is_tried_until_it_is_there(office):
    office.accept("a", 1)
    office.stores[0].revoke_device(key("a").device, wall_ms())
    keeper = office.keeper(reload=("true",))
    attempts = 0

    def start_late() -> bool:
        nonlocal attempts
        attempts += 1
        if attempts == 10:
            assert not office.is_cut("a")
            office.broker.start()
        return office.is_cut("a")

    # The broker has no process yet, so the command to reload it is another one.
    office.run(keeper, start_late)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("false",), "exit code 1"),
        (("no-such-command-anywhere",), "No such file"),
        (("sh", "-c", "echo wrong >&2; exit 3"), "exit code 3: wrong"),
    ],
)
def test_a_reload_that_fails_is_told_and_tried_again(tmp_path, monkeypatch, caplog, command, words):
    monkeypatch.setattr(keeper_module, "WATCH_S", 0.02)
    monkeypatch.setattr(keeper_module, "FIRST_RETRY_S", 0.02)
    with (
        RegistrarStore(tmp_path / "registrar.sqlite", network=NETWORK) as store,
        RegistrarStore(tmp_path / "registrar.sqlite", network=NETWORK) as second,
    ):
        authority = make_authority()
        now_ms = wall_ms()
        desk = RegistrarDesk(
            settings=RegistrarSettings(
                network=NETWORK, genesis=b"", shards=SHARDS, brokers=("mqtts://b",)
            ),
            authority=authority,
            store=store,
            on_accepted=lambda entry: None,
        )
        store.add_tokens([make_token(1, now_ms=now_ms)], now_ms)
        request = make_join(key("a"), key("t"), 1)
        desk.join(sign_request(key("a"), key("t"), NETWORK, request))
        store.revoke_device(key("a").device, now_ms)
        keeper = Keeper(
            settings=KeeperSettings(
                crl_file=tmp_path / "revoked.crl", reload=command, brokers=(), ca_file=None
            ),
            store=second,
            authority=authority,
            gateway=Told(),
            now_ms=wall_ms,
        )

        async def scenario() -> None:
            keeper.start()
            running = asyncio.create_task(keeper.run())
            async with asyncio.timeout(TIMEOUT_S):
                while caplog.text.count("event=reload_failed") < 2:
                    await asyncio.sleep(0.02)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

        asyncio.run(scenario())
        assert words in caplog.text
        assert store.read_list is None


def test_a_list_is_dated_back_so_that_no_broker_takes_it_for_a_future_one(tmp_path):
    with RegistrarStore(tmp_path / "registrar.sqlite", network=NETWORK) as store:
        authority = make_authority()
        for number in range(3):
            make_revocation_file(store, authority, tmp_path / "revoked.crl", now_ms=wall_ms())
            listed = x509.load_pem_x509_crl((tmp_path / "revoked.crl").read_bytes())
            assert listed.last_update_utc.timestamp() * 1_000 < wall_ms() - CRL_BACKDATE_MS // 2
            assert listed.extensions[0].value == x509.CRLNumber(number + 1)
