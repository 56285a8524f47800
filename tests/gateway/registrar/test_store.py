"""Tokens are spent once, by one device, before their time is over; and that survives anything."""

import dataclasses
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headwater_gateway.registrar import store as store_module
from headwater_gateway.registrar.store import MAX_LIVE_CERTIFICATES, RegistrarStore
from headwater_gateway.registrar.tokens import Refused, TokenState
from headwater_protocol.errors import BadSignature, ConfigError, InvalidMessage, StorageError
from headwater_protocol.identifiers import ChainId, Network
from headwater_protocol.messages.credential import sign_request
from headwater_protocol.messages.token import token_digest
from headwater_protocol.reasons import ReasonCode
from tests.support.network import key
from tests.support.registrar import (
    AUTHORITY,
    HOUR_MS,
    NETWORK,
    NOW_MS,
    SHARDS,
    Desk,
    device_id,
    make_join,
    make_token,
    secret_of,
    token_id,
)


@pytest.fixture
def desk(tmp_path):
    desk = Desk(tmp_path)
    yield desk
    desk.store.close()


def reason_of(call) -> ReasonCode:
    with pytest.raises(Refused) as caught:
        call()
    return caught.value.refusal


def test_a_device_joins_with_a_token(desk):
    desk.give(make_token(1, shard=SHARDS[1], weight=7))
    credential = desk.join("a", 1)
    assert (credential.shard, credential.weight) == ("shard-1", 7)
    assert AUTHORITY.is_signer_of(credential.certificate.decode())
    (entry,) = desk.store.tokens()
    assert entry.device == device_id("a")
    assert entry.state(NOW_MS) is TokenState.SPENT
    assert [device.device for device in desk.accepted] == [device_id("a")]


def test_a_lost_answer_is_given_again_and_to_nobody_else(desk):
    desk.give(make_token(1))
    first = desk.join("a", 1)
    desk.now_ms += 2 * HOUR_MS
    assert desk.join("a", 1) == first
    assert reason_of(lambda: desk.join("b", 1)) is ReasonCode.TOKEN_SPENT
    other = desk.join("a", 1, transport="another key, after a cut")
    assert other.certificate != first.certificate
    assert (other.shard, other.weight) == (first.shard, first.weight)


REFUSALS = {
    "never given out": (lambda d: d.join("a", 9), ReasonCode.TOKEN_UNKNOWN),
    "taken back": (
        lambda d: (d.store.revoke_token(token_id(1), NOW_MS), d.join("a", 1)),
        ReasonCode.TOKEN_REVOKED,
    ),
    "spent by another": (lambda d: (d.join("b", 1), d.join("a", 1)), ReasonCode.TOKEN_SPENT),
    "a second token": (lambda d: (d.join("a", 1), d.join("a", 2)), ReasonCode.DUPLICATE),
    "a shard elsewhere": (lambda d: d.join("a", 3), ReasonCode.WRONG_SHARD),
    "a revoked device": (
        lambda d: (d.join("a", 1), d.revoke("a"), d.join("a", 1)),
        ReasonCode.REVOKED,
    ),
    "a revoked device with a new token": (
        lambda d: (d.join("a", 1), d.revoke("a"), d.join("a", 2)),
        ReasonCode.REVOKED,
    ),
    "renewal of a stranger": (lambda d: d.renew("a", 1, transport="t"), ReasonCode.NOT_ENROLLED),
    "renewal of a revoked device": (
        lambda d: (d.join("a", 1), d.revoke("a"), d.renew("a", 1, transport="t")),
        ReasonCode.REVOKED,
    ),
    "renewal with an old number": (
        lambda d: (d.join("a", 1), d.renew("a", 5, transport="t"), d.renew("a", 4, transport="u")),
        ReasonCode.WRONG_NONCE,
    ),
    "renewal with a used number": (
        lambda d: (d.join("a", 1), d.renew("a", 5, transport="t"), d.renew("a", 5, transport="u")),
        ReasonCode.WRONG_NONCE,
    ),
    "revoking a spent token": (
        lambda d: (d.join("a", 1), d.store.revoke_token(token_id(1), NOW_MS)),
        ReasonCode.TOKEN_SPENT,
    ),
    "revoking no token": (
        lambda d: d.store.revoke_token(token_id(9), NOW_MS),
        ReasonCode.TOKEN_UNKNOWN,
    ),
    "revoking a stranger": (lambda d: d.revoke("a"), ReasonCode.NOT_ENROLLED),
}


