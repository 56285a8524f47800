"""The layout of a flat parameter vector, and its form inside a program.

A program carries its own layout as the constant outputs of its `layout` signature, so that no side
file can be lost or disagree:

    ranks   int32 (num_tensors,)     the rank of every tensor
    dims    int32 (sum of ranks,)    their shapes, one after the other
    fan_in  int32 (num_tensors,)     inputs summed into one output; 0 marks a bias

Tensors are contiguous in the flat vector, in this order, row-major.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from headwater_models.errors import InvalidProgram

MAX_PARAMETERS: Final = 1 << 24
"""16,777,216 float32 values, 64 MiB: more than a device can train or publish."""

MAX_PARAMETER_TENSORS: Final = 4096
"""An update carries an exponent a tensor, so their number is bounded too."""

MAX_RANK: Final = 8
"""No TFLite kernel takes tensors of a higher rank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterTensor:
    """One trainable tensor."""

    shape: tuple[int, ...]
    """Its dimensions, each at least 1; rank 1 to `MAX_RANK`."""

    fan_in: int
    """Number of inputs summed into one output, for He initialisation; 0 starts it at zero."""

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterLayout:
    """The trainable tensors of a program, in the order of the flat vector."""

    tensors: tuple[ParameterTensor, ...]
    """At least one."""

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of every tensor."""
        return tuple(tensor.shape for tensor in self.tensors)

    @property
    def tensor_sizes(self) -> tuple[int, ...]:
        """Number of values of every tensor."""
        return tuple(tensor.size for tensor in self.tensors)

    @property
    def num_parameters(self) -> int:
        """Length of the flat vector."""
        return sum(self.tensor_sizes)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where every tensor starts in the flat vector."""
        return tuple(accumulate(self.tensor_sizes, initial=0))[:-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutColumns:
    """A layout as the three int32 vectors of the `layout` signature."""

    ranks: tuple[int, ...]
    """The rank of every tensor."""

    dims: tuple[int, ...]
    """All shapes, one after the other."""

    fan_in: tuple[int, ...]
    """The fan-in of every tensor."""


def encode_layout(layout: ParameterLayout) -> LayoutColumns:
    """Return the columns of `layout`; `decode_layout` is the inverse."""
    return LayoutColumns(
        ranks=tuple(len(tensor.shape) for tensor in layout.tensors),
        dims=tuple(dim for tensor in layout.tensors for dim in tensor.shape),
        fan_in=tuple(tensor.fan_in for tensor in layout.tensors),
    )


def decode_layout(columns: LayoutColumns) -> ParameterLayout:
    """Return the layout that `columns` describe.

    Raises:
        InvalidProgram: If the columns disagree or a limit is exceeded.
    """
    ranks, dims, fan_in = columns.ranks, columns.dims, columns.fan_in
    if not 1 <= len(ranks) <= MAX_PARAMETER_TENSORS:
        raise InvalidProgram(
            f"layout has {len(ranks)} tensors, it may have 1 to {MAX_PARAMETER_TENSORS}"
        )
    if len(fan_in) != len(ranks):
        raise InvalidProgram(f"layout has {len(ranks)} ranks and {len(fan_in)} fan-ins")
    if any(not 1 <= rank <= MAX_RANK for rank in ranks):
        raise InvalidProgram(f"layout has ranks {min(ranks)} to {max(ranks)}, not 1 to {MAX_RANK}")
    if sum(ranks) != len(dims):
        raise InvalidProgram(f"layout has ranks that sum to {sum(ranks)} and {len(dims)} dims")
    _refuse_out_of_range("dims", dims, lowest=1)
    _refuse_out_of_range("fan_in", fan_in, lowest=0)
    tensors, start = [], 0
    for rank, inputs in zip(ranks, fan_in, strict=True):
        tensors.append(ParameterTensor(shape=dims[start : start + rank], fan_in=inputs))
        start += rank
    layout = ParameterLayout(tensors=tuple(tensors))
    if layout.num_parameters > MAX_PARAMETERS:
        raise InvalidProgram(
            f"layout has {layout.num_parameters} parameters, the limit is {MAX_PARAMETERS}"
        )
    return layout


def _refuse_out_of_range(column: str, values: Sequence[int], *, lowest: int) -> None:
    for value in values:
        if not lowest <= value <= MAX_PARAMETERS:
            raise InvalidProgram(
                f"layout has {column} {value}, it may be {lowest} to {MAX_PARAMETERS}"
            )
