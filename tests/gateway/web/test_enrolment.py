"""The registrar over HTTPS: what hostile input gets, and that it goes on serving."""

import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headwater_gateway.web import enrolment, registrar
from headwater_gateway.web.rate import RateLimit
from headwater_protocol.encoding.record import decode_record, encode_record
from headwater_protocol.identifiers import Signature
from headwater_protocol.messages.credential import (
    MAX_REQUEST_BYTES,
    Credential,
    SignedRequest,
    sign_request,
)
from headwater_protocol.reasons import ReasonCode
from tests.support.https import Server
from tests.support.network import key
from tests.support.registrar import CAST, NETWORK, make_join, make_token


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("server")) as server:
        server.desk.give(*(make_token(number) for number in range(1, 20)))
        server.routes._rate = RateLimit(burst=100_000, refill_ms=1)
        yield server


def tls(server: Server) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(server.ca_file))


@contextmanager
def connected(server: Server) -> Iterator[ssl.SSLSocket]:
    """A TLS connection that says whatever it likes."""
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as plain,
        tls(server).wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        yield secured


def ask(
    server: Server, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, bytes]:
    connection = http.client.HTTPSConnection(
        "localhost", server.port, context=tls(server), timeout=10
    )
    try:
        connection.request(method, f"/enrol/v1/{path}", body=body, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def refusal(server: Server, method: str, path: str, body: bytes | None = None) -> tuple[int, str]:
    status, data = ask(server, method, path, body)
    values = json.loads(data)
    assert set(values) == {"reason", "detail"}
    assert "Traceback" not in values["detail"]
    return status, str(ReasonCode(values["reason"]))


def is_alive(server: Server) -> bool:
    return ask(server, "GET", "genesis")[0] == 200


def join_body(name: str, number: int) -> bytes:
    device, transport = key(name), key(f"{name}/transport")
    return sign_request(device, transport, NETWORK, make_join(device, transport, number))


def test_a_device_joins_and_asks_again(server):
    status, first = ask(server, "POST", "devices", join_body("a", 1))
    assert status == 200
    assert decode_record(Credential, first).shard in CAST.genesis.shards
    assert ask(server, "POST", "devices", join_body("a", 1)) == (200, first)
    assert refusal(server, "POST", "devices", join_body("b", 1)) == (403, "token_spent")


def test_of_two_devices_at_once_one_is_taken(server):
    answers: list[int] = []
    barrier = threading.Barrier(6)

    def spend(name: str) -> None:
        barrier.wait()
        answers.append(ask(server, "POST", "devices", join_body(name, 2))[0])

    threads = [threading.Thread(target=spend, args=(f"rival-{index}",)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200, 403, 403, 403, 403, 403]


def forged() -> bytes:
    signed = decode_record(SignedRequest, join_body("c", 3))
    return encode_record(
        SignedRequest(
            request=signed.request, signature=Signature(bytes(64)), possession=signed.possession
        )
    )


HOSTILE = {
    "nothing": ("POST", "devices", b"", (400, "bad_encoding")),
    "noise": ("POST", "devices", b"\xff" * 200, (400, "bad_encoding")),
    "JSON": ("POST", "devices", b'{"token": 1}', (400, "bad_encoding")),
    "deep nesting": ("POST", "devices", b"\x81" * 900, (400, "bad_encoding")),
    "a huge array": ("POST", "devices", b"\x9b" + b"\xff" * 8, (400, "bad_encoding")),
    "too much": ("POST", "devices", bytes(MAX_REQUEST_BYTES + 1), (413, "too_large")),
    "a forged signature": ("POST", "devices", forged(), (401, "bad_signature")),
    "a request to join at the other door": (
        *("POST", "certificates", join_body("d", 4)),
        (400, "bad_encoding"),
    ),
    "an unknown token": ("POST", "devices", join_body("e", 4_000), (403, "token_unknown")),
    "no device id": ("GET", "devices/zz", None, (400, "bad_encoding")),
    "a stranger": ("GET", f"devices/{'00' * 32}", None, (404, "not_enrolled")),
    "no epoch": ("GET", "epochs/-1", None, (400, "bad_encoding")),
    "a long number": ("GET", f"epochs/{'9' * 400}", None, (400, "bad_encoding")),
    "a later epoch": ("GET", "epochs/7", None, (404, "wrong_epoch")),
    "no such path": ("GET", "../../etc/passwd", None, (404, "bad_encoding")),
    "another method": ("DELETE", "devices", None, (405, "bad_encoding")),
}


@pytest.mark.parametrize(("method", "path", "body", "expected"), HOSTILE.values(), ids=HOSTILE)
def test_what_hostile_input_gets(server, method, path, body, expected):
    assert refusal(server, method, path, body) == expected
    assert is_alive(server)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_request_with_any_byte_changed_is_refused(server, data):
    body = bytearray(join_body("f", 5))
    place = data.draw(st.integers(0, len(body) - 1))
    body[place] ^= data.draw(st.integers(1, 255))
    status, answer = ask(server, "POST", "devices", bytes(body))
    assert status in {400, 401, 403}
    assert json.loads(answer)["reason"]


def test_a_body_is_read_only_as_far_as_its_limit(server):
    """Without a length, in chunks, with no end in sight."""
    with connected(server) as secured:
        secured.sendall(
            b"POST /enrol/v1/devices HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"400\r\n" + bytes(1024) + b"\r\n"
        secured.sendall(chunk * 3)
        answer = secured.recv(4_096)
    assert b"413" in answer.splitlines()[0]
    assert is_alive(server)


def test_a_body_that_does_not_come_is_not_waited_for(server, monkeypatch):
    monkeypatch.setattr(enrolment, "BODY_TIMEOUT_S", 0.2)
    with connected(server) as secured:
        secured.sendall(
            b"POST /enrol/v1/devices HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc"
        )
        assert b"503" in secured.recv(4_096).splitlines()[0]


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n" + b"X: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"\x00\x01\x02\r\n\r\n",
        b"POST /enrol/v1/devices HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    ],
    ids=["a long header", "a long path", "noise", "a negative length"],
)
def test_what_is_no_http_is_refused(server, data):
    with connected(server) as secured:
        secured.sendall(data)
        assert b" 400 " in secured.recv(4_096)
    assert is_alive(server)


def test_a_connection_that_asks_nothing_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(registrar, "FIRST_REQUEST_S", 0.2)
    with Server(tmp_path) as server:
        with connected(server) as secured:
            assert secured.recv(1) == b""
        with connected(server) as secured:
            secured.sendall(b"GET /enrol/v1/genesis HTTP/1.1\r\nX-Slow: ")
            assert secured.recv(1) == b""
        # One that asked in time may stay for its next question.
        connection = http.client.HTTPSConnection("localhost", server.port, context=tls(server))
        for _ in range(2):
            connection.request("GET", "/enrol/v1/genesis")
            assert connection.getresponse().read() == server.desk.desk.settings.genesis
            time.sleep(0.3)
        connection.close()


def test_a_connection_too_many_is_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(registrar, "MAX_CONNECTIONS", 2)
    with Server(tmp_path) as server:
        kept = [
            http.client.HTTPSConnection("localhost", server.port, context=tls(server))
            for _ in range(2)
        ]
        for connection in kept:
            connection.request("GET", "/enrol/v1/genesis")
            connection.getresponse().read()
        with pytest.raises((http.client.RemoteDisconnected, OSError)):
            ask(server, "GET", "genesis")
        for connection in kept:
            connection.close()
        deadline = time.monotonic() + 10
        while True:
            try:
                assert is_alive(server)
            except (http.client.RemoteDisconnected, OSError):
                assert time.monotonic() < deadline
            else:
                break


def test_plain_http_is_no_way_in(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as plain:
        plain.sendall(b"GET /enrol/v1/genesis HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP" not in plain.recv(4_096)
    assert is_alive(server)


def test_an_address_that_asks_too_often_is_told_when_to_come_back(tmp_path: Path):
    with Server(tmp_path) as server:
        server.routes._rate = RateLimit(burst=2, refill_ms=60_000)
        assert [ask(server, "GET", "genesis")[0] for _ in range(2)] == [200, 200]
        connection = http.client.HTTPSConnection("localhost", server.port, context=tls(server))
        connection.request("GET", "/enrol/v1/genesis")
        answer = connection.getresponse()
        assert answer.status == 429
        assert answer.headers["Retry-After"] == "60"
        assert json.loads(answer.read())["reason"] == "busy"
        connection.close()


def test_a_store_that_fails_is_told_to_whoever_stops_the_process(tmp_path):
    with Server(tmp_path) as server:
        server.desk.store._database.execute("DROP TABLE tokens")
        assert refusal(server, "POST", "devices", join_body("a", 1)) == (503, "unavailable")
        (failure,) = server.failures
        assert "no such table" in str(failure)
