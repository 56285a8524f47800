"""HTTPS between gateways: certificates given as files, and nobody else's believed."""

import subprocess
from pathlib import Path

import pytest

from headwater_gateway.web.blobs import BlobRoutes, WebCounters
from headwater_gateway.web.config import TlsFiles
from headwater_gateway.web.peers import Peers
from headwater_gateway.web.server import WebServer
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.crypto.signing import DirectVerifier
from headwater_protocol.errors import ConfigError
from headwater_protocol.identifiers import MAIN_CHAIN
from tests.support.network import Chain, make_cast
from tests.support.web import NOW_MS, MemoryShelf, close_all, make_fetcher, run

pytestmark = pytest.mark.openssl


def make_certificate(folder: Path, name: str) -> TlsFiles:
    files = TlsFiles(certificate=folder / f"{name}.crt", key=folder / f"{name}.key")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-keyout", str(files.key), "-out", str(files.certificate)]
    subprocess.run(
        command,
        check=True,
        capture_output=True,
    )
    return files


def test_a_blob_comes_over_tls_from_a_peer_whose_authority_is_known(tmp_path: Path) -> None:
    cast = make_cast()
    me, holder, *_ = cast.all_validators
    own, other = make_certificate(tmp_path, "own"), make_certificate(tmp_path, "other")
    states = {name: Chain(cast, name).app.state for name in (MAIN_CHAIN, "shard-0")}  # type: ignore[arg-type]

    async def go() -> None:
        routes = BlobRoutes(
            network=cast.network,
            shelf=MemoryShelf({blob_digest(b"x"): b"x"}),
            states=lambda: states,  # type: ignore[arg-type,return-value]
            verifier=DirectVerifier(),
            now_ms=lambda: NOW_MS,
            counters=WebCounters(),
        )
        server = WebServer(host="127.0.0.1", port=0, routes=[routes.table()], tls=own)
        url = await server.start()
        assert url.startswith("https://")
        found: list[bool] = []
        for authority in (own.certificate, other.certificate, None):
            peers = Peers(
                urls={holder.validator: url},
                own=[me.validator],
                network=cast.network,
                speaker=lambda: me,
                now_ms=lambda: NOW_MS,
                authority=authority,
            )
            fetcher = make_fetcher(peers, MemoryShelf())
            found.append(await fetcher.fetch(blob_digest(b"x"), [holder.validator]))
            await close_all(fetcher, peers)
        await server.stop()
        assert found == [True, False, False]

    run(go())


def test_an_authority_that_is_no_certificate_is_named(tmp_path: Path) -> None:
    (tmp_path / "peers.crt").write_text("nothing")
    cast = make_cast()
    with pytest.raises(ConfigError) as error:
        Peers(
            urls={},
            own=[],
            network=cast.network,
            speaker=lambda: cast.all_validators[0],
            now_ms=lambda: NOW_MS,
            authority=tmp_path / "peers.crt",
        )
    assert error.value.key == "web.tls_authority"
