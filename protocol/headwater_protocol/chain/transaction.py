"""Transactions of both ledgers.

A transaction names its network, chain, sender and nonce, so it cannot be replayed anywhere. Nonces
of a sender only have to increase: a lost transaction never blocks the ones after it, and a sender
that lost its state can start from the clock.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar, Final

from headwater_protocol.chain.block import MAX_TRANSACTION_BYTES, BlockHeader, Certificate
from headwater_protocol.chain.checkpoint import CheckpointSignature, SignedCheckpoint
from headwater_protocol.chain.claim import Commit
from headwater_protocol.chain.justice import JusticeBody
from headwater_protocol.chain.market import MarketBody, SponsoredTask
from headwater_protocol.chain.proof import StateProof
from headwater_protocol.chain.round import CountField, DeviceWeight
from headwater_protocol.chain.stake import StakeBody
from headwater_protocol.crypto.hashing import Domain, hash_bytes
from headwater_protocol.crypto.signing import SecretKey, Verifier, signing_bytes
from headwater_protocol.encoding.record import Count, Range, decode_record, encode_record
from headwater_protocol.errors import BadSignature
from headwater_protocol.identifiers import (
    MAX_UNSIGNED,
    NOTHING,
    AccountId,
    ChainId,
    DeviceId,
    Digest,
    EpochNumber,
    Network,
    Nonce,
    RoundNumber,
    Signature,
    TaskId,
    TimeMs,
    Units,
)
from headwater_protocol.light.update import EpochUpdate
from headwater_protocol.messages.status import SignedStatus

MAX_BATCH_COMMITS: Final = 1_000
"""Commits of one transaction: about 150 kB."""

UNAVAILABLE: Final = -10_001
"""In the place of a score: the delegate could not get the payload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """What a registrar signs to let a device take part in a shard."""

    KIND: ClassVar[str] = "enrolment/1"

    shard: ChainId
    device: DeviceId
    weight: DeviceWeight
    """How often it is drawn, in proportion to the others; 1 for all is even."""
    expires_ms: TimeMs
    """The last block time at which the enrolment can still be put on the ledger."""
    owner: AccountId | None = None
    """Who locked the device's deposit on the main chain; None for the device itself."""
    deposit: Units = NOTHING
    """What the registrar found locked for the device and this shard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolDevice:
    """Put a device on the shard's ledger; any account may send it, the registrar's word counts."""

    KIND: ClassVar[str] = "enrol-device/1"

    enrolment: Enrolment
    registrar: AccountId
    signature: Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """What a registrar signs to take a device's enrolment back, for good."""

    KIND: ClassVar[str] = "revocation/1"

    shard: ChainId
    device: DeviceId
    expires_ms: TimeMs
    """The last block time at which the revocation can still be put on the ledger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeDevice:
    """Leave a device out from now on; any account may send it, the registrar's word counts."""

    KIND: ClassVar[str] = "revoke-device/1"

    revocation: Revocation
    registrar: AccountId
    signature: Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitUpdates:
    """A batch of updates that a delegate took in and stores the payloads of."""

    KIND: ClassVar[str] = "commit-updates/1"

    round: RoundNumber
    commits: Annotated[tuple[Commit, ...], Count(1, MAX_BATCH_COMMITS)]
    """In order of the devices' keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PostScores:
    """One delegate's scores for one batch; each says too that the payload could be had."""

    KIND: ClassVar[str] = "post-scores/1"

    task: TaskId
    """The round's, which says how a payload and the reference are written."""
    round: RoundNumber
    batch: Annotated[int, Range(0, MAX_UNSIGNED)]
    scores: Annotated[
        tuple[Annotated[int, Range(UNAVAILABLE, 10_000)], ...], Count(1, MAX_BATCH_COMMITS)
    ]
    """In the batch's order; cosine in ten-thousandths, or `UNAVAILABLE`."""
    reference: Digest
    """The delegate's own delta, as a model's blob: what the updates are compared with. Anybody who
    holds it and a payload can check a score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestModel:
    """One delegate's digest of a round's model."""

    KIND: ClassVar[str] = "attest-model/1"

    round: RoundNumber
    model: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class SignCheckpoint:
    """One delegate's signature over one of the shard's checkpoints."""

    KIND: ClassVar[str] = "sign-checkpoint/1"

    number: Annotated[int, Range(1, MAX_UNSIGNED)]
    checkpoint: Digest
    """Its digest."""
    signature: CheckpointSignature


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptEpoch:
    """The next epoch, proven, with the committee and the merged model that a shard goes on with."""

    KIND: ClassVar[str] = "adopt-epoch/1"

    update: EpochUpdate


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptTask:
    """The next task, for a shard that has finished the last one, or the early end of its own."""

    KIND: ClassVar[str] = "adopt-task/2"

    entry: SponsoredTask
    proof: StateProof
    header: BlockHeader
    certificate: Certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclareCapability:
    """Note the class that a device reports, which decides how often it is drawn."""

    KIND: ClassVar[str] = "declare-capability/1"

    status: SignedStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Move units between accounts of the main chain."""

    KIND: ClassVar[str] = "transfer/1"

    recipient: AccountId
    amount: Units


