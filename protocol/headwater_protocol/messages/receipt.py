"""A gateway's signed answer to an update.

Two stages: `intake`, once the commit is final on the ledger and the payload on disk, or with the
reason why not; `verdict`, once the round is closed. A broker's acknowledgement is neither: a device
keeps its update until it holds a receipt or the round is over.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar, Final

from headwater_protocol.chain.cohort import Standing
from headwater_protocol.crypto.hashing import Domain
from headwater_protocol.crypto.signing import SecretKey, Verifier, verify_record
from headwater_protocol.encoding.record import Range, decode_record
from headwater_protocol.errors import OutOfBounds
from headwater_protocol.identifiers import (
    ChainId,
    DeviceId,
    Digest,
    Height,
    Network,
    RoundNumber,
    Signature,
    TimeMs,
    Units,
    ValidatorId,
)
from headwater_protocol.reasons import ReasonCode

MAX_RECEIPT_BYTES: Final = 1_024


class Stage(StrEnum):
    """What a receipt is about."""

    INTAKE = "intake"
    VERDICT = "verdict"


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What became of an update."""

    KIND: ClassVar[str] = "receipt/1"

    stage: Stage
    shard: ChainId
    round: RoundNumber
    device: DeviceId
    payload: Digest
    """Of the update meant; zeros where it could not be decoded."""
    reason: ReasonCode
    height: Height
    """The block that holds the commit, or that closed the round; 0 where there is none."""
    score: Annotated[int, Range(-10_001, 10_000)]
    """At `verdict`, the committee's median in ten-thousandths; 0 before."""
    reward: Units
    """At `verdict`, what the update earned."""
    time_ms: TimeMs
    """The gateway's clock."""
    gateway: ValidatorId
    standing: Standing | None = None
    """What the device's weight in the next draw follows from; None where it is not enrolled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedReceipt:
    """A receipt that proves what the gateway promised."""

    KIND: ClassVar[str] = "signed-receipt/1"

    receipt: Receipt
    signature: Signature


def sign_receipt(key: SecretKey, network: Network, receipt: Receipt) -> SignedReceipt:
    """`receipt` with the gateway's signature."""
    return SignedReceipt(
        receipt=receipt, signature=key.sign_record(Domain.RECEIPT, network, receipt)
    )


def verify_receipt(signed: SignedReceipt, *, network: Network, verifier: Verifier) -> None:
    """Check the gateway's signature; whether it is a delegate is the caller's question.

    Raises:
        BadSignature: If it does not verify.
    """
    verify_record(
        verifier,
        signed.receipt.gateway,
        Domain.RECEIPT,
        network,
        signed.receipt,
        signed.signature,
    )


def decode_receipt(data: bytes) -> SignedReceipt:
    """The signed receipt that `data` encodes.

    Raises:
        InvalidMessage: If it does not decode.
    """
    signed = decode_record(SignedReceipt, data, max_bytes=MAX_RECEIPT_BYTES)
    if signed.receipt.stage is Stage.INTAKE and signed.receipt.reward:
        raise OutOfBounds("nothing is earned at intake")
    return signed
