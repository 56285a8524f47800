from dataclasses import replace

import numpy as np
import pytest

from headwater_protocol.chain.checkpoint import MAX_EPOCH_EXAMPLES, MAX_SHARDS, MergeInput
from headwater_protocol.chain.claim import Commit
from headwater_protocol.chain.round import MergeCorrection
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.errors import BadEncoding, InvalidMessage, OutOfBounds
from headwater_protocol.identifiers import Signature
from headwater_protocol.model.fixed_point import FixedPointModel, decode_model, encode_model
from headwater_protocol.model.integer_mean import MAX_MERGED_EXAMPLES
from headwater_protocol.model.payload import encode_payload
from headwater_protocol.model.quantized_delta import QuantizedDelta, int32_delta
from headwater_shard.round_model import (
    compute_merged_model,
    compute_round_model,
    decode_task_model,
    decode_update_payload,
    payload_limit,
)
from tests.support.network import key, make_task

TASK = make_task()


class Blobs(dict):
    """Blobs by digest, as a gateway would fetch them."""

    def put(self, data: bytes):
        self[blob_digest(data)] = data
        return blob_digest(data)

    def fetch(self, digest) -> bytes:
        if digest not in self:
            raise OutOfBounds("no such blob")
        return self[digest]


def model(values, fraction_bits=20) -> bytes:
    return encode_model(
        FixedPointModel(parameters=np.array(values, dtype=np.int32), fraction_bits=fraction_bits)
    )


def delta(seed: int) -> QuantizedDelta:
    rng = np.random.default_rng(seed)
    return QuantizedDelta(
        codes=rng.integers(-127, 128, 10).astype(np.int8),
        exponents=(-12, -10),
        tensor_sizes=TASK.tensor_sizes,
        bits=8,
        fraction_bits=20,
    )


def commit_of(blobs: Blobs, seed: int, num_examples: int) -> Commit:
    return Commit(
        device=key(f"d{seed}").device,
        payload=blobs.put(encode_payload(delta(seed))),
        num_examples=num_examples,
        signature=Signature(bytes(64)),
    )


def parameters(data: bytes) -> list[int]:
    return decode_model(data, max_parameters=10).parameters.tolist()


def test_a_rounds_model_is_the_base_plus_the_weighted_mean():
    blobs = Blobs()
    base = blobs.put(model(range(10)))
    commits = [commit_of(blobs, 1, 1), commit_of(blobs, 2, 3)]
    data = compute_round_model(
        TASK, base=base, accepted=commits, correction=None, fetch=blobs.fetch
    )
    mean = (int32_delta(delta(1)).astype(object) + 3 * int32_delta(delta(2)).astype(object)) / 4
    expected = [index + round(value) for index, value in enumerate(mean)]
    assert parameters(data) == expected
    assert data == compute_round_model(
        TASK, base=base, accepted=commits[::-1], correction=None, fetch=blobs.fetch
    )


def test_examples_count_up_to_the_tasks_cap():
    blobs = Blobs()
    base = blobs.put(model([0] * 10))
    capped = replace(TASK, max_examples=2)
    rows = [
        compute_round_model(
            capped,
            base=base,
            accepted=[commit_of(blobs, 1, 2), commit_of(blobs, 2, claimed)],
            correction=None,
            fetch=blobs.fetch,
        )
        for claimed in (2, 1_000)
    ]
    assert rows[0] == rows[1]


def test_a_correction_moves_the_model_by_merged_less_reference():
    blobs = Blobs()
    base = blobs.put(model([100] * 10))
    correction = MergeCorrection(
        epoch=1, merged=blobs.put(model([7] * 10)), reference=blobs.put(model([5] * 10))
    )
    alone = compute_round_model(
        TASK, base=base, accepted=[], correction=correction, fetch=blobs.fetch
    )
    assert parameters(alone) == [102] * 10
    commits = [commit_of(blobs, 1, 1)]
    plain, moved = (
        parameters(
            compute_round_model(
                TASK, base=base, accepted=commits, correction=entry, fetch=blobs.fetch
            )
        )
        for entry in (None, correction)
    )
    assert moved == [value + 2 for value in plain]


