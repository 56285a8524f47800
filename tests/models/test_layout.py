"""Layouts survive the way into a program and back; first parameters follow from them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_models.errors import InvalidProgram
from headwater_models.initialization import initial_parameters
from headwater_models.layout import (
    MAX_PARAMETER_TENSORS,
    MAX_PARAMETERS,
    LayoutColumns,
    ParameterLayout,
    ParameterTensor,
    decode_layout,
    encode_layout,
)
from headwater_models.program import Program

TENSORS = st.builds(
    lambda shape, fan_in: ParameterTensor(shape=tuple(shape), fan_in=fan_in),
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.integers(0, 1_000),
)
LAYOUTS = st.lists(TENSORS, min_size=1, max_size=8).map(
    lambda tensors: ParameterLayout(tensors=tuple(tensors))
)


@given(LAYOUTS)
def test_a_layout_decodes_to_itself(layout):
    assert decode_layout(encode_layout(layout)) == layout


@given(*[st.lists(st.integers(-2, 40), max_size=5).map(tuple)] * 3)
def test_columns_decode_to_what_encodes_to_them_or_not_at_all(ranks, dims, fan_in):
    columns = LayoutColumns(ranks=ranks, dims=dims, fan_in=fan_in)
    try:
        layout = decode_layout(columns)
    except InvalidProgram:
        return
    assert encode_layout(layout) == columns


def test_a_layout_may_reach_its_limits_and_no_further():
    decode_layout(LayoutColumns(ranks=(1,), dims=(MAX_PARAMETERS,), fan_in=(0,)))
    with pytest.raises(InvalidProgram):
        decode_layout(LayoutColumns(ranks=(1, 1), dims=(MAX_PARAMETERS, 1), fan_in=(0, 0)))
    ones = (1,) * MAX_PARAMETER_TENSORS
    decode_layout(LayoutColumns(ranks=ones, dims=ones, fan_in=ones))
    with pytest.raises(InvalidProgram):
        decode_layout(LayoutColumns(ranks=(*ones, 1), dims=(*ones, 1), fan_in=(*ones, 1)))


def test_first_parameters_have_the_deviation_of_he_and_zero_biases():
    program = Program.load("cnn-28x28")
    parameters = initial_parameters(program, 5)
    assert parameters.dtype == np.float32
    assert parameters.shape == (program.num_parameters,)
    layout = program.parameter_layout
    for tensor, offset in zip(layout.tensors, layout.offsets, strict=True):
        piece = parameters[offset : offset + tensor.size]
        if not tensor.fan_in:
            assert not piece.any()
        else:
            expected = math.sqrt(2 / tensor.fan_in)
            assert piece.std() == pytest.approx(expected, rel=5 / math.sqrt(tensor.size))


def test_first_parameters_follow_from_the_seed():
    program = Program.load("mlp-64-32-10")
    first = initial_parameters(program, 1)
    assert np.array_equal(first, initial_parameters(program, 1))
    assert not np.array_equal(first, initial_parameters(program, 2))
