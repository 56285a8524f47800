"""Finalized blocks: the tip to start from, and what peers that lag ask for."""

from collections import deque
from dataclasses import dataclass
from typing import Final, Protocol

from headwater_protocol.chain.block import Block, Certificate, header_digest
from headwater_protocol.errors import ConfigError
from headwater_protocol.identifiers import Height, ValidatorId
from headwater_shard.engine.bft.leader import Rotation
from headwater_shard.engine.bft.signer import SavedState
from headwater_shard.engine.border import Application

MAX_RECENT_BLOCKS: Final = 8
"""Blocks that one machine keeps in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalizedBlock:
    """A block with the certificate under which it stands."""

    block: Block
    certificate: Certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class Tip:
    """The last finalized block as a store gives it back, and what the next one starts from."""

    block: Block
    certificate: Certificate
    rotation: Rotation


class BlockSource(Protocol):
    """Where a shell keeps finalized blocks."""

    def load_block(self, height: Height) -> FinalizedBlock | None:
        """The block at `height`, None where it is not kept.

        Raises:
            StorageError: If the store is unusable.
        """
        ...


class RecentBlocks:
    """The last blocks, in front of a store that may hold the rest."""

    __slots__ = ("_blocks", "_source")

    def __init__(self, source: BlockSource | None) -> None:
        self._source = source
        self._blocks: deque[FinalizedBlock] = deque(maxlen=MAX_RECENT_BLOCKS)

    def add(self, final: FinalizedBlock) -> None:
        """Keep a block, in place of the oldest."""
        self._blocks.append(final)

    def load_block(self, height: Height) -> FinalizedBlock | None:
        """The block at `height`, None where it is not kept."""
        for final in self._blocks:
            if final.block.header.height == height:
                return final
        return None if self._source is None else self._source.load_block(height)


def require_fitting(
    application: Application, validator: ValidatorId, tip: Tip | None, saved: SavedState | None
) -> None:
    """Check that what a validator starts from belongs together.

    Raises:
        ConfigError: If it does not.
    """
    height = 0 if tip is None else tip.block.header.height
    if application.height != height:
        raise ConfigError(
            "tip",
            f"the last block stored is {height}, the ledger's state is at {application.height}",
            fix="restore both from one store",
        )
    if tip is not None and tip.certificate.block != header_digest(tip.block.header):
        raise ConfigError(
            "tip",
            "the stored certificate is about another block",
            fix="restore the store from a copy",
        )
    if tip is not None and tip.rotation.committee != application.committee:
        raise ConfigError(
            "tip",
            "the stored rotation names another committee than the ledger",
            fix="restore both from one store",
        )
    if saved is not None and (saved.state.validator, saved.state.chain) != (
        validator,
        application.chain,
    ):
        raise ConfigError(
            "saved",
            "the signed state is another validator's or another chain's",
            fix="load the state that this validator wrote",
        )