@dataclass(frozen=True, slots=True, kw_only=True)
class PostCheckpoint:
    """Settle a shard's checkpoint; anybody may relay it."""

    KIND: ClassVar[str] = "post-checkpoint/1"

    signed: SignedCheckpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestMerge:
    """One delegate's digest of an epoch's merged model."""

    KIND: ClassVar[str] = "attest-merge/1"

    epoch: EpochNumber
    model: Digest
    attempt: CountField = 0
    """Which of the merge's attempts; each has inputs of its own, so each may be attested once."""


ShardBody = (
    EnrolDevice
    | DeclareCapability
    | RevokeDevice
    | CommitUpdates
    | PostScores
    | AttestModel
    | SignCheckpoint
    | AdoptEpoch
    | AdoptTask
)
MainBody = Transfer | PostCheckpoint | AttestMerge | StakeBody | MarketBody | JusticeBody
Body = ShardBody | MainBody


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """What a sender signs."""

    KIND: ClassVar[str] = "transaction/1"

    network: Network
    chain: ChainId
    sender: AccountId
    nonce: Nonce
    """Greater than that of the sender's last executed transaction on this chain."""
    body: Body


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedTransaction:
    """A transaction as it travels and stands in a block."""

    KIND: ClassVar[str] = "signed-transaction/1"

    transaction: Transaction
    signature: Signature


SMALL_BYTES: Final = 1_024
"""Up to here many decoded transactions are remembered, beyond only a few."""
MAX_DECODED: Final = 10_000
"""Small ones remembered, about 2 kB each: as many as may wait for a block."""


def sign_transaction(key: SecretKey, transaction: Transaction) -> bytes:
    """The encoded `SignedTransaction` of `transaction`."""
    signature = key.sign_record(Domain.TRANSACTION, transaction.network, transaction)
    return encode_record(SignedTransaction(transaction=transaction, signature=signature))


def decode_transaction(data: bytes) -> SignedTransaction:
    """The signed transaction that `data` encodes; its signature is not checked.

    Raises:
        InvalidMessage: If it does not decode, or exceeds `MAX_TRANSACTION_BYTES`.
    """
    return _decode_small(data) if len(data) <= SMALL_BYTES else _decode_large(data)


def _decode(data: bytes) -> SignedTransaction:
    return decode_record(SignedTransaction, data, max_bytes=MAX_TRANSACTION_BYTES)


# Who takes a transaction in, proposes it, executes it and looks for evidence in it decodes it each
# time, and decoding costs more than most of them do.
_decode_small: Final = lru_cache(maxsize=MAX_DECODED)(_decode)
_decode_large: Final = lru_cache(maxsize=8)(_decode)


def verify_transaction(signed: SignedTransaction, verifier: Verifier) -> None:
    """Check the sender's signature.

    Raises:
        BadSignature: If it does not verify.
    """
    transaction = signed.transaction
    message = signing_bytes(Domain.TRANSACTION, transaction.network, encode_record(transaction))
    if not verifier.verify(transaction.sender, message, signed.signature):
        raise BadSignature(f"not signed by {transaction.sender.hex()[:16]}")


def transaction_digest(encoded: bytes) -> Digest:
    """The name of an encoded transaction."""
    return hash_bytes(Domain.TRANSACTION, encoded)
