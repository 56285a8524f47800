"""The proofs of all epochs on disk, so that a device that was away long can follow them.

Each is made of the one block that ends an epoch, whose state is gone when the next one comes. A
proof that is missing here, because the process died between the block and the file, is made again
by replaying the main chain.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from headwater_protocol.chain.genesis import Genesis
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.errors import InvalidMessage, StorageError
from headwater_protocol.identifiers import MAIN_CHAIN, EpochNumber, Height
from headwater_protocol.light.update import EpochUpdate, decode_epoch_update
from headwater_shard.application import LedgerApplication, make_ledger
from headwater_shard.engine.bft.validation import make_context
from headwater_shard.mainchain.staking.handover import is_handover, make_epoch_update
from headwater_shard.store import LedgerStore

SUFFIX: Final = ".epoch"


class EpochArchive:
    """A folder with a file for each epoch."""

    def __init__(self, path: Path) -> None:
        """Open the folder, which is made where it is missing.

        Raises:
            StorageError: If it cannot be.
        """
        self._path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{path}: {error}") from error

    def put(self, update: EpochUpdate) -> None:
        """Keep a proof; durable when it returns.

        Raises:
            StorageError: If it cannot be written.
        """
        target = self._file(update.epoch.epoch)
        draft = target.with_suffix(".new")
        try:
            with draft.open("wb") as file:
                file.write(encode_record(update))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(target)
        except OSError as error:
            raise StorageError(f"{target}: {error}") from error

    def get(self, epoch: EpochNumber) -> EpochUpdate | None:
        """The proof of an epoch; None where it is missing, damaged or another's."""
        try:
            update = decode_epoch_update(self._file(epoch).read_bytes())
        except (OSError, InvalidMessage):
            return None
        return update if update.epoch.epoch == epoch else None

    def load(
        self, last: EpochNumber, *, genesis: Genesis, store: LedgerStore, verifier: Verifier
    ) -> tuple[EpochUpdate, ...]:
        """The proofs of epochs 1 to `last`, in order.

        Args:
            last: The current epoch, of the stored main chain or of a state behind it.
            genesis: To replay from, where a proof is missing.
            store: Of the main chain.
            verifier: Checks signatures in the replay.

        Raises:
            StorageError: If the folder or the store is unusable.
        """
        found = [self.get(EpochNumber(number)) for number in range(1, last + 1)]
        if None in found:
            for update in replay_epochs(genesis, store, verifier):
                if update.epoch.epoch > last:
                    break  # The store is ahead of whoever asks; these come with their blocks.
                if found[update.epoch.epoch - 1] is None:
                    found[update.epoch.epoch - 1] = update
                    self.put(update)
        return tuple(update for update in found if update is not None)

    def _file(self, epoch: EpochNumber) -> Path:
        return self._path / f"{epoch}{SUFFIX}"


def replay_epochs(
    genesis: Genesis, store: LedgerStore, verifier: Verifier
) -> Iterator[EpochUpdate]:
    """The proofs of all epochs of a stored main chain, by executing it from its genesis.

    Raises:
        StorageError: If the store is unusable.
        InvalidBlock: If a stored block does not hold.
    """
    application = LedgerApplication(make_ledger(genesis, MAIN_CHAIN), verifier)
    for final in store.iter_blocks(Height(1)):
        application.commit(make_context(final.block))
        update = make_epoch_update(application.state, final.block.header, final.certificate)
        if update is not None and is_handover(update):
            yield update
