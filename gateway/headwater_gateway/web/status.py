"""`/status` and `/metrics`: what a gateway is doing, for people and for Prometheus.

Both are public where the service is: they hold counts, heights and digests, and nobody's data.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from aiohttp import web

from headwater_gateway.machine.metrics import Metrics
from headwater_gateway.web.access import States
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId, Network
from headwater_protocol.messages.announcement import round_key
from headwater_shard.engine.cometbft.shell.engine import CometStatus
from headwater_shard.mainchain.records import MAIN, MAIN_KEY, SHARDS, shard_key
from headwater_shard.shardchain.records import DEVICES, ROUNDS, SHARD, SHARD_KEY

Sample = tuple[str, Mapping[str, str], int]
"""A metric's name, its labels, its value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusSource:
    """Where the numbers come from; each is read when it is asked for."""

    network: Network
    states: Callable[[], States]
    heights: Callable[[], Mapping[ChainId, int]]
    metrics: Metrics
    counters: Callable[[], Mapping[str, int]]
    """Of HTTP and blobs, by metric name; those that only grow end in `_total`."""
    brokers: Callable[[], Mapping[str, bool]]
    """Whether each broker is there, by its address."""
    engines: Callable[[], Mapping[ChainId, CometStatus]] = dict
    """The nodes of CometBFT; none with the embedded engine."""


class StatusRoutes:
    """The routes for those who watch."""

    def __init__(self, source: StatusSource) -> None:
        self._source = source

    def table(self) -> list[web.RouteDef]:
        """For `WebServer`."""
        return [web.get("/status", self._status), web.get("/metrics", self._metrics)]

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response(make_status(self._source))

    async def _metrics(self, request: web.Request) -> web.Response:
        text = format_metrics(list_samples(self._source))
        return web.Response(
            body=text.encode(),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )


def make_status(source: StatusSource) -> dict[str, object]:
    """The gateway at a glance."""
    states, heights = source.states(), source.heights()
    main = states[MAIN_CHAIN].get(MAIN, MAIN_KEY)
    shards: dict[str, object] = {}
    for chain in sorted(states):
        shard = None if chain == MAIN_CHAIN else states[chain].get(SHARD, SHARD_KEY)
        if shard is None:
            continue
        round_ = states[chain].get(ROUNDS, round_key(shard.last_round))
        entry = states[MAIN_CHAIN].get(SHARDS, shard_key(chain))
        shards[chain] = {
            "height": heights.get(chain, 0),
            "devices": states[chain].count(DEVICES),
            "round": shard.last_round,
            "phase": "waiting" if round_ is None else str(round_.phase),
            "updates": 0 if round_ is None else round_.num_updates,
            "accepted": 0 if round_ is None else round_.num_accepted,
            "checkpoints": shard.checkpoints,
            "settled": 0 if entry is None else entry.number,
            "epoch": shard.epoch,
            "is_finished": shard.is_finished,
            "model": shard.model.hex(),
        }
    return {
        "network": source.network.hex(),
        "main": {
            "height": heights.get(MAIN_CHAIN, 0),
            "epoch": 0 if main is None else main.epoch,
            "is_merging": main is not None and main.is_merging,
        },
        "shards": shards,
        "broker_connected": any(source.brokers().values()),
        "brokers": dict(source.brokers()),
        "counters": dict(source.counters()),
    }


def list_samples(source: StatusSource) -> Iterator[Sample]:
    """All metrics, in order of their names."""
    samples: list[Sample] = []
    states = source.states()
    for chain, height in source.heights().items():
        samples.append(("headwater_height", {"chain": chain}, height))
    for chain in states:
        shard = None if chain == MAIN_CHAIN else states[chain].get(SHARD, SHARD_KEY)
        if shard is not None:
            samples.append(("headwater_round", {"shard": chain}, shard.last_round))
            samples.append(("headwater_devices", {"shard": chain}, states[chain].count(DEVICES)))
    metrics = source.metrics
    received: Counter[str] = Counter()
    received_bytes: Counter[str] = Counter()
    for round_ in metrics.rounds:
        received[round_.shard] += round_.received
        received_bytes[round_.shard] += round_.bytes_up
    for shard_id in received:
        labels = {"shard": shard_id}
        samples.append(("headwater_updates_received", labels, received[shard_id]))
        samples.append(("headwater_update_bytes_received", labels, received_bytes[shard_id]))
    for reason, count in metrics.refused.items():
        samples.append(("headwater_updates_refused_total", {"reason": str(reason)}, count))
    for reason, count in metrics.refused_transactions.items():
        samples.append(("headwater_transactions_refused_total", {"reason": str(reason)}, count))
    samples.append(("headwater_garbage_total", {}, metrics.garbage))
    for broker, is_connected in source.brokers().items():
        samples.append(("headwater_broker_connected", {"broker": broker}, int(is_connected)))
    for chain, engine in source.engines().items():
        labels = {"chain": chain}
        samples.append(("headwater_node_connections", labels, engine.num_connections))
        samples.append(("headwater_node_restarts_total", labels, engine.num_restarts))
        refused = sum(engine.refused.values())
        samples.append(("headwater_node_votes_refused_total", labels, refused))
    samples += [(name, {}, value) for name, value in source.counters().items()]
    yield from sorted(samples, key=lambda sample: (sample[0], sorted(sample[1].items())))


def format_metrics(samples: Iterator[Sample]) -> str:
    """The samples as Prometheus' text format, version 0.0.4, has them."""
    lines: list[str] = []
    last = ""
    for name, labels, value in samples:
        if name != last:
            lines.append(f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}")
            last = name
        # Chains, reasons and addresses are plain words, so no label needs an escape.
        text = ",".join(f'{key}="{labels[key]}"' for key in sorted(labels))
        lines.append(f"{name}{{{text}}} {value}" if text else f"{name} {value}")
    return "\n".join(lines) + "\n"
