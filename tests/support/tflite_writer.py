"""Writes small TFLite files by hand, right and wrong ones, without TensorFlow.

A table is a dict from field number to value: `(format, number)` for a scalar, `str`, `bytes`, a
list of int for an int32 vector, a list of dicts for a vector of tables. Children come after their
parents, so every offset points forward.
"""

import struct
from collections.abc import Mapping

import numpy as np

Value = tuple[str, int] | str | bytes | list[int] | list["Fields"]
Fields = Mapping[int, Value]

FLOAT32, INT32 = 0, 2
BATCH = -1


def write_flatbuffer(root: Fields, identifier: bytes = b"TFL3") -> bytes:
    out = bytearray(4) + identifier
    _point(out, 0, _table(out, root))
    return bytes(out)


def _point(out: bytearray, at: int, target: int) -> None:
    struct.pack_into("<I", out, at, target - at)


def _table(out: bytearray, fields: Fields) -> int:
    out += bytes(-len(out) % 8)
    vtable = len(out)
    count = max(fields, default=-1) + 1
    # Eight bytes a field are room for any scalar; the table starts after its vtable.
    offsets = [8 + 8 * i if i in fields else 0 for i in range(count)]
    out += struct.pack(f"<HH{count}H", 4 + 2 * count, 8 + 8 * count, *offsets)
    out += bytes(-len(out) % 8)
    start = len(out)
    out += bytes(8 + 8 * count)
    struct.pack_into("<i", out, start, start - vtable)
    for index, value in fields.items():
        at = start + 8 + 8 * index
        if isinstance(value, tuple):
            struct.pack_into(f"<{value[0]}", out, at, value[1])
        else:
            _point(out, at, _vector(out, value))
    return start


def _vector(out: bytearray, value: str | bytes | list[int] | list[Fields]) -> int:
    out += bytes(-len(out) % 4)
    start = len(out)
    out += struct.pack("<I", len(value))
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        out += value + b"\0"
    elif value and isinstance(value[0], Mapping):
        out += bytes(4 * len(value))
        # One table that is listed twice is written once, as an attacker would.
        places: dict[int, int] = {}
        for i, child in enumerate(value):
            if id(child) not in places:
                places[id(child)] = _table(out, child)
            _point(out, start + 4 + 4 * i, places[id(child)])
    else:
        out += struct.pack(f"<{len(value)}i", *value)
    return start


def tensor(dtype: int, shape: list[int], *, buffer: int = 0, is_variable: bool = False) -> Fields:
    return {
        0: [max(dim, 1) for dim in shape],
        1: ("b", dtype),
        2: ("I", buffer),
        5: ("B", int(is_variable)),
        7: shape,
    }


def function(
    name: str,
    index: int,
    inputs: dict[str, Fields],
    outputs: dict[str, Fields],
    *,
    code_index: int | None = 0,
) -> tuple[Fields, Fields]:
    """Return a subgraph of one operation, or of none for constants, and its signature."""
    tensors = [*inputs.values(), *outputs.values()]
    arguments = list(range(len(inputs)))
    results = list(range(len(inputs), len(tensors)))
    operators: list[Fields] = (
        [] if code_index is None else [{0: ("I", code_index), 1: arguments, 2: results}]
    )
    subgraph: Fields = {0: tensors, 1: arguments, 2: results, 3: operators}
    names = [*inputs, *outputs]
    signature: Fields = {
        0: [{0: names[i], 1: ("I", i)} for i in arguments],
        1: [{0: names[i], 1: ("I", i)} for i in results],
        2: name,
        4: ("I", index),
    }
    return subgraph, signature


def operator_code(builtin: int, *, version: int = 1, custom: str = "") -> Fields:
    code: dict[int, Value] = {0: ("b", min(builtin, 127)), 2: ("i", version), 3: ("i", builtin)}
    if custom:
        code[1] = custom
    return code


def int32_bytes(*values: int) -> bytes:
    return np.array(values, "<i4").tobytes()


def program_tree(
    *,
    codes: list[Fields] | None = None,
    replaced: dict[str, Fields] | None = None,
    dims: tuple[int, ...] = (3, 2, 2),
    ranks: tuple[int, ...] = (2, 1),
    fan_in: tuple[int, ...] = (3, 0),
) -> dict[int, Value]:
    """Return a program of 8 parameters on 3 features and 2 classes, in one made-up operation.

    `replaced` puts other tensors in place of `signature.name`.
    """
    columns = {"dims": dims, "fan_in": fan_in, "ranks": ranks}
    signatures: dict[str, tuple[dict[str, Fields], dict[str, Fields]]] = {
        "grad": (
            {
                "w": tensor(FLOAT32, [8]),
                "x": tensor(FLOAT32, [BATCH, 3]),
                "y": tensor(INT32, [BATCH]),
                "sample_weights": tensor(FLOAT32, [BATCH]),
            },
            {"g": tensor(FLOAT32, [8]), "loss": tensor(FLOAT32, [1])},
        ),
        "infer": (
            {"w": tensor(FLOAT32, [8]), "x": tensor(FLOAT32, [BATCH, 3])},
            {"logits": tensor(FLOAT32, [BATCH, 2])},
        ),
        "layout": (
            {},
            {
                name: tensor(INT32, [len(values)], buffer=i + 1)
                for i, (name, values) in enumerate(columns.items())
            },
        ),
    }
    for path, other in (replaced or {}).items():
        signature, name = path.split(".")
        for names in signatures[signature]:
            if name in names:
                names[name] = other
    functions = [
        function(name, index, inputs, outputs, code_index=None if name == "layout" else 0)
        for index, (name, (inputs, outputs)) in enumerate(signatures.items())
    ]
    buffers: list[Fields] = [{}, *({0: int32_bytes(*values)} for values in columns.values())]
    return {
        0: ("I", 3),
        1: codes or [operator_code(0)],
        2: [subgraph for subgraph, _ in functions],
        4: buffers,
        7: [signature for _, signature in functions],
    }
