"""What a field of a scenario may hold, as an annotation that the reader and the page share."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Between:
    """Lowest and highest value, both allowed."""

    lowest: float
    highest: float

    def __str__(self) -> str:
        return f"{self.lowest:,.12g} to {self.highest:,.12g}"


SHARE = Between(0, 1)
"""A part of a whole, or a probability."""
