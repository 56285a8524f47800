import json
from pathlib import Path
from typing import Any

import pytest

from headwater_protocol.chain.block import transactions_root
from headwater_protocol.chain.round import compute_rank
from headwater_protocol.crypto.hashing import Domain, domain_prefix
from headwater_protocol.crypto.signing import (
    SecretKey,
    is_signature,
    is_signature_pycryptodome,
    signing_bytes,
)
from headwater_protocol.encoding.record import decode_record, encode_record
from headwater_protocol.merkle.sequence import compute_list_root, verify_list_proof
from headwater_protocol.merkle.trie import MapProof, MerkleMap, verify_map_proof
from tests.support.make_vectors_protocol import make_files
from tests.support.records import record_classes

VECTORS = Path(__file__).parents[1] / "vectors" / "protocol"
CLASSES = {kind.KIND: kind for kind in record_classes()}


def read(name: str) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((VECTORS / name).read_text())
    return cases


def load(name: str) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in read(name)]


def unhex(text: str | None) -> Any:
    return None if text is None else bytes.fromhex(text)


def map_proof(plain: dict[str, Any]) -> MapProof:
    return MapProof(
        siblings=tuple(unhex(sibling) for sibling in plain["siblings"]),
        other_key_hash=unhex(plain["other_key_hash"]),
        other_value_hash=unhex(plain["other_value_hash"]),
    )


def test_committed_vectors_are_what_the_generator_writes():
    for name, text in make_files().items():
        assert (VECTORS / name).read_text() == text


def test_every_kind_of_record_has_a_vector():
    assert {case["kind"] for case in read("records.json")} == set(CLASSES)


def test_every_signed_domain_has_a_vector():
    # A proposal and a seed are the engine's and the ledger's own; the others name digests only.
    signed = {case["domain"] for case in read("signatures.json")}
    assert signed == {
        "checkpoint",
        "credential",
        "enrolment",
        "receipt",
        "revocation",
        "status",
        "transaction",
        "update",
        "vote",
    }


@pytest.mark.parametrize("case", load("records.json"))
def test_record(case):
    data = unhex(case["encoded"])
    assert encode_record(decode_record(CLASSES[case["kind"]], data)) == data


@pytest.mark.parametrize("case", load("signatures.json"))
def test_signature(case):
    domain, key = Domain(case["domain"]), SecretKey(unhex(case["seed"]))
    message = unhex(case["prefix"]) + unhex(case["network"]) + unhex(case["encoded"])
    assert unhex(case["prefix"]) == domain_prefix(domain)
    assert message == signing_bytes(domain, unhex(case["network"]), unhex(case["encoded"]))
    assert key.public_key.hex() == case["public_key"]
    assert key.sign(message).hex() == case["signature"]
    for check in (is_signature, is_signature_pycryptodome):
        assert check(key.public_key, message, unhex(case["signature"]))
        assert not check(key.public_key, message + b"\0", unhex(case["signature"]))


@pytest.mark.parametrize("case", load("lists.json"))
def test_list(case):
    items = [unhex(item) for item in case["items"]]
    assert compute_list_root(items).hex() == case["root"]
    assert transactions_root(tuple(items)).hex() == case["transactions_root"]
    for index, proof in enumerate(case["proofs"]):
        verify_list_proof(
            root=unhex(case["root"]),
            item=items[index],
            index=index,
            count=len(items),
            siblings=[unhex(sibling) for sibling in proof],
        )


@pytest.mark.parametrize("case", load("maps.json"))
def test_map(case):
    entries = {unhex(key): unhex(value) for key, value in case["entries"]}
    tree = MerkleMap[None]().updated({key: (value, None) for key, value in entries.items()})
    assert tree.root.hex() == case["root"]
    for row in (case["present"], case["absent"]):
        for key, proof in row.items():
            assert tree.prove(unhex(key)) == map_proof(proof)
            verify_map_proof(
                root=unhex(case["root"]),
                key=unhex(key),
                value=entries.get(unhex(key)),
                proof=map_proof(proof),
            )


@pytest.mark.parametrize("case", load("ranks.json"))
def test_rank(case):
    rank = compute_rank(unhex(case["seed"]), unhex(case["device"]), case["weight"])
    assert f"{rank:064x}" == case["rank"]
