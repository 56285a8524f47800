"""What a device finds wrong with its inputs, beyond what the protocol's own checks find."""

from headwater_protocol.errors import InvalidMessage
from headwater_protocol.reasons import ReasonCode


class StaleRound(InvalidMessage):
    """A message or a result is about a round that is over for this device."""

    reason = ReasonCode.STALE_ROUND


class WrongDigest(InvalidMessage):
    """Bytes or a receipt are about another digest than the one asked for."""

    reason = ReasonCode.WRONG_DIGEST


class NotDelegate(InvalidMessage):
    """A receipt is signed by a key that is no delegate of the shard."""

    reason = ReasonCode.NOT_PERMITTED
