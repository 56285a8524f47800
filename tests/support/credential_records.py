"""Examples of the records of enrolment and revocation, for tests of encodings."""

from collections.abc import Iterator

from headwater_protocol.chain.block import NO_DIGEST, BlockHeader
from headwater_protocol.chain.committee import committee_digest
from headwater_protocol.chain.device import Device
from headwater_protocol.chain.proof import SHARD_NAMESPACES, StateProof, compute_state_root
from headwater_protocol.chain.transaction import Revocation, RevokeDevice
from headwater_protocol.crypto.hashing import Domain
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.identifiers import (
    ChainId,
    DeviceId,
    Digest,
    EpochNumber,
    Height,
    RoundNumber,
    TimeMs,
    Units,
)
from headwater_protocol.merkle.trie import MerkleMap
from headwater_protocol.messages.credential import (
    Credential,
    DeviceProof,
    EnrolmentStatus,
    JoinRequest,
    RenewalRequest,
    SignedRequest,
    decode_request,
    sign_request,
)
from headwater_protocol.messages.token import TokenId, TokenSecret
from tests.support.network import GENESIS_MS, Cast, certify, key, make_cast

SHARD = ChainId("shard-0")
DEVICE = key("device-0")
TRANSPORT = key("transport-0")


def make_device(**changes: object) -> Device:
    """A device's entry on the ledger."""
    plain: dict[str, object] = {
        "weight": 2,
        "enrolled_height": Height(1),
        "num_accepted": 3,
        "num_rejected": 1,
        "reputation": 4_000,
        "owner": None,
        "deposit": Units(0),
        "mark": 5,
        "drawn_round": RoundNumber(2),
        "strikes": 0,
        "num_quarantines": 0,
        "quarantined_until": RoundNumber(0),
        "revoked_height": Height(0),
    }
    return Device(**{**plain, **changes})  # type: ignore[arg-type]


def make_revocation_body() -> RevokeDevice:
    cast = make_cast(shards=("shard-0", "shard-1"), validators_per_shard=2)
    revocation = Revocation(
        shard=SHARD, device=DEVICE.device, expires_ms=TimeMs(GENESIS_MS + 5_000)
    )
    return RevokeDevice(
        revocation=revocation,
        registrar=cast.registrar.account,
        signature=cast.registrar.sign_record(Domain.REVOCATION, cast.network, revocation),
    )


def make_join(**changes: object) -> JoinRequest:
    plain: dict[str, object] = {
        "device": DEVICE.device,
        "transport_key": TRANSPORT.public_key,
        "token": TokenId(bytes(range(6))),
        "secret": TokenSecret(bytes(range(16))),
    }
    return JoinRequest(**{**plain, **changes})  # type: ignore[arg-type]


def make_renewal(sequence: int = 1) -> RenewalRequest:
    return RenewalRequest(
        device=DEVICE.device, transport_key=TRANSPORT.public_key, sequence=sequence
    )


def signed(request: JoinRequest | RenewalRequest, cast: Cast) -> SignedRequest:
    return decode_request(sign_request(DEVICE, TRANSPORT, cast.network, request))


def make_proof(
    cast: Cast, device: Device, *, shard: ChainId = SHARD, name: DeviceId = DEVICE.device
) -> DeviceProof:
    """A device's entry in a state that holds nothing else, certified by its shard."""
    map_ = MerkleMap[Device]().updated({name: (encode_record(device), device)})
    roots = tuple(
        map_.root if name == "devices" else Digest(bytes(32)) for name in SHARD_NAMESPACES
    )
    committee = cast.genesis.committee(shard)
    header = BlockHeader(
        network=cast.network,
        chain=shard,
        height=Height(1),
        time_ms=TimeMs(GENESIS_MS + 10),
        previous=NO_DIGEST,
        last_certificate=NO_DIGEST,
        transactions_root=Digest(bytes(32)),
        outcomes_root=Digest(bytes(32)),
        state_root=compute_state_root(roots),
        committee=committee_digest(committee),
        next_committee=committee_digest(committee),
        proposer=committee.delegates[0].validator,
    )
    return DeviceProof(
        device=device,
        proof=StateProof(namespace="devices", map_proof=map_.prove(name), namespace_roots=roots),
        header=header,
        certificate=certify(
            header, [cast.keys[delegate.validator] for delegate in committee.delegates]
        ),
    )


def example_credential_records() -> Iterator[object]:
    """An example of each record of this part."""
    cast = make_cast(shards=("shard-0", "shard-1"), validators_per_shard=2)
    yield make_device()
    yield make_device(revoked_height=Height(9))
    yield make_revocation_body().revocation
    for request in (make_join(), make_renewal()):
        yield request
        yield signed(request, cast)
    yield Credential(
        shard=SHARD,
        weight=2,
        brokers=("mqtts://broker-1.example:8883", "mqtts://[::1]:8883"),
        certificate=b"-----BEGIN CERTIFICATE-----",
        not_after_ms=TimeMs(GENESIS_MS + 90 * 24 * 3_600_000),
    )
    yield EnrolmentStatus(device=DEVICE.device, epoch=EpochNumber(0), proven=None)
    yield EnrolmentStatus(
        device=DEVICE.device, epoch=EpochNumber(1), proven=make_proof(cast, make_device())
    )
