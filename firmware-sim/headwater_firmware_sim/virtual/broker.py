"""An MQTT broker in memory: retained messages, QoS 1, wills, the filters that the protocol uses.

It keeps to what ENGINES of the field grant: an acknowledged message may still never reach a
subscriber, and a broker that restarts has forgotten everything.

A filter has at most one `+`. Gateways of one shard share their subscription, so that each update
goes to one of them, the same for a device as long as it is connected.

A large fleet makes most of the entries here: topics are interned, as each device writes those of
its shard anew and each message brings a copy, and what a single device listens to has no map of its
own.
"""

import sys
import zlib
from collections.abc import Callable
from typing import Final, Protocol

from headwater_firmware_sim.virtual.clock import Clock

KEEPALIVE_MS: Final = 30_000
"""After which a broker takes a silent client for lost and publishes its will."""

Tap = Callable[[str, bytes], None]
"""Sees every message that the broker takes."""


class Client(Protocol):
    """A connection, as the broker sees it."""

    def send(self, topic: str, payload: bytes) -> None:
        """Put a message on the wire to the client."""
        ...


class Broker:
    """One broker; callers have taken the time that the wires need."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._subscribers: dict[str, Client | dict[Client, None]] = {}
        """By filter; a map from the second client on."""
        self._shared: dict[str, list[Client]] = {}
        self._filters: dict[Client, tuple[str, ...]] = {}
        self._wills: dict[Client, tuple[str, bytes]] = {}
        self._retained: dict[str, dict[str, bytes]] = {}
        """By what stands before the last two levels of a topic, which all devices of a shard share,
        and by topic."""
        self.taps: list[Tap] = []
        self.num_taken = 0
        self.num_sent = 0
        self.bytes_sent = 0

    def connect(self, client: Client, will: tuple[str, bytes] | None) -> None:
        """Take a connection in place of an older one of the same client."""
        self._forget(client)
        self._filters[client] = ()
        if will is not None:
            topic, payload = will
            self._wills[client] = (sys.intern(topic), payload)

    def disconnect(self, client: Client) -> None:
        """The client says goodbye: no will."""
        self._wills.pop(client, None)
        self._forget(client)

    def lose(self, client: Client) -> None:
        """The client is gone without a word; its will comes when that is noticed."""
        will = self._wills.pop(client, None)
        self._forget(client)
        if will is not None:
            self._clock.after(KEEPALIVE_MS, self._publish_will, client, *will)

    def stop(self) -> None:
        """The broker ends: connections, subscriptions, wills and retained messages are gone."""
        self._subscribers.clear()
        self._shared.clear()
        self._filters.clear()
        self._wills.clear()
        self._retained.clear()

    def is_connected(self, client: Client) -> bool:
        """Whether the client has a connection."""
        return client in self._filters

    def subscribe(self, client: Client, topic_filter: str) -> None:
        """Subscribe and send what is retained there."""
        filters = self._filters.get(client)
        if filters is None:
            return
        if topic_filter not in filters:
            topic_filter = sys.intern(topic_filter)
            self._filters[client] = (*filters, topic_filter)
        self._add(client, topic_filter)
        parent, _, last = topic_filter.rpartition("/")
        topics = self._retained.get(parent.rpartition("/")[0])
        if topics is None:
            return
        if last == "+":
            found = sorted(topic for topic in topics if topic.rpartition("/")[0] == parent)
        else:
            found = [topic_filter] if topic_filter in topics else []
        for topic in found:
            self._send(client, topic, topics[topic])

    def subscribe_shared(self, client: Client, topic_filter: str) -> None:
        """Subscribe together with others, so that each message goes to one of them."""
        members = self._shared.setdefault(topic_filter, [])
        if client not in members:
            members.append(client)

    def unsubscribe_shared(self, client: Client, topic_filter: str) -> None:
        """End a shared subscription."""
        members = self._shared.get(topic_filter, [])
        if client in members:
            members.remove(client)
        if not members:
            self._shared.pop(topic_filter, None)

    def unsubscribe(self, client: Client, topic_filter: str) -> None:
        """End a subscription."""
        filters = self._filters.get(client, ())
        if topic_filter in filters:
            self._filters[client] = tuple(other for other in filters if other != topic_filter)
            self._remove(client, topic_filter)

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """Take a message and send it to whoever listens."""
        self.num_taken += 1
        for tap in self.taps:
            tap(topic, payload)
        topic = sys.intern(topic)
        parent, _, last = topic.rpartition("/")
        group = parent.rpartition("/")[0]
        if retain and payload:
            self._retained.setdefault(group, {})[topic] = payload
        elif retain:
            topics = self._retained.get(group, {})
            topics.pop(topic, None)
            if not topics:
                self._retained.pop(group, None)
        for topic_filter in (topic, f"{parent}/+"):
            for client in self._listeners(topic_filter):
                self._send(client, topic, payload)
        members = self._shared.get(f"{group}/+/{last}")
        if members:
            chosen = zlib.crc32(topic.encode()) % len(members)
            self._send(members[chosen], topic, payload)

    def _send(self, client: Client, topic: str, payload: bytes) -> None:
        self.num_sent += 1
        self.bytes_sent += len(payload)
        client.send(topic, payload)

    def _listeners(self, topic_filter: str) -> tuple[Client, ...]:
        found = self._subscribers.get(topic_filter)
        if found is None:
            return ()
        return tuple(found) if isinstance(found, dict) else (found,)

    def _add(self, client: Client, topic_filter: str) -> None:
        found = self._subscribers.get(topic_filter)
        if found is None:
            self._subscribers[topic_filter] = client
        elif isinstance(found, dict):
            found[client] = None
        elif found is not client:
            self._subscribers[topic_filter] = {found: None, client: None}

    def _remove(self, client: Client, topic_filter: str) -> None:
        found = self._subscribers.get(topic_filter)
        if found is client or (isinstance(found, dict) and found.keys() <= {client}):
            del self._subscribers[topic_filter]
        elif isinstance(found, dict):
            found.pop(client, None)

    def _forget(self, client: Client) -> None:
        for topic_filter in self._filters.pop(client, ()):
            self._remove(client, topic_filter)
        for topic_filter in tuple(self._shared):
            self.unsubscribe_shared(client, topic_filter)

    def _publish_will(self, client: Client, topic: str, payload: bytes) -> None:
        if not self.is_connected(client):
            self.publish(topic, payload, retain=True)
