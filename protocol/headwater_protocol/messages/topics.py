"""The one grammar of MQTT topics, and who may use which.

```
hw/1/<network>/<shard>/round                    retained announcement
hw/1/<network>/<shard>/epoch/<number>           retained proofs of epochs, each from the one before
hw/1/<network>/<shard>/epoch/latest             retained proof that the last epoch still lasts
hw/1/<network>/<shard>/model/<digest>/<chunk>   retained pieces of models, programs, the genesis
hw/1/<network>/<shard>/devices/<id>/update      a device's updates
hw/1/<network>/<shard>/devices/<id>/receipt     a gateway's answers
hw/1/<network>/<shard>/devices/<id>/status      birth and will, retained
hw/1/<network>/<shard>/enroll/<token-id>        enrolment
```

`<network>` is the first 16 hexadecimal digits of the genesis digest, digests and ids are written in
hexadecimal. Broker access lists are generated from `ACCESS`.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

from headwater_protocol.errors import BadEncoding
from headwater_protocol.identifiers import ChainId, DeviceId, Digest, EpochNumber, Network

PREFIX: Final = "hw/1"
NETWORK_DIGITS: Final = 16
MAX_TOPIC_CHARACTERS: Final = 256


class TopicKind(StrEnum):
    """The last word of a topic, more or less."""

    ROUND = "round"
    EPOCH = "epoch"
    CHUNK = "model"
    UPDATE = "update"
    RECEIPT = "receipt"
    STATUS = "status"
    ENROLL = "enroll"


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """A parsed topic."""

    network: str
    shard: ChainId
    kind: TopicKind
    device: DeviceId | None = None
    blob: Digest | None = None
    index: int | None = None
    token: str | None = None
    epoch: EpochNumber | None = None
    """None too on the topic of the latest one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """One line of a broker's access list: `%d` is the device, `%n` the network, `%s` the shard."""

    role: str
    may_publish: bool
    pattern: str


ACCESS: Final = (
    Access(role="device", may_publish=False, pattern="hw/1/%n/%s/round"),
    Access(role="device", may_publish=False, pattern="hw/1/%n/%s/epoch/+"),
    Access(role="device", may_publish=False, pattern="hw/1/%n/%s/model/#"),
    Access(role="device", may_publish=True, pattern="hw/1/%n/%s/devices/%d/update"),
    Access(role="device", may_publish=False, pattern="hw/1/%n/%s/devices/%d/receipt"),
    Access(role="device", may_publish=True, pattern="hw/1/%n/%s/devices/%d/status"),
    Access(role="gateway", may_publish=True, pattern="hw/1/%n/%s/round"),
    Access(role="gateway", may_publish=True, pattern="hw/1/%n/%s/epoch/+"),
    Access(role="gateway", may_publish=True, pattern="hw/1/%n/%s/model/#"),
    Access(role="gateway", may_publish=False, pattern="hw/1/%n/%s/devices/+/update"),
    Access(role="gateway", may_publish=True, pattern="hw/1/%n/%s/devices/+/receipt"),
    Access(role="gateway", may_publish=False, pattern="hw/1/%n/%s/devices/+/status"),
    Access(role="gateway", may_publish=True, pattern="hw/1/%n/%s/enroll/#"),
    Access(role="gateway", may_publish=False, pattern="hw/1/%n/%s/enroll/#"),
)

_TOPIC: Final = re.compile(
    r"hw/1/(?P<network>[0-9a-f]{16})/(?P<shard>[a-z0-9][a-z0-9-]{0,31})/"
    r"(?:(?P<round>round)"
    r"|epoch/(?P<epoch>latest|0|[1-9][0-9]{0,17})"
    r"|model/(?P<blob>[0-9a-f]{64})/(?P<index>0|[1-9][0-9]{0,5})"
    r"|devices/(?P<device>[0-9a-f]{64})/(?P<kind>update|receipt|status)"
    r"|enroll/(?P<token>[A-Za-z0-9_-]{1,64}))"
)


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one shard of one network."""

    network: Network
    shard: ChainId

    @property
    def root(self) -> str:
        """What all topics of the shard begin with."""
        return f"{PREFIX}/{network_name(self.network)}/{self.shard}"

    @property
    def round(self) -> str:
        """The retained announcement."""
        return f"{self.root}/round"

    def epoch(self, epoch: EpochNumber) -> str:
        """What leads from the epoch before to this one."""
        return f"{self.root}/epoch/{epoch}"

    @property
    def latest_epoch(self) -> str:
        """The last epoch, seen lately."""
        return f"{self.root}/epoch/latest"

    def chunk(self, blob: Digest, index: int) -> str:
        """One piece of a blob."""
        return f"{self.root}/model/{blob.hex()}/{index}"

    def chunks(self, blob: Digest) -> str:
        """A filter for all pieces of a blob."""
        return f"{self.root}/model/{blob.hex()}/+"

    def update(self, device: DeviceId) -> str:
        """Where a device publishes its updates."""
        return f"{self.root}/devices/{device.hex()}/update"

    def receipt(self, device: DeviceId) -> str:
        """Where a device is answered."""
        return f"{self.root}/devices/{device.hex()}/receipt"

    def status(self, device: DeviceId) -> str:
        """A device's birth and will."""
        return f"{self.root}/devices/{device.hex()}/status"

    @property
    def updates(self) -> str:
        """A filter for all devices' updates."""
        return f"{self.root}/devices/+/update"

    @property
    def statuses(self) -> str:
        """A filter for all devices' statuses."""
        return f"{self.root}/devices/+/status"

    def enroll(self, token: str) -> str:
        """Where one enrolment is asked for."""
        return f"{self.root}/enroll/{token}"


def share_filter(group: str, topic_filter: str) -> str:
    """A filter whose messages a broker deals out among all who subscribe with the same group.

    MQTT 5 has it, and Mosquitto grants it under 3.1.1 too; the embedded broker does not.
    """
    return f"$share/{group}/{topic_filter}"


@lru_cache(maxsize=16)
def network_name(network: Network) -> str:
    """The network's part of a topic; the devices of a process share one string."""
    return network.hex()[:NETWORK_DIGITS]


@lru_cache(maxsize=256)
def parse_topic(text: str) -> Topic:
    """The parts of a topic; a client hears the same few again and again.

    Raises:
        BadEncoding: If the grammar has no such topic.
    """
    match = _TOPIC.fullmatch(text) if len(text) <= MAX_TOPIC_CHARACTERS else None
    if match is None:
        raise BadEncoding(f"no topic of the protocol: {text[:80]!r}")
    network, shard = match["network"], ChainId(match["shard"])
    if match["round"]:
        return Topic(network=network, shard=shard, kind=TopicKind.ROUND)
    if match["epoch"]:
        number = None if match["epoch"] == "latest" else EpochNumber(int(match["epoch"]))
        return Topic(network=network, shard=shard, kind=TopicKind.EPOCH, epoch=number)
    if match["blob"]:
        return Topic(
            network=network,
            shard=shard,
            kind=TopicKind.CHUNK,
            blob=Digest(bytes.fromhex(match["blob"])),
            index=int(match["index"]),
        )
    if match["token"]:
        return Topic(network=network, shard=shard, kind=TopicKind.ENROLL, token=match["token"])
    return Topic(
        network=network,
        shard=shard,
        kind=TopicKind(match["kind"]),
        device=DeviceId(bytes.fromhex(match["device"])),
    )
