"""Proofs of epochs, made from the main chain's state: what light clients and shards follow."""

from headwater_protocol.chain.block import BlockHeader, Certificate
from headwater_protocol.chain.epoch import epoch_key
from headwater_protocol.light.update import EpochUpdate
from headwater_shard.mainchain.records import EPOCHS, MAIN, MAIN_KEY
from headwater_shard.state.state import State


def make_epoch_update(
    state: State, header: BlockHeader, certificate: Certificate
) -> EpochUpdate | None:
    """The proof of the current epoch under a block of the main chain; None at genesis.

    Made of the block that puts the epoch's committee in office, it leads there from the epoch
    before. Made of any later block of the epoch, it says that the epoch still lasts.

    Args:
        state: After the block.
        header: Of the block.
        certificate: Of the block.
    """
    main = state.get(MAIN, MAIN_KEY)
    epoch = None if main is None else state.get(EPOCHS, epoch_key(main.epoch))
    if epoch is None:
        return None
    return EpochUpdate(
        epoch=epoch,
        proof=state.prove(EPOCHS.namespace, epoch_key(epoch.epoch)),
        header=header,
        certificate=certificate,
    )


def is_handover(update: EpochUpdate) -> bool:
    """Whether an update leads from the epoch before to its own."""
    return update.header.height == update.epoch.start_height
