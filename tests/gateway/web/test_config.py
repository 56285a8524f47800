"""`[web]`, `[peers]` and `[storage]`: what they give, and what is refused with its fix."""

from collections.abc import Callable
from pathlib import Path

import pytest

from headwater_gateway.toml_table import TomlTable
from headwater_gateway.web.config import (
    Keep,
    TlsFiles,
    WebConfig,
    parse_peers,
    parse_storage,
    parse_web,
)
from headwater_gateway.web.server import WebServer
from headwater_protocol.errors import ConfigError

FOLDER = Path("/etc/headwater")
ID = "ab" * 32


def table(name: str, **values: object) -> TomlTable:
    return TomlTable(name, values, FOLDER)


def test_without_a_port_nobody_is_served() -> None:
    assert parse_web(table("web")) == (None, None)


def test_all_keys_of_web() -> None:
    web, authority = parse_web(
        table(
            "web",
            host="0.0.0.0",
            port=8700,
            tls_certificate="web.crt",
            tls_key="web.key",
            tls_authority="peers.crt",
        )
    )
    tls = TlsFiles(certificate=FOLDER / "web.crt", key=FOLDER / "web.key")
    assert web == WebConfig(host="0.0.0.0", port=8700, tls=tls)
    assert authority == FOLDER / "peers.crt"


def test_peers_by_their_delegates() -> None:
    peers = parse_peers(table("peers", **{ID: "https://two.example:8700/"}))
    assert peers == {bytes.fromhex(ID): "https://two.example:8700"}
    assert parse_peers(table("peers")) == {}


def test_storage() -> None:
    assert parse_storage(table("storage")).keep is Keep.ALL
    config = parse_storage(table("storage", keep="needed", quota_bytes=2**30))
    assert (config.keep, config.quota_bytes) == (Keep.NEEDED, 2**30)


@pytest.mark.parametrize(
    ("parse", "values", "key"),
    [
        (parse_web, {"port": 65_536}, "t.port"),
        (parse_web, {"port": "eighty"}, "t.port"),
        (parse_web, {"port": 1, "tls_key": "web.key"}, "t.tls_key"),
        (parse_web, {"hots": "x"}, "t.hots"),
        (parse_peers, {"abc": "https://two.example"}, "t.abc"),
        (parse_peers, {ID: "two.example:8700"}, f"t.{ID}"),
        (parse_peers, {ID: "ftp://two.example"}, f"t.{ID}"),
        (parse_peers, {ID: "https://me:secret@two.example"}, f"t.{ID}"),
        (parse_peers, {ID: "https://two.example/blobs"}, f"t.{ID}"),
        (parse_peers, {ID: "https://two.example:port"}, f"t.{ID}"),
        (parse_peers, {ID: 8700}, f"t.{ID}"),
        (parse_storage, {"keep": "some"}, "t.keep"),
        (parse_storage, {"keep": "needed"}, "t.keep"),
        (parse_storage, {"quota_bytes": 1_000}, "t.quota_bytes"),
        (parse_storage, {"quota": 1_000}, "t.quota"),
    ],
)
def test_what_is_wrong_is_named(
    parse: Callable[[TomlTable], object], values: dict[str, object], key: str
) -> None:
    with pytest.raises(ConfigError) as error:
        parse(table("t", **values))
    assert error.value.key == key
    assert error.value.fix


def test_tls_files_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "web.crt").write_text("no certificate")
    files = TlsFiles(certificate=tmp_path / "web.crt", key=tmp_path / "web.key")
    with pytest.raises(ConfigError) as error:
        WebServer(host="127.0.0.1", port=0, routes=[], tls=files)
    assert error.value.key == "web.tls_certificate"
