"""Write tests/vectors/protocol: `python -m tests.support.make_vectors_protocol`."""

import json
from pathlib import Path
from typing import Any

from headwater_protocol.chain.block import (
    BlockHeader,
    Certificate,
    Vote,
    certificate_digest,
    header_digest,
    transactions_root,
)
from headwater_protocol.chain.checkpoint import Checkpoint, checkpoint_digest
from headwater_protocol.chain.claim import UpdateClaim
from headwater_protocol.chain.committee import Committee, committee_digest
from headwater_protocol.chain.genesis import Genesis, genesis_network
from headwater_protocol.chain.proof import compute_state_root
from headwater_protocol.chain.round import compute_rank
from headwater_protocol.chain.transaction import (
    Enrolment,
    Revocation,
    SignedTransaction,
    Transaction,
    transaction_digest,
)
from headwater_protocol.crypto.hashing import Domain, blob_digest, domain_prefix
from headwater_protocol.crypto.signing import signing_bytes
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.merkle.sequence import compute_list_proof, compute_list_root
from headwater_protocol.merkle.trie import MapProof, MerkleMap
from headwater_protocol.messages.credential import JoinRequest, RenewalRequest
from headwater_protocol.messages.receipt import Receipt
from headwater_protocol.messages.status import Status
from tests.support.network import key
from tests.support.records import (
    CAST,
    DEVICES,
    SHARD,
    digest,
    example_records,
    make_header,
    record_classes,
)

VECTORS = Path(__file__).parents[1] / "vectors" / "protocol"

SIGNED = {
    Checkpoint: Domain.CHECKPOINT,
    Enrolment: Domain.ENROLMENT,
    JoinRequest: Domain.CREDENTIAL,
    Receipt: Domain.RECEIPT,
    RenewalRequest: Domain.CREDENTIAL,
    Revocation: Domain.REVOCATION,
    Status: Domain.STATUS,
    Transaction: Domain.TRANSACTION,
    UpdateClaim: Domain.UPDATE,
    Vote: Domain.VOTE,
}
"""What is signed, and in which domain."""


def digest_of(record: object) -> str | None:
    """The digest by which the protocol names the record, where it names it."""
    match record:
        case BlockHeader():
            return header_digest(record).hex()
        case Certificate():
            return certificate_digest(record).hex()
        case Checkpoint():
            return checkpoint_digest(record).hex()
        case Committee():
            return committee_digest(record).hex()
        case Genesis():
            return genesis_network(record).hex()
        case SignedTransaction():
            return transaction_digest(encode_record(record)).hex()
    return None


def make_records() -> list[dict[str, Any]]:
    names = {kind: kind.KIND for kind in record_classes()}  # type: ignore[attr-defined]
    result = []
    counts: dict[str, int] = {}
    for record in example_records():
        name = names[type(record)]
        counts[name] = counts.get(name, 0) + 1
        domain = SIGNED.get(type(record))
        data = encode_record(record)
        message = None if domain is None else signing_bytes(domain, CAST.network, data)
        result.append(
            {
                "name": f"{name} #{counts[name]}",
                "kind": name,
                "encoded": data.hex(),
                "digest": digest_of(record),
                "signing_bytes": None if message is None else message.hex(),
            }
        )
    return sorted(result, key=lambda case: (case["kind"], case["name"]))


def make_signatures() -> list[dict[str, Any]]:
    result = []
    for record in example_records():
        domain = SIGNED.get(type(record))
        if domain is None:
            continue
        signer = key("signer")
        data = encode_record(record)
        result.append(
            {
                "name": f"{domain.value} #{len(result)}",
                "domain": domain.value,
                "prefix": domain_prefix(domain).hex(),
                "seed": signer.seed.hex(),
                "public_key": signer.public_key.hex(),
                "network": CAST.network.hex(),
                "encoded": data.hex(),
                "signature": signer.sign_record(domain, CAST.network, record).hex(),
            }
        )
    return result


def make_lists() -> list[dict[str, Any]]:
    result = []
    for count in (0, 1, 2, 3, 5, 8, 13):
        items = [bytes([index]) * (index % 4) for index in range(count)]
        result.append(
            {
                "name": f"{count} items",
                "items": [item.hex() for item in items],
                "root": compute_list_root(items).hex(),
                "transactions_root": transactions_root(tuple(items)).hex(),
                "proofs": [
                    [sibling.hex() for sibling in compute_list_proof(items, index)]
                    for index in range(count)
                ],
            }
        )
    return result


def plain_proof(proof: MapProof) -> dict[str, Any]:
    other_key, other_value = proof.other_key_hash, proof.other_value_hash
    return {
        "siblings": [sibling.hex() for sibling in proof.siblings],
        "other_key_hash": None if other_key is None else other_key.hex(),
        "other_value_hash": None if other_value is None else other_value.hex(),
    }


def make_maps() -> list[dict[str, Any]]:
    result = []
    for count in (0, 1, 2, 5, 16):
        entries = {b"key-%d" % index: b"value-%d" % index for index in range(count)}
        tree: MerkleMap[None] = MerkleMap()
        tree = tree.updated({name: (value, None) for name, value in entries.items()})
        result.append(
            {
                "name": f"{count} entries",
                "entries": [[name.hex(), value.hex()] for name, value in entries.items()],
                "root": tree.root.hex(),
                "present": {name.hex(): plain_proof(tree.prove(name)) for name in entries},
                "absent": {
                    name.hex(): plain_proof(tree.prove(name)) for name in (b"", b"key-99", b"other")
                },
            }
        )
    return result


def make_digests() -> list[dict[str, Any]]:
    return [
        {
            "name": "blob",
            "given": b"headwater".hex(),
            "digest": blob_digest(b"headwater").hex(),
        },
        {
            "name": "header",
            "given": encode_record(make_header(SHARD, digest("state"))).hex(),
            "digest": header_digest(make_header(SHARD, digest("state"))).hex(),
        },
        {
            "name": "genesis",
            "given": encode_record(CAST.genesis).hex(),
            "digest": genesis_network(CAST.genesis).hex(),
        },
        {
            "name": "committee",
            "given": encode_record(CAST.genesis.committee(SHARD)).hex(),
            "digest": committee_digest(CAST.genesis.committee(SHARD)).hex(),
        },
        {
            "name": "state root",
            "given": (digest("a") + digest("b")).hex(),
            "digest": compute_state_root((digest("a"), digest("b"))).hex(),
        },
    ]


def make_ranks() -> list[dict[str, Any]]:
    return [
        {
            "name": f"device {index}, weight {weight}",
            "seed": digest("seed").hex(),
            "device": device.device.hex(),
            "weight": weight,
            "rank": f"{compute_rank(digest('seed'), device.device, weight):064x}",
        }
        for index, device in enumerate(DEVICES)
        for weight in (1, 2, 1_000_000)
    ]


def make_files() -> dict[str, str]:
    """Name and text of each file of vectors."""
    files = {
        "records.json": make_records(),
        "signatures.json": make_signatures(),
        "lists.json": make_lists(),
        "maps.json": make_maps(),
        "digests.json": make_digests(),
        "ranks.json": make_ranks(),
    }
    return {
        name: "[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n"
        for name, cases in files.items()
    }


def main() -> None:
    VECTORS.mkdir(parents=True, exist_ok=True)
    for name, text in make_files().items():
        (VECTORS / name).write_text(text)


if __name__ == "__main__":
    main()
