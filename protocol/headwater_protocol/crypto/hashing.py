"""Domain-separated SHA-256.

A hash of one kind of thing can never be presented as that of another: each domain has its own
prefix, ended by a zero byte that no domain name contains. Blobs alone are named by the plain
SHA-256 of their bytes, so that any tool can check them.
"""

import hashlib
from enum import StrEnum
from typing import Final

from headwater_protocol.encoding.record import encode_record
from headwater_protocol.identifiers import Digest


class Domain(StrEnum):
    """What is hashed or signed; part of every preimage."""

    GENESIS = "genesis"
    TRANSACTION = "transaction"
    TRANSACTION_LIST = "transaction-list"
    OUTCOME_LIST = "outcome-list"
    HEADER = "header"
    CERTIFICATE = "certificate"
    PROPOSAL = "proposal"
    VOTE = "vote"
    STATE = "state"
    COMMITTEE = "committee"
    COHORT = "cohort"
    UPDATE = "update"
    RECEIPT = "receipt"
    ENROLMENT = "enrolment"
    STATUS = "status"
    CHECKPOINT = "checkpoint"
    SEED = "seed"
    EPOCH = "epoch"
    SHUFFLE = "shuffle"
    INFRACTION = "infraction"
    PAYLOAD_WITHHELD = "payload-withheld"
    PLACEMENT = "placement"
    HTTP_REQUEST = "http-request"
    REVOCATION = "revocation"
    TOKEN = "token"  # noqa: S105
    CREDENTIAL = "credential"
    TRANSPORT_KEY = "transport-key"


_PREFIXES: Final = {domain: b"headwater/1/" + domain.value.encode() + b"\0" for domain in Domain}


def domain_prefix(domain: Domain) -> bytes:
    """The bytes in front of every preimage of `domain`."""
    return _PREFIXES[domain]


def hash_bytes(domain: Domain, *parts: bytes) -> Digest:
    """SHA-256 of the domain's prefix and `parts`; all parts but one must have a fixed length."""
    hasher = hashlib.sha256(domain_prefix(domain))
    for part in parts:
        hasher.update(part)
    return Digest(hasher.digest())


def hash_record(domain: Domain, record: object) -> Digest:
    """The digest of a record's canonical bytes in `domain`."""
    return hash_bytes(domain, encode_record(record))


def blob_digest(data: bytes) -> Digest:
    """The name of a blob: the plain SHA-256 of its bytes."""
    return Digest(hashlib.sha256(data).digest())
