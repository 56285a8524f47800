"""Aggregation of a cohort: the one function that every delegate, device and auditor recomputes.

Contributions are taken sorted by device id and only integers are combined, so the result does not
depend on the order of arrival, the processor or the number of threads. Norms are clipped to a
multiple of the cohort's median before any rule, as one huge delta is the cheapest attack.

Deltas may be given as they were sent. They are then expanded one at a time (mean, centered
clipping) or by columns (trimmed mean, median, multi-Krum), so that thousands of them stay small.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, assert_never

import numpy as np
from numpy.typing import NDArray

from headwater_protocol.errors import InvalidMessage, OutOfBounds
from headwater_protocol.model.bounds import MAX_TOTAL_EXAMPLES, require_range
from headwater_protocol.model.centered_clipping import compute_centered_clipping
from headwater_protocol.model.integer_mean import (
    MeanAccumulator,
    saturate_int32,
)
from headwater_protocol.model.krum import select_multi_krum
from headwater_protocol.model.norms import (
    CLIP_ONE,
    compute_clip_factor,
    compute_clip_limit,
    scale_by_factor,
    squared_norm,
)
from headwater_protocol.model.quantized_delta import QuantizedDelta, expand
from headwater_protocol.model.robust import compute_median, compute_trimmed_mean
from headwater_protocol.model.rule import AggregationRule, RuleKind
from headwater_protocol.reasons import ReasonCode

MAX_CONTRIBUTIONS: Final = 2**20
"""Of one aggregate."""


class DuplicateContribution(InvalidMessage):
    """Two contributions of one device in one aggregate."""

    reason = ReasonCode.DUPLICATE


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contribution:
    """An accepted delta, with whose it is and what it weighs."""

    device_id: bytes
    """Sorts the contributions and breaks ties; distinct in an aggregate."""

    num_examples: int
    """As claimed, at least 1; capped by the aggregation."""

    delta: QuantizedDelta | NDArray[np.int32]
    """Shape (num_parameters,) in model units, or the codes that expand to it."""


def compute_aggregate(
    contributions: Iterable[Contribution],
    rule: AggregationRule,
    *,
    num_parameters: int,
    max_examples: int,
) -> NDArray[np.int64]:
    """Combine a cohort's deltas by `rule`.

    Args:
        contributions: In any order, at most one a device.
        rule: The task's rule.
        num_parameters: Of the task's model.
        max_examples: The task's cap of what one device may weigh.

    Returns:
        Shape (num_parameters,) in model units, within the int32 range; zeros without contributions.

    Raises:
        DuplicateContribution: If a device appears twice.
        OutOfBounds: If a delta has another shape or `num_examples` is below 1.
        AggregateOverflow: If the capped examples sum to more than `MAX_TOTAL_EXAMPLES`.
    """
    cohort = _Cohort(contributions, num_parameters=num_parameters, max_examples=max_examples)
    num_deltas = len(cohort.rows)
    if num_deltas == 0:
        return np.zeros(num_parameters, dtype=np.int64)
    if rule.clip_ratio_thousandths:
        cohort.clip(rule.clip_ratio_thousandths)
    match rule.kind:
        case RuleKind.MEAN:
            mean = MeanAccumulator(num_parameters=num_parameters)
            for row, contribution in enumerate(cohort.rows):
                weight = min(contribution.num_examples, max_examples)
                mean.add(cohort.read_delta(row), num_examples=weight)
            return mean.mean()
        case RuleKind.TRIMMED_MEAN:
            return compute_trimmed_mean(
                cohort.read_block,
                num_deltas=num_deltas,
                num_parameters=num_parameters,
                trim_thousandths=rule.trim_thousandths,
            )
        case RuleKind.MEDIAN:
            return compute_median(
                cohort.read_block, num_deltas=num_deltas, num_parameters=num_parameters
            )
        case RuleKind.MULTI_KRUM:
            mean = MeanAccumulator(num_parameters=num_parameters)
            for row in select_multi_krum(
                cohort.read_block,
                num_deltas=num_deltas,
                num_parameters=num_parameters,
                byzantine_thousandths=rule.byzantine_thousandths,
            ):
                mean.add(cohort.read_delta(row), num_examples=1)
            return mean.mean()
        case RuleKind.CENTERED_CLIPPING:
            return compute_centered_clipping(
                cohort.read_delta,
                num_deltas=num_deltas,
                num_parameters=num_parameters,
                radius_thousandths=rule.radius_thousandths,
                iterations=rule.iterations,
            )
        case _:
            assert_never(rule.kind)


def apply_aggregate(
    parameters: NDArray[np.int32], aggregate: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Return the next model: `parameters + aggregate`, saturated to int32.

    Raises:
        OutOfBounds: If the shapes differ.
    """
    _require_same_shape(parameters, aggregate)
    # Two int32 differ by less than 2**32; clipping first keeps the sum inside int64.
    bounded = np.clip(aggregate, -(2**32), 2**32)
    return saturate_int32(parameters.astype(np.int64) + bounded)


