"""What a peer can get wrong in consensus, beyond what the protocol's own errors say."""

from headwater_protocol.errors import InvalidBlock, InvalidMessage
from headwater_protocol.identifiers import ChainId, ValidatorId
from headwater_protocol.reasons import ReasonCode


class WrongChain(InvalidMessage):
    """A message of another chain."""

    reason = ReasonCode.WRONG_CHAIN

    def __init__(self, *, found: ChainId, expected: ChainId) -> None:
        super().__init__(f"a message of chain {found}, this is {expected}")
        self.found = found
        self.expected = expected


class NotPermitted(InvalidMessage):
    """A validator did what its role does not allow: vote without power, lead out of turn."""

    reason = ReasonCode.NOT_PERMITTED

    def __init__(self, validator: ValidatorId, what: str) -> None:
        super().__init__(f"{validator.hex()[:16]} may not {what}")
        self.validator = validator
        self.what = what


class QueueFull(InvalidMessage):
    """A message would exceed a limit on what is kept for later."""

    reason = ReasonCode.BUSY

    def __init__(self, what: str, *, limit: int) -> None:
        super().__init__(f"no room for another of {what}, the limit is {limit}")
        self.what = what
        self.limit = limit


class WrongField(InvalidBlock):
    """A header's field is not what this replica computes."""

    reason = ReasonCode.WRONG_DIGEST

    def __init__(self, field: str, *, found: object, expected: object) -> None:
        super().__init__(f"{field} is {_say(found)}, expected {_say(expected)}")
        self.field = field
        self.found = found
        self.expected = expected


class WrongTime(InvalidBlock):
    """A block's time lies outside what a validator accepts."""

    reason = ReasonCode.OUT_OF_BOUNDS

    def __init__(self, *, time_ms: int, earliest_ms: int, latest_ms: int | None) -> None:
        latest = "" if latest_ms is None else f" and at most {latest_ms}"
        super().__init__(f"block time {time_ms} ms, expected at least {earliest_ms}{latest}")
        self.time_ms = time_ms
        self.earliest_ms = earliest_ms
        self.latest_ms = latest_ms


def _say(value: object) -> str:
    return value.hex()[:16] if isinstance(value, bytes) else str(value)
