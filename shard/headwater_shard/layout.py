"""Where the files of a data folder are: what a gateway writes, a simulation keeps, an audit reads.

```
genesis.cbor              canonical bytes of the genesis
main/ledger.sqlite        the main chain
<shard>/ledger.sqlite     one for each shard that is hosted here
blobs/segment-*.blobs     models, programs and payloads
inbox/*.tx                signed transactions that a running gateway submits
```
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headwater_protocol.identifiers import MAIN_CHAIN, ChainId

GENESIS_NAME: Final = "genesis.cbor"
LEDGER_NAME: Final = "ledger.sqlite"
BLOBS_NAME: Final = "blobs"
EPOCHS_NAME: Final = "epochs"
INBOX_NAME: Final = "inbox"


@dataclass(frozen=True, slots=True)
class DataFolder:
    """The paths under one folder; nothing is read or made here but where a method says so."""

    path: Path
    """The folder itself."""

    @property
    def genesis(self) -> Path:
        """The encoded genesis."""
        return self.path / GENESIS_NAME

    @property
    def blobs(self) -> Path:
        """The folder of the blob segments."""
        return self.path / BLOBS_NAME

    @property
    def main_ledger(self) -> Path:
        """The database of the main chain."""
        return self.ledger(MAIN_CHAIN)

    def chain(self, chain: ChainId) -> Path:
        """The folder of one chain."""
        return self.path / chain

    def ledger(self, chain: ChainId) -> Path:
        """The database of one chain."""
        return self.chain(chain) / LEDGER_NAME

    @property
    def epochs(self) -> Path:
        """The folder of the proofs of epochs."""
        return self.chain(MAIN_CHAIN) / EPOCHS_NAME

    @property
    def inbox(self) -> Path:
        """The folder of transactions that people bring."""
        return self.path / INBOX_NAME

    def list_ledgers(self) -> tuple[ChainId, ...]:
        """The names of the folders that hold a ledger, sorted; reads the folder.

        Raises:
            OSError: If the folder cannot be read.
        """
        return tuple(
            ChainId(entry.name)
            for entry in sorted(self.path.iterdir())
            if (entry / LEDGER_NAME).is_file()
        )
