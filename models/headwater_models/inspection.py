"""Whether a file is a training program, and everything that is wrong with it if not.

A program has three signatures over one flat float32 vector `w` of P parameters:

    grad(w, x, y, sample_weights) -> (g, loss)
    infer(w, x) -> logits
    layout() -> (dims, fan_in, ranks)

with x float32 (batch, *input_shape), y int32 (batch,), sample_weights float32 (batch,), g float32
(P,), loss float32 (1,) and logits float32 (batch, num_classes). The batch is dynamic: a program
with a static one gives wrong gradients for a shorter batch and raises nothing. No argument has rank
0, which crashes ai-edge-litert on aarch64. `grad` is the first subgraph, so that a trainer can call
it without the overhead of a signature runner. `loss` is the sum of the examples' losses times their
sample weights, and `g` its gradient.
"""

import hashlib
import struct
from collections import Counter
from dataclasses import dataclass

from headwater_models.builtin_ops import BUILTIN_OPS, CUSTOM_CODE, REFUSED_OPS
from headwater_models.errors import InvalidProgram
from headwater_models.layout import LayoutColumns, ParameterLayout, decode_layout
from headwater_models.tflite_file import (
    OperatorCode,
    Signature,
    Tensor,
    TensorType,
    TfliteFile,
    decode_tflite_file,
)

