"""`/status` and `/metrics`, as a browser and as Prometheus get them."""

import re

import aiohttp

from headwater_gateway.machine.metrics import Metrics
from headwater_gateway.web.server import WebServer
from headwater_gateway.web.status import StatusRoutes, StatusSource
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId, Height, RoundNumber
from headwater_protocol.reasons import ReasonCode
from headwater_shard.engine.cometbft.shell.engine import CometStatus
from tests.support.market import make_market
from tests.support.web import run

SHARD = ChainId("shard-0")
LINE = re.compile(r'[a-z_]+(\{[a-z]+="[a-z0-9_:.-]+"(,[a-z]+="[a-z0-9_:.-]+")*\})? -?[0-9]+')


def test_both_show_what_the_ledgers_and_the_counters_hold() -> None:
    market = make_market()
    model = market.play()
    chains = {MAIN_CHAIN: market.main, **market.shards}
    metrics = Metrics()
    metrics.refused[ReasonCode.LOW_SCORE] += 3
    metrics.round(SHARD, RoundNumber(1)).received = 7
    source = StatusSource(
        network=market.cast.network,
        states=lambda: {name: chain.app.state for name, chain in chains.items()},
        heights=lambda: {name: chain.app.height for name, chain in chains.items()},
        metrics=metrics,
        counters=lambda: {"headwater_blobs": 5, "headwater_blobs_served_total": 2},
        brokers=lambda: {"one:8883": True, "two:8884": False},
        engines=lambda: {
            SHARD: CometStatus(
                pid=7,
                num_restarts=2,
                num_connections=4,
                decided=Height(9),
                refused={"of an old view": 1, "late": 4},
            )
        },
    )

    async def go() -> None:
        server = WebServer(host="127.0.0.1", port=0, routes=[StatusRoutes(source).table()])
        url = await server.start()
        async with aiohttp.ClientSession() as session:
            async with session.get(url + "/status") as response:
                status = await response.json()
            async with session.get(url + "/metrics") as response:
                assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
                text = await response.text()
        await server.stop()
        assert status["network"] == market.cast.network.hex()
        assert status["main"] == {
            "height": market.main.app.height,
            "epoch": 1,
            "is_merging": False,
        }
        shard = status["shards"][SHARD]
        assert (shard["devices"], shard["accepted"], shard["settled"]) == (3, 3, 1)
        assert shard["model"] == model.hex()
        assert status["counters"]["headwater_blobs"] == 5
        lines = text.splitlines()
        assert text.endswith("\n")
        assert all(LINE.fullmatch(line) for line in lines if not line.startswith("#")), text
        assert 'headwater_updates_refused_total{reason="low_score"} 3' in lines
        assert 'headwater_updates_received{shard="shard-0"} 7' in lines
        assert f'headwater_height{{chain="main"}} {market.main.app.height}' in lines
        assert "headwater_blobs_served_total 2" in lines
        assert (status["broker_connected"], status["brokers"]["two:8884"]) == (True, False)
        assert 'headwater_broker_connected{broker="one:8883"} 1' in lines
        assert 'headwater_broker_connected{broker="two:8884"} 0' in lines
        assert 'headwater_node_restarts_total{chain="shard-0"} 2' in lines
        assert 'headwater_node_connections{chain="shard-0"} 4' in lines
        assert 'headwater_node_votes_refused_total{chain="shard-0"} 5' in lines
        types = [line.split()[2] for line in lines if line.startswith("# TYPE")]
        assert types == sorted(set(types)), "each name is described once"

    run(go())
