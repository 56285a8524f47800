"""Bad data: one line with the place and the fix, counted; never a stopped process."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

MAX_LATEST: Final = 16
"""Problems kept for people to look at, the newest."""

MAX_PLACES: Final = 256
"""Files or topics that are counted apart; what comes after them is counted together."""

OTHERS: Final = "other places"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong with one row, file or message."""

    place: str
    """The file, topic, query or function."""
    row: int | None
    """The line of a file or the number of a row, from 1; None for all of the place."""
    problem: str
    fix: str

    @property
    def place_and_problem(self) -> str:
        """Without the fix."""
        where = self.place if self.row is None else f"{self.place} line {self.row}"
        return f"{where}: {self.problem}"

    def __str__(self) -> str:
        return f"{self.place_and_problem}; {self.fix}"


Tell = Callable[[Problem, int], None]
"""Called with a problem and how many its place has had."""


class Problems:
    """Counts problems by place and tells of the 1st, 2nd, 4th, 8th and so on of each.

    Args:
        tell: Takes what is worth a line in a log.
    """

    def __init__(self, tell: Tell | None = None) -> None:
        self._tell = tell
        self._counts: dict[str, int] = {}
        self._highest: dict[str, int] = {}
        self._latest: deque[Problem] = deque(maxlen=MAX_LATEST)

    @property
    def counts(self) -> dict[str, int]:
        """How many each place has had."""
        return dict(self._counts)

    @property
    def latest(self) -> tuple[Problem, ...]:
        """The newest, oldest first."""
        return tuple(self._latest)

    @property
    def total(self) -> int:
        """How many there are in all."""
        return sum(self._counts.values())

    def begin(self, place: str) -> None:
        """A place is read anew from its start: what is still wrong there is not told again."""
        self._counts.pop(place, None)

    def add(self, place: str, problem: str, *, fix: str, row: int | None = None) -> None:
        """Count one."""
        found = Problem(place=place, row=row, problem=problem, fix=fix)
        known = place in self._highest or len(self._highest) < MAX_PLACES
        name = place if known else OTHERS
        count = self._counts.get(name, 0) + 1
        self._counts[name] = count
        self._latest.append(found)
        if count > self._highest.get(name, 0):
            self._highest[name] = count
            if self._tell is not None and not count & (count - 1):
                self._tell(found, count)
