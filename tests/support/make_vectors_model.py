"""Write tests/vectors/model: `python -m tests.support.make_vectors_model`.

Inputs come from a linear congruential generator, so that another implementation, or another version
of Python or numpy, can make them too.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from headwater_protocol.model.aggregate import (
    Contribution,
    apply_aggregate,
    compute_aggregate,
    rebase,
)
from headwater_protocol.model.fixed_point import FixedPointModel, encode_model, model_digest
from headwater_protocol.model.integer_mean import merge_models
from headwater_protocol.model.norms import squared_norm
from headwater_protocol.model.payload import encode_payload
from headwater_protocol.model.quantized_delta import QuantizedDelta, int32_delta, max_code
from headwater_protocol.model.rule import AggregationRule, RuleKind

VECTORS = Path(__file__).parents[1] / "vectors" / "model"


class Lcg:
    """The constants of POSIX drand48; `below` uses the high bits."""

    def __init__(self, seed: int) -> None:
        self.state = (seed << 16) + 0x330E

    def below(self, limit: int) -> int:
        self.state = (self.state * 0x5DEECE66D + 0xB) % 2**48
        return (self.state >> 16) * limit >> 32

    def between(self, low: int, high: int) -> int:
        return low + self.below(high - low + 1)


def small_code(lcg: Lcg, limit: int) -> int:
    """A code around zero, as training gives them."""
    return max(-limit, min(limit, sum(lcg.between(-1, 1) for _ in range(1 + limit // 2))))


def make_delta(
    lcg: Lcg, *, bits: int, tensor_sizes: tuple[int, ...], shape: str, fraction_bits: int = 20
) -> QuantizedDelta:
    limit = max_code(bits)
    codes = []
    for _ in range(sum(tensor_sizes)):
        if shape == "uniform":
            code = lcg.between(-limit, limit) or (1 if bits == 1 else 0)
        elif shape == "sparse":
            code = lcg.between(-limit, limit) if lcg.below(20) == 0 else 0
        elif shape == "zero":
            code = 0
        else:
            code = small_code(lcg, limit)
        codes.append(code)
    exponents = tuple(lcg.between(-fraction_bits, 1) for _ in tensor_sizes)
    return QuantizedDelta(
        codes=np.array(codes, dtype=np.int8),
        exponents=exponents,
        tensor_sizes=tensor_sizes,
        bits=bits,
        fraction_bits=fraction_bits,
    )


def make_models() -> list[dict[str, Any]]:
    lcg = Lcg(1)
    cases = {
        "one zero": (20, [0]),
        "extremes": (0, [-(2**31), -1, 0, 1, 2**31 - 1]),
        "finest grid": (30, [2**30, -(2**30)]),
        "random": (20, [lcg.between(-(2**31), 2**31 - 1) for _ in range(100)]),
    }
    result = []
    for name, (fraction_bits, parameters) in cases.items():
        data = encode_model(
            FixedPointModel(
                parameters=np.array(parameters, dtype=np.int32), fraction_bits=fraction_bits
            )
        )
        result.append(
            {
                "name": name,
                "fraction_bits": fraction_bits,
                "parameters": parameters,
                "encoded": data.hex(),
                "digest": model_digest(data).hex(),
            }
        )
    return result


def make_payloads() -> list[dict[str, Any]]:
    lcg = Lcg(2)
    result = []
    for bits in range(1, 9):
        for shape in ("uniform", "small", "sparse", "zero"):
            delta = make_delta(lcg, bits=bits, tensor_sizes=(60, 1, 39), shape=shape)
            result.append(
                {
                    "name": f"{bits} bits, {shape}",
                    "bits": bits,
                    "fraction_bits": delta.fraction_bits,
                    "tensor_sizes": list(delta.tensor_sizes),
                    "exponents": list(delta.exponents),
                    "codes": delta.codes.tolist(),
                    "payload": encode_payload(delta).hex(),
                    "int32_delta": int32_delta(delta).tolist(),
                    "squared_norm": str(squared_norm(delta)),
                }
            )
    return result


RULES = {
    "mean": AggregationRule(),
    "mean, clipped": AggregationRule(clip_ratio_thousandths=1500),
    "trimmed mean": AggregationRule(kind=RuleKind.TRIMMED_MEAN, trim_thousandths=200),
    "median": AggregationRule(kind=RuleKind.MEDIAN),
    "multi-Krum": AggregationRule(kind=RuleKind.MULTI_KRUM, byzantine_thousandths=300),
    "centered clipping": AggregationRule(kind=RuleKind.CENTERED_CLIPPING, iterations=3),
}


def make_aggregates() -> list[dict[str, Any]]:
    lcg = Lcg(3)
    result = []
    for name, rule in RULES.items():
        for count, scale in ((1, 2**20), (7, 2**20), (10, 2**31)):
            rows = [
                (
                    bytes(lcg.below(256) for _ in range(4)),
                    lcg.between(1, 1000),
                    [lcg.between(-scale, scale - 1) for _ in range(6)],
                )
                for _ in range(count)
            ]
            aggregate = compute_aggregate(
                [
                    Contribution(
                        device_id=device_id,
                        num_examples=num_examples,
                        delta=np.array(delta, dtype=np.int32),
                    )
                    for device_id, num_examples, delta in rows
                ],
                rule,
                num_parameters=6,
                max_examples=500,
            )
            base = [lcg.between(-(2**31), 2**31 - 1) for _ in range(6)]
            result.append(
                {
                    "name": f"{name}, {count} devices",
                    "rule": {
                        "kind": str(rule.kind),
                        "clip_ratio_thousandths": rule.clip_ratio_thousandths,
                        "trim_thousandths": rule.trim_thousandths,
                        "byzantine_thousandths": rule.byzantine_thousandths,
                        "radius_thousandths": rule.radius_thousandths,
                        "iterations": rule.iterations,
                    },
                    "max_examples": 500,
                    "contributions": [
                        {"device_id": device_id.hex(), "num_examples": examples, "delta": delta}
                        for device_id, examples, delta in rows
                    ],
                    "aggregate": aggregate.tolist(),
                    "base": base,
                    "applied": apply_aggregate(np.array(base, np.int32), aggregate).tolist(),
                }
            )
    return result


def make_merges() -> list[dict[str, Any]]:
    lcg = Lcg(4)
    result = []
    for name, most_examples in (("few examples", 3), ("many examples", 2**44)):
        models = [
            (lcg.between(1, most_examples), [lcg.between(-(2**31), 2**31 - 1) for _ in range(5)])
            for _ in range(3)
        ]
        merged = merge_models([(n, np.array(p, dtype=np.int32)) for n, p in models])
        current = [lcg.between(-(2**31), 2**31 - 1) for _ in range(5)]
        rebased = rebase(np.array(current, np.int32), merged, np.array(models[0][1], np.int32))
        result.append(
            {
                "name": name,
                "models": [{"num_examples": n, "parameters": p} for n, p in models],
                "merged": merged.tolist(),
                "current": current,
                "checkpointed": models[0][1],
                "rebased": rebased.tolist(),
            }
        )
    return result


def make_files() -> dict[str, str]:
    """Name and text of each file of vectors."""
    files = {
        "models.json": make_models(),
        "payloads.json": make_payloads(),
        "aggregates.json": make_aggregates(),
        "merges.json": make_merges(),
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
