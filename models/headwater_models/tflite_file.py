"""The parts of a TFLite file that decide whether it is a training program.

Reading also verifies what a runtime takes for granted: every index leads somewhere, constants have
the size of their tensor, and no operation reads what nothing has written.
"""

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from headwater_models.errors import InvalidProgram
from headwater_models.flatbuffer import FlatBuffer, Table
from headwater_models.layout import MAX_RANK
from headwater_protocol.errors import TooLarge

MAX_PROGRAM_BYTES: Final = 16 << 20
"""16 MiB: room for a frozen feature extractor; trainable parameters are not in the file."""

MAX_ELEMENTS: Final = 1 << 20
"""Tables, integers and characters in a file, counted as often as they are referred to."""

MAX_TENSOR_VALUES: Final = 1 << 26
"""Values of one tensor for one example."""

FILE_IDENTIFIER: Final = b"TFL3"

OPTIONAL_TENSOR: Final = -1
"""Stands for an input that an operation does without."""


class TensorType(IntEnum):
    """Element types, as the TFLite schema numbers them."""

    FLOAT32 = 0
    FLOAT16 = 1
    INT32 = 2
    UINT8 = 3
    INT64 = 4
    STRING = 5
    BOOL = 6
    INT16 = 7
    COMPLEX64 = 8
    INT8 = 9
    FLOAT64 = 10


