"""How far what is computed here lies from what a recording holds.

Two runtimes that differ in the last bit of a gradient do not stay within the last bit: Adam divides
by the gradient's own size, so where that is all but zero, a bit decides about the sign of a step.
"""

from dataclasses import dataclass

import numpy as np

from headwater_firmware_sim.trainings.work import Outcome, Refused, Trainings, Work


@dataclass(slots=True)
class Agreement:
    """What a comparison has found so far."""

    num_equal: int = 0
    """Trainings with the same bits."""
    num_apart: int = 0
    """The rest."""
    distance_sum: float = 0.0
    """Of the rest: length of the difference of the deltas, as a part of the delta's length."""
    largest_distance: float = 0.0

    def add(self, distance: float) -> None:
        """Count one training."""
        if distance == 0:
            self.num_equal += 1
            return
        self.num_apart += 1
        self.distance_sum += distance
        self.largest_distance = max(self.largest_distance, distance)

    def __str__(self) -> str:
        total = self.num_equal + self.num_apart
        text = f"{self.num_equal:,} of {total:,} trainings have the same bits"
        if self.num_apart:
            text += (
                f"; the other deltas differ by {self.distance_sum / self.num_apart:.2g} of their "
                f"length on average, by {self.largest_distance:.2g} at the most"
            )
        return text


class ComparedTrainings:
    """Answers with one source, asks a second one too, and counts how they agree."""

    is_early = False

    def __init__(self, source: Trainings, second: Trainings) -> None:
        self._source = source
        self._second = second
        self.agreement = Agreement()

    def begin(self, work: Work) -> None:
        """Both answer when they are asked."""

    def drop(self, trainee: str) -> None:
        """As `begin`."""

    def outcome(self, work: Work) -> Outcome:
        """What the first source answers; errors as there."""
        outcome = self._source.outcome(work)
        self.agreement.add(compute_distance(outcome, self._second.outcome(work)))
        return outcome


def compute_distance(first: Outcome, second: Outcome) -> float:
    """Length of the difference by that of the first; 0 for the same bits, 1 if one is refused."""
    if isinstance(first, Refused) or isinstance(second, Refused):
        return 0.0 if first == second else 1.0
    if first.delta.tobytes() == second.delta.tobytes():
        return 0.0
    own = first.delta.astype(np.float64)
    apart = float(np.linalg.norm(own - second.delta.astype(np.float64)))
    return apart / (float(np.linalg.norm(own)) or 1.0)
