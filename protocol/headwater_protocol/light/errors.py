"""What a light client refuses, each with a reason of its own."""

from headwater_protocol.errors import InvalidMessage
from headwater_protocol.reasons import ReasonCode


class WrongNetwork(InvalidMessage):
    """A header is of another network than the one followed."""

    reason = ReasonCode.WRONG_NETWORK


class WrongChain(InvalidMessage):
    """A header is of another chain of the network than the one meant."""

    reason = ReasonCode.WRONG_CHAIN


class WrongEpoch(InvalidMessage):
    """An update is not of the next epoch, or certified by another epoch's delegates."""

    reason = ReasonCode.WRONG_EPOCH


class WrongShard(InvalidMessage):
    """The epoch knows no such shard."""

    reason = ReasonCode.WRONG_SHARD


class TrustExpired(InvalidMessage):
    """What is trusted is so old that its signers have nothing left to lose."""

    reason = ReasonCode.TRUST_EXPIRED
