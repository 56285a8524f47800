"""The model of a round or an epoch from blobs: what delegates attest and auditors recompute.

Both are pure functions of what the ledger names by digest, so everybody gets the same bytes.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from headwater_protocol.chain.checkpoint import MergeInput
from headwater_protocol.chain.claim import Commit
from headwater_protocol.chain.round import MergeCorrection
from headwater_protocol.chain.task import Task
from headwater_protocol.errors import BadEncoding, OutOfBounds
from headwater_protocol.identifiers import Digest
from headwater_protocol.model.aggregate import (
    Contribution,
    apply_aggregate,
    compute_aggregate,
    rebase,
)
from headwater_protocol.model.fixed_point import FixedPointModel, decode_model, encode_model
from headwater_protocol.model.integer_mean import merge_models
from headwater_protocol.model.payload import decode_payload, max_payload_bytes
from headwater_protocol.model.quantized_delta import QuantizedDelta

FetchBlob = Callable[[Digest], bytes]
"""Gives a blob's bytes, whose digest is checked; raises `InvalidMessage` where it cannot be had."""


def payload_limit(task: Task) -> int:
    """The most bytes that a payload of `task` can have."""
    return max_payload_bytes(
        num_parameters=task.num_parameters,
        num_tensors=len(task.tensor_sizes),
        bits=task.codec.bits,
    )


def decode_update_payload(task: Task, payload: bytes) -> QuantizedDelta:
    """The delta that a device sent, checked against its task.

    Raises:
        InvalidMessage: If it does not decode or does not fit the task.
    """
    return decode_payload(
        payload,
        tensor_sizes=task.tensor_sizes,
        bits=task.codec.bits,
        fraction_bits=task.fraction_bits,
        max_bytes=payload_limit(task),
    )


def decode_task_model(task: Task, data: bytes) -> FixedPointModel:
    """A model of `task`.

    Raises:
        InvalidMessage: If it does not decode or does not fit the task.
    """
    model = decode_model(data, max_parameters=task.num_parameters)
    if len(model.parameters) != task.num_parameters:
        raise OutOfBounds(
            f"the model has {len(model.parameters)} parameters, the task {task.num_parameters}"
        )
    if model.fraction_bits != task.fraction_bits:
        raise OutOfBounds(
            f"the model has {model.fraction_bits} fraction bits, the task {task.fraction_bits}"
        )
    return model


def compute_round_model(
    task: Task,
    *,
    base: Digest,
    accepted: Sequence[Commit],
    correction: MergeCorrection | None,
    fetch: FetchBlob,
    decode: Callable[[Task, bytes], QuantizedDelta] = decode_update_payload,
) -> bytes:
    """The encoded model of a round: base, plus the aggregate of `accepted`, plus the correction.

    Args:
        task: Says how deltas are written and aggregated.
        base: The model that was trained on.
        accepted: The commits that the committee accepted, in any order; none where the round
            aggregates nothing.
        correction: A merge to move to, if the ledger recorded one.
        fetch: Gives the blobs.
        decode: As `decode_update_payload`; may remember what it has decoded.

    Raises:
        InvalidMessage: If a blob cannot be had or does not fit the task.
    """
    model = decode_task_model(task, fetch(base))
    aggregate = compute_aggregate(
        (
            Contribution(
                device_id=commit.device,
                num_examples=commit.num_examples,
                delta=decode(task, fetch(commit.payload)),
            )
            for commit in accepted
        ),
        task.rule,
        num_parameters=task.num_parameters,
        max_examples=task.max_examples,
    )
    parameters = apply_aggregate(model.parameters, aggregate)
    if correction is not None:
        parameters = rebase(
            parameters,
            decode_task_model(task, fetch(correction.merged)).parameters,
            decode_task_model(task, fetch(correction.reference)).parameters,
        )
    return encode_model(FixedPointModel(parameters=parameters, fraction_bits=task.fraction_bits))


def compute_merged_model(task: Task, inputs: Sequence[MergeInput], *, fetch: FetchBlob) -> bytes:
    """The encoded merge of the shards' models, weighted by examples.

    A model with a correction moves by it first, as a shard that trained on would have moved it.
    Where no shard accepted anything since the last merge, all models weigh the same.

    Raises:
        InvalidMessage: If a blob cannot be had or does not fit the task.
    """
    if not inputs:
        raise BadEncoding("a merge of nothing")
    is_idle = all(entry.num_examples == 0 for entry in inputs)
    merged = merge_models(
        [
            (
                1 if is_idle else entry.num_examples,
                _input_parameters(task, entry, fetch),
            )
            for entry in inputs
            if is_idle or entry.num_examples
        ]
    )
    return encode_model(FixedPointModel(parameters=merged, fraction_bits=task.fraction_bits))


def _input_parameters(task: Task, entry: MergeInput, fetch: FetchBlob) -> NDArray[np.int32]:
    parameters = decode_task_model(task, fetch(entry.model)).parameters
    if entry.correction is None:
        return parameters
    return rebase(
        parameters,
        decode_task_model(task, fetch(entry.correction.merged)).parameters,
        decode_task_model(task, fetch(entry.correction.reference)).parameters,
    )
