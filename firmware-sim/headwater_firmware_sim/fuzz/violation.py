"""What ends a watched run early."""


class Violation(Exception):
    """Something that must never happen has happened."""

    def __init__(self, invariant: str, detail: str) -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant = invariant
        self.detail = detail


class LeftFaultModel(Exception):
    """An election gave liars a third of a committee: from here on nothing is promised."""


def require(invariant: str, holds: bool, detail: str) -> None:
    """Check one claim of an invariant.

    Raises:
        Violation: If it does not hold.
    """
    if not holds:
        raise Violation(invariant, detail)
