import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headwater_protocol.model.aggregate import (
    Contribution,
    apply_aggregate,
    compute_aggregate,
    rebase,
)
from headwater_protocol.model.fixed_point import (
    FixedPointModel,
    decode_model,
    encode_model,
    model_digest,
)
from headwater_protocol.model.integer_mean import merge_models
from headwater_protocol.model.norms import squared_norm
from headwater_protocol.model.payload import decode_payload, encode_payload
from headwater_protocol.model.quantized_delta import QuantizedDelta, int32_delta
from headwater_protocol.model.rule import AggregationRule, RuleKind
from tests.support.make_vectors_model import make_files

VECTORS = Path(__file__).parents[2] / "vectors" / "model"


def load(name: str) -> list[Any]:
    cases: list[Any] = json.loads((VECTORS / name).read_text())
    return [pytest.param(case, id=case["name"]) for case in cases]


def int32(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def test_committed_vectors_are_what_the_generator_writes():
    for name, text in make_files().items():
        assert (VECTORS / name).read_text() == text


@pytest.mark.parametrize("case", load("models.json"))
def test_model(case):
    model = FixedPointModel(
        parameters=int32(case["parameters"]), fraction_bits=case["fraction_bits"]
    )
    data = bytes.fromhex(case["encoded"])
    assert encode_model(model) == data
    assert decode_model(data, max_parameters=len(case["parameters"])) == model
    assert model_digest(data).hex() == case["digest"]


@pytest.mark.parametrize("case", load("payloads.json"))
def test_payload(case):
    delta = QuantizedDelta(
        codes=np.array(case["codes"], dtype=np.int8),
        exponents=tuple(case["exponents"]),
        tensor_sizes=tuple(case["tensor_sizes"]),
        bits=case["bits"],
        fraction_bits=case["fraction_bits"],
    )
    data = bytes.fromhex(case["payload"])
    assert encode_payload(delta) == data
    decoded = decode_payload(
        data,
        tensor_sizes=tuple(case["tensor_sizes"]),
        bits=case["bits"],
        fraction_bits=case["fraction_bits"],
        max_bytes=len(data),
    )
    assert decoded == delta
    assert int32_delta(decoded).tolist() == case["int32_delta"]
    assert squared_norm(decoded) == int(case["squared_norm"])


@pytest.mark.parametrize("case", load("aggregates.json"))
def test_aggregate(case):
    rule = AggregationRule(**{**case["rule"], "kind": RuleKind(case["rule"]["kind"])})
    contributions = [
        Contribution(
            device_id=bytes.fromhex(row["device_id"]),
            num_examples=row["num_examples"],
            delta=int32(row["delta"]),
        )
        for row in case["contributions"]
    ]
    aggregate = compute_aggregate(
        contributions, rule, num_parameters=6, max_examples=case["max_examples"]
    )
    assert aggregate.tolist() == case["aggregate"]
    assert apply_aggregate(int32(case["base"]), aggregate).tolist() == case["applied"]


@pytest.mark.parametrize("case", load("merges.json"))
def test_merge(case):
    merged = merge_models([(m["num_examples"], int32(m["parameters"])) for m in case["models"]])
    assert merged.tolist() == case["merged"]
    rebased = rebase(int32(case["current"]), merged, int32(case["checkpointed"]))
    assert rebased.tolist() == case["rebased"]