def rebase(
    parameters: NDArray[np.int32], merged: NDArray[np.int32], checkpointed: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Move a shard's model onto a merged one without losing the rounds since its checkpoint.

    Args:
        parameters: The shard's current model.
        merged: The main chain's merge of the shards' checkpoints.
        checkpointed: The shard's model in that checkpoint.

    Returns:
        `parameters + merged - checkpointed`, saturated to int32.

    Raises:
        OutOfBounds: If the shapes differ.
    """
    _require_same_shape(parameters, merged)
    _require_same_shape(parameters, checkpointed)
    moved = parameters.astype(np.int64) + merged
    moved -= checkpointed
    return saturate_int32(moved)


def _require_same_shape(
    left: NDArray[np.int32], right: NDArray[np.int32] | NDArray[np.int64]
) -> None:
    if left.shape != right.shape:
        raise OutOfBounds(f"shapes {left.shape} and {right.shape} differ")


class _Cohort:
    """Checked, sorted contributions and the factor that each is clipped by."""

    def __init__(
        self, contributions: Iterable[Contribution], *, num_parameters: int, max_examples: int
    ) -> None:
        require_range("max_examples", max_examples, low=1, high=MAX_TOTAL_EXAMPLES)
        self.rows = sorted(contributions, key=lambda contribution: contribution.device_id)
        require_range("number of contributions", len(self.rows), low=0, high=MAX_CONTRIBUTIONS)
        self._num_parameters = num_parameters
        self._factors = [CLIP_ONE] * len(self.rows)
        previous: bytes | None = None
        for contribution in self.rows:
            if contribution.device_id == previous:
                raise DuplicateContribution(f"device {contribution.device_id.hex()} appears twice")
            previous = contribution.device_id
            require_range("num_examples", contribution.num_examples, low=1, high=2**63 - 1)
            _require_delta(contribution.delta, num_parameters)

    def clip(self, ratio_thousandths: int) -> None:
        squares = [squared_norm(contribution.delta) for contribution in self.rows]
        limit = compute_clip_limit(squares, ratio_thousandths=ratio_thousandths)
        self._factors = [compute_clip_factor(squared, limit=limit) for squared in squares]

    def read_delta(self, row: int, start: int = 0, stop: int | None = None) -> NDArray[np.int32]:
        end = self._num_parameters if stop is None else stop
        values = expand(self.rows[row].delta, start, end)
        factor = self._factors[row]
        return values if factor == CLIP_ONE else scale_by_factor(values, factor).astype(np.int32)

    def read_block(self, start: int, stop: int) -> NDArray[np.int32]:
        block = np.empty((len(self.rows), stop - start), dtype=np.int32)
        for row in range(len(self.rows)):
            block[row] = self.read_delta(row, start, stop)
        return block


def _require_delta(delta: QuantizedDelta | NDArray[np.int32], num_parameters: int) -> None:
    codes = delta.codes if isinstance(delta, QuantizedDelta) else delta
    expected = np.int8 if isinstance(delta, QuantizedDelta) else np.int32
    if codes.shape != (num_parameters,) or codes.dtype != expected:
        raise OutOfBounds(f"delta is {codes.dtype} of {codes.shape}, expected ({num_parameters},)")