@pytest.mark.parametrize(("call", "reason"), REFUSALS.values(), ids=REFUSALS.keys())
def test_what_is_refused_and_why(desk, call, reason):
    desk.give(make_token(1), make_token(2), make_token(3, shard=ChainId("shard-9")))
    assert reason_of(lambda: call(desk)) is reason


def test_a_token_ends_with_its_last_millisecond(desk):
    desk.give(make_token(1, life_ms=HOUR_MS), make_token(2, life_ms=HOUR_MS))
    desk.now_ms = NOW_MS + HOUR_MS - 1
    desk.join("a", 1)
    desk.now_ms += 1
    assert reason_of(lambda: desk.join("b", 2)) is ReasonCode.TOKEN_EXPIRED


def test_a_wrong_secret_is_as_good_as_no_token(desk):
    desk.give(make_token(1))
    device, transport = key("a"), key("t")
    request = make_join(device, transport, 1)

    request = dataclasses.replace(request, secret=secret_of(2))
    body = sign_request(device, transport, NETWORK, request)
    assert reason_of(lambda: desk.desk.join(body)) is ReasonCode.TOKEN_UNKNOWN
    assert desk.store.tokens()[0].device is None


@pytest.mark.parametrize(
    ("signer", "transport", "network"),
    [
        ("b", "t", NETWORK),
        ("a", "u", NETWORK),
        ("a", "t", Network(bytes(32))),
    ],
    ids=["another device", "another transport key", "another network"],
)
def test_a_request_is_signed_by_both_keys_for_this_network(desk, signer, transport, network):
    desk.give(make_token(1))
    request = make_join(key("a"), key("t"), 1)
    with pytest.raises(BadSignature):
        desk.desk.join(sign_request(key(signer), key(transport), network, request))
    assert desk.store.tokens()[0].device is None


def test_a_renewal_cannot_be_sent_as_a_request_to_join(desk):
    desk.give(make_token(1))
    device, transport = key("a"), key("t")
    body = sign_request(device, transport, NETWORK, make_join(device, transport, 1))
    assert reason_of(lambda: desk.desk.renew(body)) is ReasonCode.BAD_ENCODING


def test_renewals_go_on_with_greater_numbers_and_are_repeated(desk):
    desk.give(make_token(1))
    desk.join("a", 1)
    second = desk.renew("a", 5, transport="t")
    assert desk.renew("a", 5, transport="t") == second
    third = desk.renew("a", 6, transport="u")
    assert third.certificate != second.certificate


def test_the_oldest_certificate_of_too_many_is_revoked(desk):
    desk.give(make_token(1))
    desk.join("a", 1)
    for number in range(1, MAX_LIVE_CERTIFICATES):
        desk.renew("a", number, transport=f"t{number}")
    assert desk.store.revoked_serials(NOW_MS) == []
    desk.renew("a", MAX_LIVE_CERTIFICATES, transport="one more")
    assert [serial for serial, _ in desk.store.revoked_serials(NOW_MS)] == [(1).to_bytes(16, "big")]


def test_a_device_without_a_shard_goes_where_there_are_fewest(desk):
    desk.give(*(make_token(number) for number in range(1, 5)))
    shards = [desk.join(f"d{number}", number).shard for number in range(1, 5)]
    assert shards == ["shard-0", "shard-1", "shard-0", "shard-1"]


def test_revoking_lists_every_certificate_until_it_expires(desk):
    desk.give(make_token(1))
    desk.join("a", 1)
    end_ms = int(desk.renew("a", 1, transport="t").not_after_ms)
    desk.revoke("a")
    desk.revoke("a")
    assert len(desk.store.revoked_serials(NOW_MS)) == 2
    assert desk.store.revoked_serials(end_ms) == []


