"""How long a validator waits, in each view a little longer, up to a cap.

Growing timeouts make views long enough once messages arrive in bounded time, whatever the bound
is; the cap keeps a chain that was cut off for days from needing days to come back.
"""

from dataclasses import dataclass

from headwater_protocol.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """All in milliseconds, from 1."""

    propose_ms: int = 3_000
    """From knowing of work to voting for no block."""
    propose_step_ms: int = 500
    """Added for each view."""
    prevote_ms: int = 1_000
    """From a quorum of prevotes of any kind to precommitting no block."""
    prevote_step_ms: int = 500
    """Added for each view."""
    precommit_ms: int = 1_000
    """From a quorum of precommits of any kind to the next view."""
    precommit_step_ms: int = 500
    """Added for each view."""
    cap_ms: int = 30_000
    """The longest of the above."""
    resend_ms: int = 1_000
    """Between repetitions of own messages and of requests, as networks lose some."""
    probe_ms: int | None = None
    """While there is nothing to do, between questions for newer blocks; None asks never."""

    def __post_init__(self) -> None:
        for name in ("propose_ms", "prevote_ms", "precommit_ms", "cap_ms", "resend_ms"):
            if getattr(self, name) < 1:
                raise ConfigError(name, f"is {getattr(self, name)}", fix="set it to 1 or more")
        for name in ("propose_step_ms", "prevote_step_ms", "precommit_step_ms"):
            if getattr(self, name) < 0:
                raise ConfigError(name, f"is {getattr(self, name)}", fix="set it to 0 or more")
        if self.probe_ms is not None and self.probe_ms < 1:
            raise ConfigError("probe_ms", f"is {self.probe_ms}", fix="set it to 1 or more, or none")

    def propose(self, view: int) -> int:
        """The wait for a proposal of `view`."""
        return min(self.propose_ms + self.propose_step_ms * view, self.cap_ms)

    def prevote(self, view: int) -> int:
        """The wait for a quorum of equal prevotes of `view`."""
        return min(self.prevote_ms + self.prevote_step_ms * view, self.cap_ms)

    def precommit(self, view: int) -> int:
        """The wait for a quorum of equal precommits of `view`."""
        return min(self.precommit_ms + self.precommit_step_ms * view, self.cap_ms)
