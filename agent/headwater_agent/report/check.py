"""One line of `doctor`."""

from collections.abc import Callable
from dataclasses import dataclass

from headwater_protocol.errors import ConfigError, HeadwaterError


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What was looked at, and what to do if it is not as it should be."""

    name: str
    is_ok: bool
    detail: str
    fix: str = ""

    def to_json(self) -> dict[str, object]:
        """As JSON."""
        return {"name": self.name, "ok": self.is_ok, "detail": self.detail, "fix": self.fix}


def run_check(name: str, check: Callable[[], str]) -> Check:
    """Run `check`, which returns what it found, or raises what is wrong."""
    try:
        return Check(name=name, is_ok=True, detail=check())
    except ConfigError as error:
        return Check(name=name, is_ok=False, detail=f"{error.key}: {error.problem}", fix=error.fix)
    except HeadwaterError as error:
        # Its message ends with the fix.
        problem, _, fix = str(error).rpartition("; ")
        return Check(name=name, is_ok=False, detail=problem or fix, fix=fix if problem else "")