_ITEM_BYTES: Final[dict[TensorType, int]] = {
    TensorType.FLOAT32: 4,
    TensorType.FLOAT16: 2,
    TensorType.INT32: 4,
    TensorType.UINT8: 1,
    TensorType.INT64: 8,
    TensorType.BOOL: 1,
    TensorType.INT16: 2,
    TensorType.COMPLEX64: 8,
    TensorType.INT8: 1,
    TensorType.FLOAT64: 8,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorCode:
    """An operation that the file uses."""

    builtin_code: int
    """Index into `BUILTIN_OPS`; `CUSTOM_CODE` for one named by `custom_name`."""

    custom_name: str
    """Name of a custom operation, else empty."""

    version: int
    """Version of the builtin, from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A tensor of a subgraph."""

    shape: tuple[int, ...]
    """Its dimensions; -1 for the batch."""

    dtype: TensorType
    """Type of its elements."""

    constant: bytes
    """Its little-endian values if they are in the file, else empty."""

    is_variable: bool
    """Whether a runtime would keep it from one call to the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One call of an operation."""

    code_index: int
    """Index into `TfliteFile.operator_codes`."""

    inputs: tuple[int, ...]
    """Tensor indices, or `OPTIONAL_TENSOR`."""

    outputs: tuple[int, ...]
    """Tensor indices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subgraph:
    """A function: its tensors and the operations in the order of execution."""

    tensors: tuple[Tensor, ...]
    """All tensors; a runtime uses the same indices."""

    inputs: tuple[int, ...]
    """Tensor indices of the arguments."""

    outputs: tuple[int, ...]
    """Tensor indices of the results."""

    operators: tuple[Operator, ...]
    """Calls in the order of execution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A subgraph under a name, its arguments and results too."""

    name: str
    """The name, unique in the file."""

    subgraph_index: int
    """Index into `TfliteFile.subgraphs`."""

    inputs: dict[str, int]
    """Tensor index by argument name."""

    outputs: dict[str, int]
    """Tensor index by result name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TfliteFile:
    """A TFLite file whose indices all lead somewhere."""

    operator_codes: tuple[OperatorCode, ...]
    """The operations used."""

    subgraphs: tuple[Subgraph, ...]
    """The functions; the first one is what a runtime calls by default."""

    signatures: dict[str, Signature]
    """Signatures by name."""


def decode_tflite_file(data: bytes) -> TfliteFile:
    """Read and verify a TFLite file.

    Raises:
        TooLarge: If `data` exceeds `MAX_PROGRAM_BYTES`.
        InvalidProgram: If it is malformed.
    """
    if len(data) > MAX_PROGRAM_BYTES:
        raise TooLarge("a program", size=len(data), limit=MAX_PROGRAM_BYTES)
    root = FlatBuffer(data, max_elements=MAX_ELEMENTS).root(FILE_IDENTIFIER)
    buffers = [_decode_buffer(table) for table in root.tables(4)]
    operator_codes = tuple(_decode_operator_code(table) for table in root.tables(1))
    subgraphs = tuple(_decode_subgraph(table, buffers) for table in root.tables(2))
    for index, subgraph in enumerate(subgraphs):
        _verify_subgraph(subgraph, f"subgraph {index}", num_codes=len(operator_codes))
    signatures: dict[str, Signature] = {}
    for table in root.tables(7):
        signature = _decode_signature(table, subgraphs)
        if signature.name in signatures:
            raise InvalidProgram(f"two signatures are named {signature.name!r}")
        signatures[signature.name] = signature
    return TfliteFile(operator_codes=operator_codes, subgraphs=subgraphs, signatures=signatures)


def _decode_buffer(table: Table) -> bytes:
    if table.uint64(1) or table.uint64(2):
        raise InvalidProgram("a buffer lies outside the flatbuffer")
    return table.bytes_vector(0)


def _decode_operator_code(table: Table) -> OperatorCode:
    # The old one-byte field is capped at 127; the larger of the two counts, as runtimes have it.
    return OperatorCode(
        builtin_code=max(table.int8(0), table.int32(3)),
        custom_name=table.string(1),
        version=table.int32(2, default=1),
    )


def _decode_subgraph(table: Table, buffers: list[bytes]) -> Subgraph:
    return Subgraph(
        tensors=tuple(_decode_tensor(child, buffers) for child in table.tables(0)),
        inputs=table.int32_vector(1),
        outputs=table.int32_vector(2),
        operators=tuple(
            Operator(
                code_index=child.uint32(0),
                inputs=child.int32_vector(1),
                outputs=child.int32_vector(2),
            )
            for child in table.tables(3)
        ),
    )


def _decode_tensor(table: Table, buffers: list[bytes]) -> Tensor:
    shape = table.int32_vector(0)
    if len(shape) > MAX_RANK:
        raise InvalidProgram(f"a tensor has rank {len(shape)}, the limit is {MAX_RANK}")
    if any(dim < 0 for dim in shape) or math.prod(shape) > MAX_TENSOR_VALUES:
        raise InvalidProgram(f"a tensor has shape {shape}")
    dynamic_shape = table.int32_vector(7) or shape
    if len(dynamic_shape) != len(shape) or any(
        dynamic not in {-1, dim} for dynamic, dim in zip(dynamic_shape, shape, strict=True)
    ):
        raise InvalidProgram(f"a tensor has shape {shape} and signature {dynamic_shape}")
    code = table.int8(1)
    try:
        dtype = TensorType(code)
    except ValueError:
        raise InvalidProgram(f"a tensor has the unknown type {code}") from None
    buffer_index = table.uint32(2)
    if buffer_index >= len(buffers):
        raise InvalidProgram(f"a tensor refers to buffer {buffer_index} of {len(buffers)}")
    constant = buffers[buffer_index]
    if constant and dtype not in _ITEM_BYTES:
        raise InvalidProgram(f"a constant has type {dtype.name.lower()}")
    if constant and len(constant) != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise InvalidProgram(
            f"a constant of shape {shape} and type {dtype.name.lower()} has {len(constant)} bytes"
        )
    return Tensor(
        shape=dynamic_shape, dtype=dtype, constant=constant, is_variable=bool(table.uint8(5))
    )


def _verify_subgraph(subgraph: Subgraph, where: str, *, num_codes: int) -> None:
    num_tensors = len(subgraph.tensors)
    known = {index for index, tensor in enumerate(subgraph.tensors) if tensor.constant}
    # A shape of zero values is a constant without bytes.
    known |= {i for i, tensor in enumerate(subgraph.tensors) if math.prod(tensor.shape) == 0}
    for index in subgraph.inputs:
        _verify_index(index, num_tensors, f"an input of {where}")
        if subgraph.tensors[index].constant:
            raise InvalidProgram(f"tensor {index} of {where} is an input and a constant")
        known.add(index)
    for operator in subgraph.operators:
        if operator.code_index >= num_codes:
            raise InvalidProgram(f"{where} uses operation {operator.code_index} of {num_codes}")
        for index in operator.inputs:
            if index == OPTIONAL_TENSOR:
                continue
            _verify_index(index, num_tensors, f"an operand in {where}")
            if index not in known:
                raise InvalidProgram(f"tensor {index} of {where} is read before it is written")
        for index in operator.outputs:
            _verify_index(index, num_tensors, f"a result in {where}")
            if index in known:
                raise InvalidProgram(f"tensor {index} of {where} is written twice")
            known.add(index)
    for index in subgraph.outputs:
        _verify_index(index, num_tensors, f"an output of {where}")
        if index not in known:
            raise InvalidProgram(f"tensor {index} of {where} is an output and never written")


def _verify_index(index: int, count: int, what: str) -> None:
    if not 0 <= index < count:
        raise InvalidProgram(f"{what} is tensor {index} of {count}")


def _decode_signature(table: Table, subgraphs: tuple[Subgraph, ...]) -> Signature:
    name = table.string(2)
    subgraph_index = table.uint32(4)
    if subgraph_index >= len(subgraphs):
        raise InvalidProgram(f"signature {name!r} is subgraph {subgraph_index} of {len(subgraphs)}")
    subgraph = subgraphs[subgraph_index]
    return Signature(
        name=name,
        subgraph_index=subgraph_index,
        inputs=_decode_names(table.tables(0), subgraph.inputs, f"inputs of {name!r}"),
        outputs=_decode_names(table.tables(1), subgraph.outputs, f"outputs of {name!r}"),
    )


def _decode_names(entries: list[Table], indices: tuple[int, ...], what: str) -> dict[str, int]:
    names = {entry.string(0): entry.uint32(1) for entry in entries}
    if len(names) != len(entries) or sorted(names.values()) != sorted(indices):
        raise InvalidProgram(f"the {what} do not name each tensor of the subgraph once")
    return names
