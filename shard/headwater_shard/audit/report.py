"""What an audit tells while it runs, and what held in the end."""

from dataclasses import dataclass

from headwater_protocol.identifiers import MAIN_CHAIN, ChainId, Digest, Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far one part of the audit is."""

    part: str
    """`blobs`, or the chain's name."""
    done: int
    total: int
    """Blobs or blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainReport:
    """What held on one chain."""

    chain: ChainId
    blocks: int
    transactions: int
    refused: int
    """Of the transactions, those that the ledger took without effect."""
    entries: int
    """Of the current state."""
    state_root: Digest
    """After the last block."""
    rounds: int
    """Closed and recomputed; 0 for the main chain."""
    updates: int
    """Whose devices' signatures were checked; 0 for the main chain."""
    rewards: int
    """Units paid by the rounds; 0 for the main chain."""
    checkpoints: int
    """Emitted by a shard, or settled on the main chain."""
    merges: int
    """Adopted by a shard, or recomputed on the main chain."""
    model: Digest | None
    """Of a shard's last closed round, or of the last merge; None before the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """What held, as far as the audit came."""

    network: Network
    """The digest of the genesis, to be compared with the one that devices pin."""
    chains: tuple[ChainReport, ...]
    """Those that hold to their end."""
    signatures: int
    """Verified, each once."""
    blobs: int
    """Records of the segments."""
    compared: int
    """Checkpoints of the main chain that were found on their shards' ledgers."""
    absent: tuple[ChainId, ...]
    """Chains of the network whose ledgers were not given, and of which only proofs were checked."""

    @property
    def model(self) -> Digest | None:
        """The network's model: of the last merge, else of the first shard audited."""
        for report in sorted(self.chains, key=lambda entry: entry.chain != MAIN_CHAIN):
            if report.model is not None:
                return report.model
        return None
