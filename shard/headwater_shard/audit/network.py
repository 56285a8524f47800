"""The audit of a network: blobs, then the shards, then the main chain beside them.

The shards come before the main chain, so that each checkpoint and each merge is compared at the
block that settled it. The audit reads through `LedgerReader` and `BlobReader` and does nothing
else; a shell opens them, shows the progress and prints the report.

Left out on purpose: what an engine keeps for itself beside the ledger, its votes and proposals.
"""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from headwater_protocol.chain.genesis import Genesis, encode_genesis, genesis_network
from headwater_protocol.crypto.signing import DirectVerifier, Verifier
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId, Digest, Height
from headwater_shard.audit.failure import AuditFailure, Mismatch, located, require_equal
from headwater_shard.audit.main_chain import MainAudit
from headwater_shard.audit.once import OnceVerifier
from headwater_shard.audit.readers import BlobReader, LedgerReader, require_same_entries
from headwater_shard.audit.replay import ChainReplay, ReplayedBlock
from headwater_shard.audit.report import AuditReport, ChainReport, Progress
from headwater_shard.audit.shard import ShardAudit
from headwater_shard.engine.bft.history import FinalizedBlock
from headwater_shard.state.state import State


class Follower(Protocol):
    """What looks at a chain's blocks once the replay found that they hold."""

    def follow(self, block: ReplayedBlock) -> None:
        """Check the next block."""
        ...

    def finish(self, state: State) -> None:
        """Check what holds at the end of the ledger."""
        ...


@dataclass(slots=True, kw_only=True)
class _Followed:
    """What a chain came to, for its report."""

    blocks: int = 0
    transactions: int = 0
    refused: int = 0
    entries: int = 0
    state_root: Digest


class NetworkAudit:
    """One run of the audit."""

    def __init__(
        self,
        *,
        genesis: Genesis,
        ledgers: Mapping[ChainId, LedgerReader],
        blobs: BlobReader,
        verifier: Verifier | None = None,
    ) -> None:
        """Prepare a run.

        Args:
            genesis: What everything is replayed from.
            ledgers: Those to audit, by the chain that each has to hold; what one says about another
                is compared where both are here.
            blobs: Models, the program and payloads.
            verifier: Checks single signatures; None checks each as it comes.
        """
        self._genesis = genesis
        self._network = genesis_network(genesis)
        self._ledgers = ledgers
        self._blobs = blobs
        self._verifier = OnceVerifier(DirectVerifier() if verifier is None else verifier)
        self._shards: dict[ChainId, ShardAudit] = {}
        self._reports: list[ChainReport] = []
        self._num_blobs = 0
        self._num_compared = 0

    @property
    def report(self) -> AuditReport:
        """What has held so far; after a run that raised nothing, everything."""
        return AuditReport(
            network=self._network,
            chains=tuple(self._reports),
            signatures=self._verifier.num_verified,
            blobs=self._num_blobs,
            compared=self._num_compared,
            absent=tuple(
                chain for chain in (MAIN_CHAIN, *self._genesis.shards) if chain not in self._ledgers
            ),
        )

    def run(self) -> Iterator[Progress]:
        """Check everything, telling after each blob and block how far it is.

        Raises:
            AuditFailure: The first thing that does not hold.
        """
        yield from self._check_blobs()
        for chain in sorted(self._ledgers):
            if chain != MAIN_CHAIN:
                yield from self._check_shard(chain)
        if MAIN_CHAIN in self._ledgers:
            yield from self._check_main()

    def _check_blobs(self) -> Iterator[Progress]:
        records = self._blobs.verify()
        total = len(self._blobs)
        while True:
            with located(item="blobs"):
                try:
                    damage = next(records)
                except StopIteration:
                    break
            if damage is not None:
                raise AuditFailure(
                    damage.problem, item=f"blobs/{damage.segment} offset {damage.offset}"
                )
            self._num_blobs += 1
            yield Progress(part="blobs", done=self._num_blobs, total=total)
        task = self._genesis.task
        for what, digest in (("program", task.program), ("initial model", task.initial_model)):
            if digest not in self._blobs:
                raise AuditFailure(f"blob {digest.hex()} is missing", item=f"the task's {what}")

    def _check_shard(self, chain: ChainId) -> Generator[Progress, None, None]:
        shard = ShardAudit(
            genesis=self._genesis, shard=chain, blobs=self._blobs, verifier=self._verifier
        )
        followed = yield from self._follow(chain, shard)
        self._shards[chain] = shard
        rounds = shard.rounds
        self._reports.append(
            ChainReport(
                chain=chain,
                blocks=followed.blocks,
                transactions=followed.transactions,
                refused=followed.refused,
                entries=followed.entries,
                state_root=followed.state_root,
                rounds=rounds.num_closed,
                updates=rounds.num_updates,
                rewards=rounds.paid,
                checkpoints=len(shard.checkpoints),
                merges=len(shard.adopted),
                model=rounds.model,
            )
        )

    def _check_main(self) -> Generator[Progress, None, None]:
        main = MainAudit(genesis=self._genesis, blobs=self._blobs, shards=self._shards)
        followed = yield from self._follow(MAIN_CHAIN, main)
        self._num_compared = main.num_compared
        self._reports.append(
            ChainReport(
                chain=MAIN_CHAIN,
                blocks=followed.blocks,
                transactions=followed.transactions,
                refused=followed.refused,
                entries=followed.entries,
                state_root=followed.state_root,
                rounds=0,
                updates=0,
                rewards=0,
                checkpoints=main.num_checkpoints,
                merges=main.num_merges,
                model=main.model,
            )
        )

    def _follow(self, chain: ChainId, follower: Follower) -> Generator[Progress, None, _Followed]:
        ledger = self._ledgers[chain]
        with located(chain=chain):
            self._require_identity(chain, ledger)
            replay = ChainReplay(genesis=self._genesis, chain=chain, verifier=self._verifier)
            total = ledger.height
            blocks = iter(ledger.iter_blocks(Height(1)))
        followed = _Followed(state_root=replay.state.root)
        for height in range(1, total + 1):
            with located(chain=chain, height=Height(height)):
                block = replay.follow(_next_block(blocks))
                follower.follow(block)
            followed.blocks += 1
            followed.transactions += len(block.transactions) + block.num_refused
            followed.refused += block.num_refused
            yield Progress(part=chain, done=height, total=total)
        with located(chain=chain, height=Height(total)):
            follower.finish(replay.state)
            followed.entries = require_same_entries(chain, replay.state, ledger.load_entries())
        followed.state_root = replay.state.root
        return followed

    def _require_identity(self, chain: ChainId, ledger: LedgerReader) -> None:
        for what, found, expected in (
            ("network", ledger.network, self._network),
            ("chain", ledger.chain, chain),
            ("genesis", ledger.load_genesis(), encode_genesis(self._genesis)),
        ):
            require_equal(what, found=found, expected=expected, by="genesis.cbor")


def _next_block(blocks: Iterator[FinalizedBlock]) -> FinalizedBlock:
    block = next(blocks, None)
    if block is None:
        raise Mismatch("the block is missing")
    return block
