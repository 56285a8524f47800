"""One program, one sequence of bytes.

The converter leaves its version, generated tensor names, quantization stubs and an order of its own
in a file. A program is named by its digest, so all of that goes, the rest is put in a fixed order,
and the constant `layout` signature is added. `grad` becomes the first subgraph, which a runtime can
call without the overhead of a signature runner.
"""

from typing import Final

import flatbuffers  # type: ignore[import-not-found]
import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from headwater_models.layout import ParameterLayout, encode_layout

FILE_IDENTIFIER: Final = b"TFL3"
SCHEMA_VERSION: Final = 3
SIGNATURE_ORDER: Final = ("grad", "infer")


def canonicalize(converted: bytes, layout: ParameterLayout) -> bytes:
    """Return `converted` without what varies, with a `layout` signature for `layout`."""
    model = schema.ModelT.InitFromPackedBuf(bytearray(converted), 0)
    model.version = SCHEMA_VERSION
    model.description = None
    model.metadata = None
    model.metadataBuffer = None
    _order_subgraphs(model)
    _order_operator_codes(model)
    _append_layout(model, layout)
    for subgraph in model.subgraphs:
        subgraph.name = None
        subgraph.debugMetadataIndex = -1
        for tensor in subgraph.tensors:
            tensor.name = None
            tensor.quantization = None
        for operator in subgraph.operators:
            operator.debugMetadataIndex = -1
    _order_buffers(model)
    builder = flatbuffers.Builder(len(converted))
    builder.Finish(model.Pack(builder), file_identifier=FILE_IDENTIFIER)
    return bytes(builder.Output())


def _order_subgraphs(model: schema.ModelT) -> None:
    by_key = {_text(signature.signatureKey): signature for signature in model.signatureDefs}
    signatures = [by_key[key] for key in SIGNATURE_ORDER]
    model.subgraphs = [model.subgraphs[signature.subgraphIndex] for signature in signatures]
    for index, signature in enumerate(signatures):
        signature.subgraphIndex = index
        signature.inputs.sort(key=lambda entry: _text(entry.name))
        signature.outputs.sort(key=lambda entry: _text(entry.name))
    model.signatureDefs = signatures


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _order_operator_codes(model: schema.ModelT) -> None:
    codes = model.operatorCodes
    order = sorted(range(len(codes)), key=lambda i: (codes[i].builtinCode, codes[i].version))
    place = {old: new for new, old in enumerate(order)}
    model.operatorCodes = [codes[old] for old in order]
    for subgraph in model.subgraphs:
        for operator in subgraph.operators:
            operator.opcodeIndex = place[operator.opcodeIndex]


def _append_layout(model: schema.ModelT, layout: ParameterLayout) -> None:
    columns = encode_layout(layout)
    subgraph = schema.SubGraphT()
    subgraph.inputs, subgraph.operators = [], []
    subgraph.tensors, subgraph.outputs = [], []
    signature = schema.SignatureDefT()
    signature.signatureKey = "layout"
    signature.subgraphIndex = len(model.subgraphs)
    signature.inputs, signature.outputs = [], []
    for index, (name, values) in enumerate(
        (("dims", columns.dims), ("fan_in", columns.fan_in), ("ranks", columns.ranks))
    ):
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.array(values, "<i4").tobytes(), np.uint8)
        model.buffers.append(buffer)
        tensor = schema.TensorT()
        tensor.shape = [len(values)]
        tensor.type = schema.TensorType.INT32
        tensor.buffer = len(model.buffers) - 1
        subgraph.tensors.append(tensor)
        subgraph.outputs.append(index)
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, index
        signature.outputs.append(entry)
    model.subgraphs.append(subgraph)
    model.signatureDefs.append(signature)


def _order_buffers(model: schema.ModelT) -> None:
    """Number buffers by first use, merge equal ones, and drop the unused."""
    # Buffer 0 is empty by convention; every tensor without constant data refers to it.
    empty = schema.BufferT()
    buffers, place = [empty], {b"": 0}
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors:
            data = model.buffers[tensor.buffer].data
            key = b"" if data is None else bytes(data)
            if key not in place:
                place[key] = len(buffers)
                buffers.append(model.buffers[tensor.buffer])
            tensor.buffer = place[key]
    model.buffers = buffers