def test_lists_have_greater_numbers_and_times_a_second_apart(desk):
    first = desk.store.next_list(NOW_MS)
    second = desk.store.next_list(NOW_MS)
    third = desk.store.next_list(NOW_MS + 60_000)
    assert [number for number, _ in (first, second, third)] == [1, 2, 3]
    assert [time_ms for _, time_ms in (first, second, third)] == [
        NOW_MS,
        NOW_MS + 1_000,
        NOW_MS + 60_000,
    ]


def test_no_secret_is_on_the_disk(desk, tmp_path):
    secret = bytes.fromhex("0f1e2d3c4b5a69788796a5b4c3d2e1f0")
    number = int.from_bytes(secret, "big")
    entry = make_token(1)

    desk.give(dataclasses.replace(entry, digest=token_digest(entry.salt, secret_of(number))))
    device, transport = key("a"), key("t")
    request = dataclasses.replace(make_join(device, transport, 1), secret=secret_of(number))
    desk.desk.join(sign_request(device, transport, NETWORK, request))
    held = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert device.device in held
    assert secret not in held


def test_the_limits_of_the_store_are_named(desk, monkeypatch):
    monkeypatch.setattr(store_module, "MAX_TOKENS", 2)
    desk.give(make_token(1), make_token(2))
    with pytest.raises(ConfigError, match="at most"):
        desk.give(make_token(3))
    desk.join("a", 1)
    desk.give(make_token(3))
    monkeypatch.setattr(store_module, "MAX_DEVICES", 1)
    assert reason_of(lambda: desk.join("b", 2)) is ReasonCode.BUSY
    assert desk.join("a", 1).shard == "shard-0"


def test_expired_tokens_make_room(desk, monkeypatch):
    monkeypatch.setattr(store_module, "MAX_TOKENS", 1)
    desk.give(make_token(1))
    desk.now_ms += HOUR_MS
    desk.give(make_token(2, now_ms=desk.now_ms))
    assert [entry.token for entry in desk.store.tokens()] == [token_id(2)]


def test_another_networks_store_is_refused(desk, tmp_path):
    with pytest.raises(StorageError, match="another network"):
        RegistrarStore(tmp_path / "registrar.sqlite", network=Network(bytes(32)))


