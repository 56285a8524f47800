"""The announcement of a round: retained, and provable from the pinned genesis."""

from dataclasses import dataclass
from typing import ClassVar, Final

from headwater_protocol.chain.block import BlockHeader, Certificate, verify_certificate
from headwater_protocol.chain.committee import Committee
from headwater_protocol.chain.proof import SHARD_NAMESPACES, StateProof, verify_state_proof
from headwater_protocol.chain.round import Round
from headwater_protocol.chain.task import Task
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.encoding.record import decode_record, encode_record
from headwater_protocol.errors import OutOfBounds
from headwater_protocol.identifiers import ChainId, Network, RoundNumber

MAX_ANNOUNCEMENT_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """A round and its task, with what proves that more than two thirds of the shard signed them."""

    KIND: ClassVar[str] = "announcement/1"

    header: BlockHeader
    certificate: Certificate
    round: Round
    round_proof: StateProof
    task: Task
    task_proof: StateProof


def round_key(number: RoundNumber) -> bytes:
    """A round's key in its namespace."""
    return number.to_bytes(8, "big")


def task_key(task: str) -> bytes:
    """A task's key in its namespace."""
    return task.encode()


def decode_announcement(data: bytes) -> Announcement:
    """The announcement that `data` encodes; nothing of it is verified.

    Raises:
        InvalidMessage: If it does not decode.
    """
    return decode_record(Announcement, data, max_bytes=MAX_ANNOUNCEMENT_BYTES)


def verify_announcement(
    announcement: Announcement,
    *,
    network: Network,
    shard: ChainId,
    committee: Committee,
    verifier: Verifier,
) -> None:
    """Check that `committee` certified the state which holds the round and its task.

    Raises:
        InvalidMessage: The subclass says what does not hold.
    """
    header = announcement.header
    if header.network != network or header.chain != shard:
        raise OutOfBounds("the announcement is of another network or shard")
    if announcement.round.task != announcement.task.task:
        raise OutOfBounds("the round is of another task")
    verify_certificate(
        announcement.certificate,
        header=header,
        committee=committee,
        verifier=verifier,
        is_complete=False,
    )
    for proof, namespace, key, record in (
        (
            announcement.round_proof,
            "rounds",
            round_key(announcement.round.number),
            announcement.round,
        ),
        (announcement.task_proof, "tasks", task_key(announcement.task.task), announcement.task),
    ):
        verify_state_proof(
            proof,
            state_root=header.state_root,
            namespaces=SHARD_NAMESPACES,
            namespace=namespace,
            key=key,
            value=encode_record(record),
        )
