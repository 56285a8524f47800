"""Proofs about a ledger's state, from one certified header.

State lives in namespaces, each a Merkle map; the state root is the digest of the namespace roots
in a fixed order. A light node needs one map's proof and the row of roots.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from headwater_protocol.crypto.hashing import Domain, hash_bytes
from headwater_protocol.encoding.record import Count, Pattern
from headwater_protocol.errors import BadProof
from headwater_protocol.identifiers import Digest
from headwater_protocol.merkle.trie import MapProof, compute_proven_root

MAX_NAMESPACES: Final = 32

SHARD_NAMESPACES: Final = (
    "attestations",
    "batches",
    "chain",
    "checkpoints",
    "devices",
    "epochs",
    "nonces",
    "owners",
    "payloads",
    "penalties",
    "rewards",
    "roots",
    "rounds",
    "scores",
    "tasks",
    "updates",
)
MAIN_NAMESPACES: Final = (
    "access",
    "accounts",
    "attestations",
    "candidates",
    "chain",
    "checkpoints",
    "claims",
    "delegations",
    "deposits",
    "epochs",
    "evidence",
    "licences",
    "liveness",
    "merges",
    "models",
    "nonces",
    "pots",
    "redelegations",
    "shards",
    "tasks",
    "unbondings",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StateProof:
    """What leads from one key of one namespace to a state root."""

    KIND: ClassVar[str] = "state-proof/1"

    namespace: Annotated[str, Pattern("[a-z]{1,24}")]
    map_proof: MapProof
    namespace_roots: Annotated[tuple[Digest, ...], Count(1, MAX_NAMESPACES)]
    """All roots, in order of the namespaces' names."""


def compute_state_root(namespace_roots: tuple[Digest, ...]) -> Digest:
    """The digest of the namespaces' roots."""
    return hash_bytes(Domain.STATE, *namespace_roots)


def verify_state_proof(
    proof: StateProof,
    *,
    state_root: Digest,
    namespaces: tuple[str, ...],
    namespace: str,
    key: bytes,
    value: bytes | None,
) -> None:
    """Check that `key` of `namespace` has `value` (None: no value) in the state of `state_root`.

    Args:
        proof: Untrusted.
        state_root: From a certified header.
        namespaces: All namespaces of that kind of ledger, sorted.
        namespace: The one that holds the key.
        key: Of the entry.
        value: The entry's canonical bytes.

    Raises:
        BadProof: If it does not follow.
    """
    if proof.namespace != namespace or len(proof.namespace_roots) != len(namespaces):
        raise BadProof("the proof is about another namespace")
    if compute_state_root(proof.namespace_roots) != state_root:
        raise BadProof("the namespace roots lead to another state root")
    root = compute_proven_root(key=key, value=value, proof=proof.map_proof)
    if root != proof.namespace_roots[namespaces.index(namespace)]:
        raise BadProof("the map proof leads to another root")