def test_a_round_of_nothing_is_its_base():
    blobs = Blobs()
    base = blobs.put(model(range(10)))
    data = compute_round_model(TASK, base=base, accepted=[], correction=None, fetch=blobs.fetch)
    assert blob_digest(data) == base


@pytest.mark.parametrize("spoiled", ["missing", "torn", "of another task"])
def test_a_payload_that_is_not_the_tasks_is_an_error(spoiled):
    blobs = Blobs()
    base = blobs.put(model([0] * 10))
    commit = commit_of(blobs, 1, 1)
    if spoiled == "missing":
        del blobs[commit.payload]
    elif spoiled == "torn":
        blobs[commit.payload] = blobs[commit.payload][:-1]
    else:
        other = replace(delta(1), tensor_sizes=(4, 6))
        blobs[commit.payload] = encode_payload(other) + b"\0"
    with pytest.raises(InvalidMessage):
        compute_round_model(TASK, base=base, accepted=[commit], correction=None, fetch=blobs.fetch)


def test_a_model_of_another_shape_or_grid_is_not_the_tasks():
    assert decode_task_model(TASK, model([1] * 10)).fraction_bits == 20
    for data in (model([1] * 9), model([1] * 11), model([1] * 10, fraction_bits=19), b""):
        with pytest.raises(InvalidMessage):
            decode_task_model(TASK, data)


def test_a_payload_has_a_limit_that_every_delta_keeps():
    data = encode_payload(delta(3))
    assert len(data) <= payload_limit(TASK)
    assert decode_update_payload(TASK, data) == delta(3)
    with pytest.raises(InvalidMessage):
        decode_update_payload(TASK, bytes(payload_limit(TASK) + 1))


def merge_input(blobs: Blobs, name: str, value: int, num_examples: int) -> MergeInput:
    return MergeInput(
        shard=name,
        checkpoint=bytes(32),
        model=blobs.put(model([value] * 10)),
        num_examples=num_examples,
    )


def merged(*inputs: MergeInput, blobs: Blobs) -> list[int]:
    return parameters(compute_merged_model(TASK, inputs, fetch=blobs.fetch))


def test_a_merge_weighs_models_by_examples():
    blobs = Blobs()
    inputs = [merge_input(blobs, "a", 100, 1), merge_input(blobs, "b", 200, 3)]
    assert merged(*inputs, blobs=blobs) == [175] * 10


def test_a_late_model_moves_onto_the_merge_that_it_missed():
    blobs = Blobs()
    correction = MergeCorrection(
        epoch=1, merged=blobs.put(model([50] * 10)), reference=blobs.put(model([90] * 10))
    )
    late = replace(merge_input(blobs, "a", 100, 1), correction=correction)
    assert merged(late, blobs=blobs) == [60] * 10, "the merge, and what was learned since"
    assert merged(late, merge_input(blobs, "b", 200, 1), blobs=blobs) == [130] * 10
    del blobs[correction.reference]
    with pytest.raises(InvalidMessage):
        merged(late, blobs=blobs)


def test_a_shard_without_examples_does_not_count_unless_all_have_none():
    blobs = Blobs()
    idle = merge_input(blobs, "a", 100, 0)
    assert merged(idle, merge_input(blobs, "b", 200, 3), blobs=blobs) == [200] * 10
    assert merged(idle, merge_input(blobs, "b", 200, 0), blobs=blobs) == [150] * 10


def test_a_merge_of_nothing_is_an_error():
    with pytest.raises(BadEncoding):
        compute_merged_model(TASK, [], fetch=Blobs().fetch)


def test_as_many_shards_as_there_can_be_merge_at_their_largest_weight():
    assert MAX_SHARDS * MAX_EPOCH_EXAMPLES <= MAX_MERGED_EXAMPLES
    blobs = Blobs()
    inputs = [
        merge_input(blobs, "s", 2**31 - 1 - index % 2, MAX_EPOCH_EXAMPLES)
        for index in range(MAX_SHARDS)
    ]
    assert merged(*inputs, blobs=blobs) == [2**31 - 2] * 10
