"""What carries a light client from one epoch to the next."""

from dataclasses import dataclass
from typing import ClassVar, Final

from headwater_protocol.chain.block import BlockHeader, Certificate
from headwater_protocol.chain.epoch import Epoch
from headwater_protocol.chain.proof import StateProof
from headwater_protocol.encoding.record import decode_record

MAX_EPOCH_UPDATE_BYTES: Final = 256 * 1024
"""Room for 1,024 shards and 128 delegates, each listed twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochUpdate:
    """An epoch, proven by a block of the main chain.

    The block that puts the committee in office is the last one that the old committee certifies;
    that one leads from an epoch to the next. A later one, certified by the epoch's own committee,
    says that the epoch still lasts.
    """

    KIND: ClassVar[str] = "epoch-update/1"

    epoch: Epoch
    proof: StateProof
    header: BlockHeader
    certificate: Certificate


def decode_epoch_update(data: bytes) -> EpochUpdate:
    """The update that `data` encodes; nothing of it is verified.

    Raises:
        InvalidMessage: If it does not decode.
    """
    return decode_record(EpochUpdate, data, max_bytes=MAX_EPOCH_UPDATE_BYTES)