BATCH = -1
"""The dimension that a runtime resizes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorReport:
    """An argument or a result of a signature."""

    name: str
    """Its name in the signature."""

    index: int
    """Its tensor index in the subgraph, which a runtime uses too."""

    dtype: TensorType
    """Type of its elements."""

    shape: tuple[int, ...]
    """Its dimensions; -1 for the batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureReport:
    """A signature with what it takes and gives."""

    name: str
    """Its name."""

    inputs: tuple[TensorReport, ...]
    """Arguments, sorted by name."""

    outputs: tuple[TensorReport, ...]
    """Results, sorted by name."""

    def input_index(self, name: str) -> int:
        """Return the tensor index of an argument."""
        return next(tensor.index for tensor in self.inputs if tensor.name == name)

    def output_index(self, name: str) -> int:
        """Return the tensor index of a result."""
        return next(tensor.index for tensor in self.outputs if tensor.name == name)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpReport:
    """An operation that the program uses."""

    name: str
    """Builtin name, or the name of a custom operation."""

    version: int
    """Version of the builtin."""

    num_calls: int
    """How often it is called, in all signatures."""

    problem: str
    """Why a program may not use it; empty if it may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramReport:
    """What a program consists of, and what is wrong with it."""

    digest: bytes
    """SHA-256 of the file, 32 bytes."""

    num_bytes: int
    """Size of the file."""

    ops: tuple[OpReport, ...]
    """Operations, sorted by name and version."""

    signatures: tuple[SignatureReport, ...]
    """Signatures, sorted by name."""

    layout: ParameterLayout | None
    """The trainable tensors; None if the file does not say."""

    input_shape: tuple[int, ...]
    """Shape of one example; empty if the file does not say."""

    num_classes: int
    """Length of the logits; 0 if the file does not say."""

    problems: tuple[str, ...]
    """One line each; none if this is a program that every device can run."""

    def signature(self, name: str) -> SignatureReport:
        """Return a signature by name, which exists if there are no problems."""
        return next(signature for signature in self.signatures if signature.name == name)

    def refuse_problems(self) -> None:
        """Raise `InvalidProgram` with all problems, if there are any."""
        if self.problems:
            raise InvalidProgram("; ".join(self.problems))


def inspect_program(data: bytes) -> ProgramReport:
    """Describe `data` and collect what keeps it from being a program.

    Raises:
        TooLarge: If `data` exceeds the limit of a program.
        InvalidProgram: If `data` is so malformed that nothing can be said of it.
    """
    file = decode_tflite_file(data)
    ops = _report_ops(file)
    form = _Form(file)
    form.verify()
    return ProgramReport(
        digest=hashlib.sha256(data).digest(),
        num_bytes=len(data),
        ops=ops,
        signatures=tuple(
            _report_signature(file, signature) for _, signature in sorted(file.signatures.items())
        ),
        layout=form.layout,
        input_shape=form.input_shape,
        num_classes=form.num_classes,
        problems=(*(f"{op.name}: {op.problem}" for op in ops if op.problem), *form.problems),
    )


def _report_ops(file: TfliteFile) -> tuple[OpReport, ...]:
    num_calls = Counter(
        operator.code_index for subgraph in file.subgraphs for operator in subgraph.operators
    )
    # Operations that are listed and never called count too: a runtime refuses the file for them.
    reports = [_report_op(code, num_calls[index]) for index, code in enumerate(file.operator_codes)]
    return tuple(sorted(reports, key=lambda op: (op.name, op.version)))


def _report_op(code: OperatorCode, num_calls: int) -> OpReport:
    number, version = code.builtin_code, code.version
    if number == CUSTOM_CODE:
        name = code.custom_name or "CUSTOM"
        kind = "a TensorFlow (Flex)" if name.startswith("Flex") else "a custom"
        problem = f"{kind} operation; a plain TFLite runtime has no kernel for it"
    elif not 0 <= number < len(BUILTIN_OPS):
        name, problem = f"BUILTIN_{number}", "an operation that TFLite runtimes do not know"
    else:
        name, max_version = BUILTIN_OPS[number].name, BUILTIN_OPS[number].max_version
        if max_version == 0:
            problem = "a plain TFLite runtime lacks this operation"
        elif not 1 <= version <= max_version:
            problem = f"version {version}; a plain TFLite runtime knows up to {max_version}"
        elif name in REFUSED_OPS:
            problem = "keeps state, draws entropy or may not end; programs are stateless"
        else:
            problem = ""
    return OpReport(name=name, version=version, num_calls=num_calls, problem=problem)


def _report_signature(file: TfliteFile, signature: Signature) -> SignatureReport:
    tensors = file.subgraphs[signature.subgraph_index].tensors

    def report(names: dict[str, int]) -> tuple[TensorReport, ...]:
        return tuple(
            TensorReport(
                name=name, index=index, dtype=tensors[index].dtype, shape=tensors[index].shape
            )
            for name, index in sorted(names.items())
        )

    return SignatureReport(
        name=signature.name, inputs=report(signature.inputs), outputs=report(signature.outputs)
    )


class _Form:
    """Collects the problems of one file; `layout` and sizes appear as they are found."""

    def __init__(self, file: TfliteFile) -> None:
        self._file = file
        self.problems: list[str] = []
        self.layout: ParameterLayout | None = None
        self.input_shape: tuple[int, ...] = ()
        self.num_classes = 0

    def verify(self) -> None:
        grad = self._signature(
            "grad", inputs=("sample_weights", "w", "x", "y"), outputs=("g", "loss")
        )
        infer = self._signature("infer", inputs=("w", "x"), outputs=("logits",))
        layout = self._signature("layout", inputs=(), outputs=("dims", "fan_in", "ranks"))
        for index, subgraph in enumerate(self._file.subgraphs):
            if any(tensor.is_variable for tensor in subgraph.tensors):
                self.problems.append(f"subgraph {index} has variables; programs are stateless")
        if len(self._file.subgraphs) != len(self._file.signatures):
            self.problems.append(
                f"{len(self._file.subgraphs)} subgraphs and {len(self._file.signatures)} "
                "signatures; each has one of its own"
            )
        if grad and infer and layout:
            self._verify_sizes(grad, infer, layout)

    def _signature(
        self, name: str, *, inputs: tuple[str, ...], outputs: tuple[str, ...]
    ) -> Signature | None:
        signature = self._file.signatures.get(name)
        if signature is None:
            self.problems.append(f"signature {name} is missing")
            return None
        complete = True
        for kind, expected, found in (
            ("takes", inputs, tuple(sorted(signature.inputs))),
            ("returns", outputs, tuple(sorted(signature.outputs))),
        ):
            if found != expected:
                complete = False
                self.problems.append(
                    f"{name} {kind} ({', '.join(found)}), not ({', '.join(expected)})"
                )
        return signature if complete else None

    def _verify_sizes(self, grad: Signature, infer: Signature, layout: Signature) -> None:
        if grad.subgraph_index != 0:
            self.problems.append(f"grad is subgraph {grad.subgraph_index}, not the first")
        try:
            self.layout = decode_layout(
                LayoutColumns(
                    ranks=self._constant(layout, "ranks"),
                    dims=self._constant(layout, "dims"),
                    fan_in=self._constant(layout, "fan_in"),
                )
            )
        except InvalidProgram as error:
            self.problems.append(str(error))
            return
        self.input_shape = self._tensor(grad, "x").shape[1:]
        self.num_classes = max(0, (0, *self._tensor(infer, "logits").shape)[-1])
        if not self.input_shape or min(self.input_shape) < 1:
            self.problems.append(f"x has {self.input_shape} a example; all sizes must be given")
        if self.num_classes < 2:
            self.problems.append(f"logits have {self.num_classes} classes, at least 2 are needed")
        float32, int32 = TensorType.FLOAT32, TensorType.INT32
        vector = (self.layout.num_parameters,)
        features = (BATCH, *self.input_shape)
        self._expect(grad, "w", float32, vector)
        self._expect(grad, "x", float32, features)
        self._expect(grad, "y", int32, (BATCH,))
        self._expect(grad, "sample_weights", float32, (BATCH,))
        self._expect(grad, "g", float32, vector)
        self._expect(grad, "loss", float32, (1,))
        self._expect(infer, "w", float32, vector)
        self._expect(infer, "x", float32, features)
        self._expect(infer, "logits", float32, (BATCH, self.num_classes))

    def _tensor(self, signature: Signature, name: str) -> Tensor:
        index = (signature.inputs | signature.outputs)[name]
        return self._file.subgraphs[signature.subgraph_index].tensors[index]

    def _constant(self, signature: Signature, name: str) -> tuple[int, ...]:
        tensor = self._tensor(signature, name)
        if tensor.dtype != TensorType.INT32 or len(tensor.shape) != 1 or not tensor.constant:
            raise InvalidProgram(f"layout returns {name} that is no constant int32 vector")
        return struct.unpack(f"<{len(tensor.constant) // 4}i", tensor.constant)

    def _expect(
        self, signature: Signature, name: str, dtype: TensorType, shape: tuple[int, ...]
    ) -> None:
        tensor = self._tensor(signature, name)
        if (tensor.dtype, tensor.shape) != (dtype, shape):
            self.problems.append(
                f"{signature.name}: {name} is {format_tensor(tensor.dtype, tensor.shape)}, "
                f"not {format_tensor(dtype, shape)}"
            )


def format_tensor(dtype: TensorType, shape: tuple[int, ...]) -> str:
    """Return a type and a shape as people read it, such as `float32 (batch, 64)`."""
    dims = ["batch" if dim == BATCH else str(dim) for dim in shape]
    return f"{dtype.name.lower()} ({', '.join(dims)}{',' if len(dims) == 1 else ''})"
