"""What somebody with the device in hand can do about a refusal; the end of its one line.

A reason code says what is wrong, to whoever sent it. Here its owner reads it, who sent nothing, so
what helps is another sentence. Where a detail names the fix already, as those about data do,
nothing is added.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from headwater_protocol.reasons import MEANINGS, ReasonCode

_STRANGER: Final = "it is ignored; if it goes on, look who may publish at the broker"
_TOO_LARGE: Final = (
    "raise max_parameters, max_program_bytes or max_outbox_bytes under [limits], or leave the task "
    "to larger devices"
)
_PIN: Final = "give an epoch that is in force under [trust]: pin_epoch, pin_digest, pin_time"
_SPONSOR: Final = "tell the task's sponsor; the next round is tried as well"

OF_MESSAGES: Final[Mapping[ReasonCode, str]] = MappingProxyType(
    {
        ReasonCode.STALE_ROUND: "it is ignored; there is nothing to do",
        ReasonCode.WRONG_EPOCH: "it waits for the election that it names; if no round begins, ask "
        "the operator of the gateways",
        ReasonCode.LOW_POWER: "it is ignored; if no round begins, ask the operator of the gateways",
        ReasonCode.TRUST_EXPIRED: _PIN,
        ReasonCode.TOO_LARGE: _TOO_LARGE,
    }
)
"""About what came from a broker; of other reasons `_STRANGER` holds."""

OF_ROUNDS: Final[Mapping[ReasonCode, str]] = MappingProxyType(
    {
        ReasonCode.STALE_ROUND: "there is nothing to do, the next one comes by itself",
        ReasonCode.UNAVAILABLE: "the next round is tried as well; headwater-agent doctor looks at "
        "data and program",
        ReasonCode.OUT_OF_BOUNDS: "compare [data] with the task: headwater-agent doctor",
        ReasonCode.TOO_LARGE: _TOO_LARGE,
    }
)
"""About a round that the device gave up; of other reasons `_SPONSOR` holds."""


def advise_on_message(reason: ReasonCode, detail: str) -> str:
    """The fix of a refused message, or nothing if its detail has it."""
    return "" if _has_fix(detail) else OF_MESSAGES.get(reason, _STRANGER)


def advise_on_round(reason: ReasonCode, detail: str) -> str:
    """The fix of an abandoned round, or nothing if its detail has it."""
    return "" if _has_fix(detail) else OF_ROUNDS.get(reason, _SPONSOR)


def advise_on_refusal(reason: ReasonCode) -> str:
    """What a gateway's refusal of an update means."""
    return MEANINGS[reason].rstrip(".")


def _has_fix(detail: str) -> bool:
    """Errors with a fix end with it, behind a semicolon."""
    return "; " in detail
