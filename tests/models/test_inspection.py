"""What is a program, what is not, and that no bytes at all can hurt the reader."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_models.errors import InvalidProgram
from headwater_models.inspection import inspect_program
from headwater_models.program import Program, list_programs
from headwater_models.tflite_file import MAX_PROGRAM_BYTES
from headwater_protocol.errors import ConfigError, InvalidMessage, TooLarge
from tests.support.tflite_writer import (
    BATCH,
    FLOAT32,
    operator_code,
    program_tree,
    tensor,
    write_flatbuffer,
)

SHIPPED = {name: Program.load(name) for name in list_programs()}
CRAFTED = write_flatbuffer(program_tree())


def problems(**changes):
    return inspect_program(write_flatbuffer(program_tree(**changes))).problems


@pytest.mark.parametrize(
    ("name", "num_parameters", "input_shape", "num_classes"),
    [
        ("mlp-64-32-10", 2_410, (64,), 10),
        ("har-cnn", 3_718, (128, 9), 6),
        ("cnn-28x28", 9_098, (28, 28, 1), 10),
    ],
)
def test_shipped_programs_describe_themselves(name, num_parameters, input_shape, num_classes):
    program = SHIPPED[name]
    assert program.num_parameters == sum(program.tensor_sizes) == num_parameters
    assert (program.input_shape, program.num_classes) == (input_shape, num_classes)
    assert len(program.digest) == 32
    assert program == Program(program.data)
    assert program.report.problems == ()


def test_a_program_that_is_not_shipped_is_a_configuration_error():
    with pytest.raises(ConfigError, match="use one of cnn-28x28, har-cnn, mlp-64-32-10"):
        Program.load("../secrets")


def test_a_crafted_program_is_taken():
    program = Program(CRAFTED)
    assert program.layout == ((3, 2), (2,))
    assert program.parameter_layout.tensors[0].fan_in == 3
    assert program.parameter_layout.offsets == (0, 6)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (operator_code(32, custom="FlexReluGrad"), "FlexReluGrad: a TensorFlow (Flex) operation"),
        (operator_code(32, custom="Mine"), "Mine: a custom operation"),
        (operator_code(32), "CUSTOM: a custom operation"),
        (operator_code(180), "STABLEHLO_LOG: a plain TFLite runtime lacks"),
        (operator_code(4_000), "BUILTIN_4000: an operation that TFLite runtimes do not know"),
        (operator_code(-5), "BUILTIN_-5: an operation"),
        (operator_code(9, version=11), "FULLY_CONNECTED: version 11; a plain TFLite runtime knows"),
        (operator_code(9, version=0), "FULLY_CONNECTED: version 0"),
        (operator_code(119), "WHILE: keeps state, draws entropy or may not end"),
        (operator_code(144), "ASSIGN_VARIABLE: keeps state"),
        (operator_code(148), "RANDOM_UNIFORM: keeps state"),
    ],
)
def test_operations_that_a_plain_runtime_lacks_are_named(code, expected):
    used = problems(codes=[code])
    listed_only = problems(codes=[operator_code(0), code])
    for found in (used, listed_only):
        assert len(found) == 1
        assert expected in found[0]


def test_an_operation_in_its_newest_known_version_is_taken():
    assert problems(codes=[operator_code(9, version=10)]) == ()


@pytest.mark.parametrize(
    ("path", "other", "expected"),
    [
        ("grad.w", tensor(FLOAT32, [7]), "grad: w is float32 (7,), not float32 (8,)"),
        ("grad.x", tensor(FLOAT32, [16, 3]), "grad: x is float32 (16, 3), not float32 (batch, 3)"),
        ("grad.y", tensor(FLOAT32, [BATCH]), "grad: y is float32 (batch,), not int32 (batch,)"),
        ("grad.sample_weights", tensor(FLOAT32, [16]), "grad: sample_weights is float32 (16,)"),
        ("grad.g", tensor(FLOAT32, [9]), "grad: g is float32 (9,)"),
        ("grad.loss", tensor(FLOAT32, []), "grad: loss is float32 (), not float32 (1,)"),
        ("infer.w", tensor(FLOAT32, [9]), "infer: w is float32 (9,)"),
        ("infer.x", tensor(FLOAT32, [BATCH, 4]), "infer: x is float32 (batch, 4)"),
        ("infer.logits", tensor(FLOAT32, [BATCH, 1]), "logits have 1 classes"),
        ("infer.logits", tensor(FLOAT32, [2]), "infer: logits is float32 (2,)"),
        ("infer.logits", tensor(FLOAT32, []), "logits have 0 classes"),
        ("layout.dims", tensor(FLOAT32, [3], buffer=1), "no constant int32 vector"),
        ("grad.w", tensor(FLOAT32, [8], is_variable=True), "subgraph 0 has variables"),
    ],
)
def test_signatures_of_another_form_are_named(path, other, expected):
    found = problems(replaced={path: other})
    assert any(expected in problem for problem in found), found


@pytest.mark.parametrize(
    "changes",
    [
        {"ranks": (2, 2)},
        {"ranks": (0, 3)},
        {"ranks": (2, 1, 1)},
        {"fan_in": (3,)},
        {"fan_in": (3, -1)},
        {"dims": (3, 2, 0)},
        {"dims": (3, 2, -2)},
        {"dims": (3, 2, 2**31 - 1)},
        {"dims": (1 << 24, 2, 2)},
        {"dims": (4, 2, 2)},
    ],
)
def test_layouts_that_do_not_add_up_are_named(changes):
    assert problems(**changes)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_missing_signature_is_named(index):
    tree = program_tree()
    tree[7] = [signature for i, signature in enumerate(tree[7]) if i != index]
    found = inspect_program(write_flatbuffer(tree)).problems
    assert any("is missing" in problem for problem in found)


def test_grad_must_come_first():
    tree = program_tree()
    tree[2] = [tree[2][1], tree[2][0], tree[2][2]]
    for signature, index in zip(tree[7], (1, 0, 2), strict=True):
        signature[4] = ("I", index)
    found = inspect_program(write_flatbuffer(tree)).problems
    assert found == ("grad is subgraph 1, not the first",)


def change_subgraph(tree, field, value):
    tree[2][0][field] = value


def change_operator(tree, field, value):
    tree[2][0][3][0][field] = value


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda t: change_operator(t, 0, ("I", 7)), "uses operation 7 of 1"),
        (lambda t: change_operator(t, 1, [99]), "tensor 99 of 6"),
        (lambda t: change_operator(t, 1, [-2]), "tensor -2 of 6"),
        (lambda t: change_operator(t, 1, [5]), "read before it is written"),
        (lambda t: change_operator(t, 2, [4]), "tensor 5 of subgraph 0 is an output and never"),
        (lambda t: change_operator(t, 2, [4, 5, 5]), "written twice"),
        (lambda t: change_operator(t, 2, [0]), "written twice"),
        (lambda t: change_subgraph(t, 1, [0, 1, 2, 6]), "an input of subgraph 0 is tensor 6"),
        (lambda t: change_subgraph(t, 2, [4]), "do not name each tensor"),
        (lambda t: t[7][0].update({4: ("I", 3)}), "is subgraph 3 of 3"),
        (lambda t: t[7][1].update({2: "grad"}), "do not name|two signatures"),
        (lambda t: t[4][1].update({0: b"123"}), "has 3 bytes"),
        (lambda t: t[4][1].update({1: ("Q", 8)}), "outside the flatbuffer"),
        (lambda t: t[2][0][0][0].update({1: ("b", 99)}), "unknown type 99"),
        (lambda t: t[2][0][0][0].update({2: ("I", 99)}), "buffer 99 of 4"),
        (lambda t: t[2][0][0][0].update({0: [-8]}), "has shape"),
        (lambda t: t[2][0][0][0].update({0: [1] * 9}), "has rank 9"),
        (lambda t: t[2][0][0][0].update({0: [2**31 - 1, 2**31 - 1]}), "has shape"),
        (lambda t: t[2][0][0][0].update({7: [-2]}), "and signature"),
    ],
)
def test_indices_that_lead_nowhere_are_refused(damage, expected):
    tree = program_tree()
    damage(tree)
    with pytest.raises(InvalidProgram, match=expected):
        inspect_program(write_flatbuffer(tree))


def test_a_file_of_another_kind_is_refused():
    with pytest.raises(InvalidProgram, match="file identifier"):
        inspect_program(write_flatbuffer(program_tree(), identifier=b"ABCD"))


def test_a_program_may_have_the_limit_of_bytes_and_no_more():
    padding = bytes(MAX_PROGRAM_BYTES - len(CRAFTED))
    assert inspect_program(CRAFTED + padding).problems == ()
    with pytest.raises(TooLarge):
        inspect_program(CRAFTED + padding + b"\0")


def test_a_small_file_cannot_stand_for_a_huge_tree():
    """Fifteen hundred offsets lead to one subgraph with an operator of a thousand inputs."""
    tree = program_tree()
    operator = {0: ("I", 0), 1: [0] * 1_000, 2: [4, 5]}
    tree[2][0][3] = [operator]
    tree[2] = [tree[2][0]] * 1_500
    data = write_flatbuffer(tree)
    assert len(data) < 100_000
    with pytest.raises(InvalidProgram, match="more elements than its limit"):
        inspect_program(data)


def survives(data):
    try:
        Program(data)
    except InvalidMessage:
        return
    assert isinstance(Program(data).num_parameters, int)


@given(st.binary(max_size=400))
def test_garbage_gives_typed_errors_only(data):
    survives(data)
    survives(b"\x10\0\0\0TFL3" + data)


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from([CRAFTED, SHIPPED["mlp-64-32-10"].data]),
    st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_changed_bytes_give_typed_errors_only(data, changes):
    damaged = bytearray(data)
    for position, value in changes:
        damaged[position % len(damaged)] = value
    survives(bytes(damaged))


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([CRAFTED, SHIPPED["mlp-64-32-10"].data]),
    st.integers(0, 2**16),
    st.sampled_from([0, 1, 4, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFC]),
)
def test_changed_offsets_give_typed_errors_only(data, position, value):
    damaged = bytearray(data)
    position = position % (len(damaged) - 4) & ~3
    damaged[position : position + 4] = value.to_bytes(4, "little")
    survives(bytes(damaged))


def test_every_truncation_gives_a_typed_error():
    for length in range(0, len(CRAFTED), 3):
        survives(CRAFTED[:length])


def test_every_single_byte_of_a_small_program_may_change():
    source = random.Random(1)
    for position in range(len(CRAFTED)):
        damaged = bytearray(CRAFTED)
        damaged[position] ^= source.randrange(1, 256)
        survives(bytes(damaged))