def test_a_damaged_store_says_which_file_it_is(tmp_path):
    (tmp_path / "registrar.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(StorageError, match=r"registrar\.sqlite"):
        RegistrarStore(tmp_path / "registrar.sqlite", network=NETWORK)


def test_only_the_owner_reads_the_store(desk, tmp_path):
    assert (tmp_path / "registrar.sqlite").stat().st_mode & 0o077 == 0


def test_of_many_devices_at_once_a_token_enrols_one(tmp_path):
    """Each with a store of its own on one file, as a second gateway process would have."""
    desks = [Desk(tmp_path) for _ in range(8)]
    desks[0].give(make_token(1))
    outcomes: list[object] = []
    barrier = threading.Barrier(len(desks))

    def spend(number: int) -> None:
        barrier.wait()
        try:
            outcomes.append(desks[number].join(f"d{number}", 1))
        except InvalidMessage as error:
            outcomes.append(error)

    threads = [threading.Thread(target=spend, args=(number,)) for number in range(len(desks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [outcome for outcome in outcomes if isinstance(outcome, Refused)]
    assert len(refused) == len(desks) - 1
    assert {error.refusal for error in refused} == {ReasonCode.TOKEN_SPENT}
    assert len(desks[0].store.devices()) == 1
    for desk in desks:
        desk.store.close()


KILLED = """
import os, sys
from pathlib import Path
from headwater_gateway.registrar import tokens
from tests.support.registrar import Desk, make_token

desk = Desk(Path(sys.argv[1]))
desk.give(*(make_token(number) for number in range(1, 200)))
for number in range(1, 200):
    desk.join(f"d{number}", number)
    print(number, flush=True)
"""


def test_what_was_answered_survives_kill_9(tmp_path):
    root = Path(__file__).parents[3]
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, cwd=root
    )
    assert child.stdout is not None
    answered = [int(child.stdout.readline()) for _ in range(5)]
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    desk = Desk(tmp_path)
    spent = {entry.token: entry.device for entry in desk.store.tokens()}
    for number in answered:
        assert spent[token_id(number)] == device_id(f"d{number}")
        assert reason_of(lambda number=number: desk.join("thief", number)) is ReasonCode.TOKEN_SPENT
        assert desk.join(f"d{number}", number).shard in SHARDS
    # A token and its device are never apart.
    assert {device for device in spent.values() if device is not None} == {
        entry.device for entry in desk.store.devices()
    }
    desk.store.close()


NUMBERS = st.integers(1, 4)
NAMES = st.sampled_from(("a", "b", "c"))


class TokenLaws(RuleBasedStateMachine):
    """Whatever is asked in whatever order, a plain model says the same."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.desk = Desk(self.folder)
        self.expires: dict[int, int] = {}
        self.taken_back: set[int] = set()
        self.spent: dict[int, str] = {}
        self.revoked: set[str] = set()
        self.num_starts = 0

    def teardown(self) -> None:
        self.desk.store.close()
        shutil.rmtree(self.folder)

    @rule(number=NUMBERS, hours=st.integers(1, 3))
    def give(self, number: int, hours: int) -> None:
        if number in self.expires:
            return
        self.desk.give(make_token(number, life_ms=hours * HOUR_MS, now_ms=self.desk.now_ms))
        now_ms = self.desk.now_ms
        for other in [n for n, end in self.expires.items() if end <= now_ms]:
            if other not in self.spent:
                del self.expires[other]
                self.taken_back.discard(other)
        self.expires[number] = now_ms + hours * HOUR_MS

    @rule(name=NAMES, number=NUMBERS)
    def join(self, name: str, number: int) -> None:
        expected = self.expected(name, number)
        found = ReasonCode.OK
        try:
            self.desk.join(name, number)
        except Refused as error:
            found = error.refusal
        assert found is expected
        if found is ReasonCode.OK:
            self.spent[number] = name

    def expected(self, name: str, number: int) -> ReasonCode:
        if number not in self.expires:
            return ReasonCode.TOKEN_UNKNOWN
        if name in self.revoked:
            return ReasonCode.REVOKED
        if self.spent.get(number) == name:
            return ReasonCode.OK
        if number in self.spent:
            return ReasonCode.TOKEN_SPENT
        if number in self.taken_back:
            return ReasonCode.TOKEN_REVOKED
        if self.desk.now_ms >= self.expires[number]:
            return ReasonCode.TOKEN_EXPIRED
        return ReasonCode.DUPLICATE if name in self.spent.values() else ReasonCode.OK

    @rule(number=NUMBERS)
    def take_back(self, number: int) -> None:
        try:
            self.desk.store.revoke_token(token_id(number), self.desk.now_ms)
        except Refused:
            assert number not in self.expires or number in self.spent
        else:
            self.taken_back.add(number)

    @precondition(lambda self: self.spent)
    @rule(name=NAMES)
    def revoke(self, name: str) -> None:
        if name in self.spent.values():
            self.desk.revoke(name)
            self.revoked.add(name)

    @rule(hours=st.integers(0, 2))
    def wait(self, hours: int) -> None:
        self.desk.now_ms += hours * HOUR_MS

    @rule()
    def restart(self) -> None:
        now_ms = self.desk.now_ms
        self.desk.store.close()
        self.num_starts += 1
        self.desk = Desk(self.folder, first_serial=1 + 1_000 * self.num_starts)
        self.desk.now_ms = now_ms

    @invariant()
    def each_device_has_one_token_and_each_token_one_device(self) -> None:
        tokens = {entry.token: entry.device for entry in self.desk.store.tokens() if entry.device}
        assert tokens == {token_id(n): device_id(name) for n, name in self.spent.items()}
        assert {entry.device for entry in self.desk.store.devices()} == set(tokens.values())
        assert len(set(tokens.values())) == len(tokens)


TestTokenLaws = TokenLaws.TestCase
TestTokenLaws.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)


def test_the_store_is_plain_sqlite_that_others_can_check(desk, tmp_path):
    desk.give(make_token(1))
    with sqlite3.connect(tmp_path / "registrar.sqlite") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
