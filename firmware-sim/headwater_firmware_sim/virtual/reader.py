"""A reader that remembers what the whole fleet is sent, so that it is decoded and checked once."""

from collections import OrderedDict
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from headwater_agent.machine.reading import DirectReader
from headwater_protocol.chain.committee import Committee
from headwater_protocol.chain.genesis import Genesis
from headwater_protocol.chain.task import Task
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.identifiers import ChainId, Digest, Network
from headwater_protocol.light.client import Pin
from headwater_protocol.light.shard import ShardTrust, Term
from headwater_protocol.light.update import EpochUpdate
from headwater_protocol.messages.announcement import Announcement
from headwater_protocol.messages.chunk import Chunk

MAX_READ: Final = 64
"""Of each kind: a few rounds of every shard."""

K = TypeVar("K")
V = TypeVar("V")


class RememberingReader:
    """What holds is remembered; what does not is found out anew each time."""

    def __init__(self) -> None:
        self._direct = DirectReader()
        self._networks: OrderedDict[int, tuple[Genesis, Network]] = OrderedDict()
        self._trusts: OrderedDict[tuple[int, ChainId], tuple[Genesis, ShardTrust]] = OrderedDict()
        self._epochs: OrderedDict[bytes, EpochUpdate] = OrderedDict()
        self._advanced: OrderedDict[tuple[int, int], tuple[ShardTrust, EpochUpdate, ShardTrust]] = (
            OrderedDict()
        )
        self._in_office: OrderedDict[tuple[int, int], tuple[ShardTrust, Term, ShardTrust]] = (
            OrderedDict()
        )
        self._names: OrderedDict[bytes, Digest] = OrderedDict()
        self._announcements: OrderedDict[bytes, Announcement] = OrderedDict()
        self._verified: OrderedDict[tuple[int, ChainId], Announcement] = OrderedDict()
        self._chunks: OrderedDict[bytes, Chunk] = OrderedDict()
        self._bases: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()

    def network(self, genesis: Genesis) -> Network:
        """The digest of the genesis."""
        known = self._networks.get(id(genesis))
        if known is None or known[0] is not genesis:
            known = (genesis, self._direct.network(genesis))
            _keep(self._networks, id(genesis), known)
        return known[1]

    def trust(self, genesis: Genesis, shard: ChainId, pin: Pin | None) -> ShardTrust:
        """What a pinned genesis says about a shard; errors as `DirectReader`."""
        if pin is not None:
            return self._direct.trust(genesis, shard, pin)
        key = (id(genesis), shard)
        known = self._trusts.get(key)
        if known is None or known[0] is not genesis:
            known = (genesis, self._direct.trust(genesis, shard, None))
            _keep(self._trusts, key, known)
        return known[1]

    def epoch(self, payload: bytes) -> EpochUpdate:
        """The step to an epoch that `payload` encodes; errors as `DirectReader`."""
        known = self._epochs.get(payload)
        if known is None:
            known = self._direct.epoch(payload)
            _keep(self._epochs, payload, known)
        return known

    def advance(
        self,
        trust: ShardTrust,
        update: EpochUpdate,
        *,
        now_ms: int,
        verifier: Verifier,
        pin: Pin | None,
    ) -> ShardTrust:
        """What is known after a step; errors as `DirectReader`."""
        if pin is not None:
            return self._direct.advance(trust, update, now_ms=now_ms, verifier=verifier, pin=pin)
        # Whether a device still trusts who signed depends on its own clock.
        trust.trusted.require_fresh(now_ms)
        key = (id(trust), id(update))
        known = self._advanced.get(key)
        if known is None or known[0] is not trust or known[1] is not update:
            after = self._direct.advance(trust, update, now_ms=now_ms, verifier=verifier, pin=None)
            known = (trust, update, after)
            _keep(self._advanced, key, known)
        return known[2]

    def note_in_office(self, trust: ShardTrust, term: Term) -> ShardTrust:
        """What is known once a verified block shows a term in office."""
        key = (id(trust), id(term))
        known = self._in_office.get(key)
        if known is None or known[0] is not trust or known[1] is not term:
            known = (trust, term, self._direct.note_in_office(trust, term))
            _keep(self._in_office, key, known)
        return known[2]

    def name(self, payload: bytes) -> Digest:
        """SHA-256 of a message."""
        known = self._names.get(payload)
        return self._direct.name(payload) if known is None else known

    def announcement(self, payload: bytes) -> Announcement:
        """The announcement that `payload` encodes; errors as `DirectReader`."""
        known = self._announcements.get(payload)
        if known is None:
            known = self._direct.announcement(payload)
            _keep(self._announcements, payload, known)
            _keep(self._names, payload, self._direct.name(payload))
        return known

    def verify(
        self,
        announcement: Announcement,
        *,
        network: Network,
        shard: ChainId,
        committee: Committee,
        verifier: Verifier,
    ) -> None:
        """Check what `announcement` says, whose header names the committee."""
        key = (id(announcement), shard)
        if self._verified.get(key) is announcement:
            return
        self._direct.verify(
            announcement, network=network, shard=shard, committee=committee, verifier=verifier
        )
        _keep(self._verified, key, announcement)

    def chunk(self, payload: bytes) -> Chunk:
        """The piece that `payload` encodes; errors as `DirectReader`."""
        known = self._chunks.get(payload)
        if known is None:
            known = self._direct.chunk(payload)
            _keep(self._chunks, payload, known)
        return known

    def base(self, data: bytes, task: Task) -> NDArray[np.float32]:
        """The base of `task`, read-only; errors as `DirectReader`."""
        known = self._bases.get(data)
        if known is None:
            known = self._direct.base(data, task)
            known.flags.writeable = False
            _keep(self._bases, data, known)
        return known


def _keep(entries: OrderedDict[K, V], key: K, value: V) -> None:
    entries[key] = value
    while len(entries) > MAX_READ:
        entries.popitem(last=False)
