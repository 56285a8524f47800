"""What a device and a registrar say to each other, over HTTPS.

A device asks with two signatures over one request: its own key's, which names it, and the
transport key's, which shows that it holds the key that the certificate is for. A request to join
carries a token; one to renew carries a number that only grows, so that a request that was seen
once brings nobody a certificate for a key that was given up.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from headwater_protocol.chain.block import BlockHeader, Certificate
from headwater_protocol.chain.device import Device
from headwater_protocol.chain.proof import StateProof
from headwater_protocol.chain.round import DeviceWeight
from headwater_protocol.crypto.hashing import Domain
from headwater_protocol.crypto.signing import SecretKey, Verifier, verify_record
from headwater_protocol.encoding.record import (
    Count,
    Length,
    Pattern,
    Range,
    decode_record,
    encode_record,
)
from headwater_protocol.identifiers import (
    MAX_UNSIGNED,
    ChainId,
    DeviceId,
    EpochNumber,
    Network,
    Signature,
    TimeMs,
)
from headwater_protocol.messages.token import TokenId, TokenSecret

PATH: Final = "/enrol/v1"
"""What the paths of a registrar begin with."""
MAX_REQUEST_BYTES: Final = 1_024
MAX_CREDENTIAL_BYTES: Final = 32 * 1024
MAX_STATUS_BYTES: Final = 256 * 1024
MAX_PEM_BYTES: Final = 8 * 1024
MAX_BROKERS: Final = 16

TransportKey = Annotated[bytes, Length(32)]
"""The Ed25519 public key that a broker and a device's certificate know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRequest:
    """A device that has a token asks to be enrolled."""

    KIND: ClassVar[str] = "join-request/1"

    device: DeviceId
    transport_key: TransportKey
    token: TokenId
    secret: TokenSecret


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalRequest:
    """A device that was accepted asks for another certificate."""

    KIND: ClassVar[str] = "renewal-request/1"

    device: DeviceId
    transport_key: TransportKey
    sequence: Annotated[int, Range(1, MAX_UNSIGNED)]
    """Greater than in the device's last request; a repeat of the last one is answered again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRequest:
    """A request as it travels."""

    KIND: ClassVar[str] = "signed-request/1"

    request: JoinRequest | RenewalRequest
    signature: Signature
    """The device key's."""
    possession: Signature
    """The transport key's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """The answer: the device's place in the network, and what brokers know it by."""

    KIND: ClassVar[str] = "credential/1"

    shard: ChainId
    weight: DeviceWeight
    brokers: Annotated[
        tuple[Annotated[str, Pattern(r"mqtts?://[A-Za-z0-9.:\[\]_-]{1,256}")], ...],
        Count(1, MAX_BROKERS),
    ]
    certificate: Annotated[bytes, Length(1, MAX_PEM_BYTES)]
    """PEM, over the transport key, with the device's id as its common name."""
    not_after_ms: TimeMs
    """When it expires."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProof:
    """A device's entry on its shard's ledger, with what proves it from the genesis."""

    device: Device
    proof: StateProof
    header: BlockHeader
    certificate: Certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentStatus:
    """How far an enrolment is."""

    KIND: ClassVar[str] = "enrolment-status/1"

    device: DeviceId
    epoch: EpochNumber
    """The last one whose proof can be had here; a light client takes them from 1 on."""
    proven: DeviceProof | None
    """None while the ledger has no such device."""


def sign_request(
    key: SecretKey, transport: SecretKey, network: Network, request: JoinRequest | RenewalRequest
) -> bytes:
    """The encoded `SignedRequest` of a device.

    Args:
        key: The device's.
        transport: The one that the certificate is for.
        network: Part of what is signed.
        request: Names both keys.
    """
    signed = SignedRequest(
        request=request,
        signature=key.sign_record(Domain.CREDENTIAL, network, request),
        possession=transport.sign_record(Domain.TRANSPORT_KEY, network, request),
    )
    return encode_record(signed)


def decode_request(data: bytes) -> SignedRequest:
    """The request that `data` encodes; nothing of it is verified.

    Raises:
        InvalidMessage: If it does not decode.
    """
    return decode_record(SignedRequest, data, max_bytes=MAX_REQUEST_BYTES)


def verify_request(signed: SignedRequest, *, network: Network, verifier: Verifier) -> None:
    """Check that the device asked, and that it holds the transport key.

    Raises:
        BadSignature: If either signature does not verify.
    """
    request = signed.request
    verify_record(verifier, request.device, Domain.CREDENTIAL, network, request, signed.signature)
    verify_record(
        verifier,
        request.transport_key,
        Domain.TRANSPORT_KEY,
        network,
        request,
        signed.possession,
    )
