"""A task's rule of aggregation, in integers; free of numpy, since a ledger and a task name it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final

from headwater_protocol.encoding.record import Range
from headwater_protocol.model.bounds import require_range

MAX_RATIO_THOUSANDTHS: Final = 1_000_000
"""A thousand median norms; more is no limit in practice."""

MAX_TRIM_THOUSANDTHS: Final = 499
"""On each side; something has to be left in the middle."""

MAX_ITERATIONS: Final = 16
"""Of centered clipping."""


class RuleKind(StrEnum):
    """How a cohort's deltas become one."""

    MEAN = "mean"
    TRIMMED_MEAN = "trimmed_mean"
    MEDIAN = "median"
    MULTI_KRUM = "multi_krum"
    CENTERED_CLIPPING = "centered_clipping"


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregationRule:
    """A task's rule of aggregation; parameters of other kinds are ignored."""

    kind: RuleKind = RuleKind.MEAN
    """`MEAN` weighs by examples; all others count every device once."""

    clip_ratio_thousandths: Annotated[int, Range(0, MAX_RATIO_THOUSANDTHS)] = 0
    """Norms are clipped to this multiple of the cohort's median norm, for every kind; 0 is off."""

    trim_thousandths: Annotated[int, Range(0, MAX_TRIM_THOUSANDTHS)] = 100
    """Share dropped at each end by `TRIMMED_MEAN`."""

    byzantine_thousandths: Annotated[int, Range(0, 499)] = 200
    """Share of devices that `MULTI_KRUM` assumes hostile and leaves out."""

    radius_thousandths: Annotated[int, Range(1, MAX_RATIO_THOUSANDTHS)] = 1000
    """Radius of `CENTERED_CLIPPING` in median distances."""

    iterations: Annotated[int, Range(1, MAX_ITERATIONS)] = 3
    """Of `CENTERED_CLIPPING`."""

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("clip_ratio_thousandths", self.clip_ratio_thousandths, 0, MAX_RATIO_THOUSANDTHS),
            ("trim_thousandths", self.trim_thousandths, 0, MAX_TRIM_THOUSANDTHS),
            ("byzantine_thousandths", self.byzantine_thousandths, 0, 499),
            ("radius_thousandths", self.radius_thousandths, 1, MAX_RATIO_THOUSANDTHS),
            ("iterations", self.iterations, 1, MAX_ITERATIONS),
        ):
            require_range(name, value, low=low, high=high)
