"""A main chain of light epochs: headers, certificates and proofs without ledgers behind them."""

from dataclasses import dataclass, field

from headwater_protocol.chain.account import RewardBalance
from headwater_protocol.chain.block import NO_DIGEST, BlockHeader
from headwater_protocol.chain.checkpoint import Merge, MergeInput
from headwater_protocol.chain.committee import Committee, committee_digest, make_committee
from headwater_protocol.chain.epoch import Epoch, ShardCommittee, epoch_key
from headwater_protocol.chain.proof import (
    MAIN_NAMESPACES,
    SHARD_NAMESPACES,
    StateProof,
    compute_state_root,
)
from headwater_protocol.crypto.hashing import blob_digest
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.encoding.record import encode_record
from headwater_protocol.identifiers import (
    MAIN_CHAIN,
    ChainId,
    Digest,
    EpochNumber,
    Height,
    Network,
    TimeMs,
    Units,
    ValidatorId,
)
from headwater_protocol.light.client import TrustedState
from headwater_protocol.light.update import EpochUpdate
from headwater_protocol.merkle.trie import MerkleMap
from tests.support.network import certify, key

EPOCH_MS = 3_600_000
SHARDS = (ChainId("shard-0"), ChainId("shard-1"), ChainId("shard-2"))


def state_of(
    namespaces: tuple[str, ...], entries: dict[str, dict[bytes, object]]
) -> tuple[Digest, dict[str, MerkleMap[object]]]:
    """The root of a state, and its namespaces."""
    maps = {
        name: MerkleMap[object]().updated(
            {
                entry_key: (encode_record(record), record)
                for entry_key, record in entries.get(name, {}).items()
            }
        )
        for name in namespaces
    }
    return compute_state_root(tuple(entry.root for entry in maps.values())), maps


def prove(maps: dict[str, MerkleMap[object]], namespace: str, entry_key: bytes) -> StateProof:
    """The proof of an entry, or of its absence."""
    return StateProof(
        namespace=namespace,
        map_proof=maps[namespace].prove(entry_key),
        namespace_roots=tuple(entry.root for entry in maps.values()),
    )


@dataclass
class LightNetwork:
    """Elections of `size` delegates over three shards; a third of them is new in every epoch."""

    size: int = 21
    trust_period_ms: int = 14 * 24 * EPOCH_MS
    start_ms: int = 1_700_000_000_000
    keys: dict[ValidatorId, SecretKey] = field(default_factory=dict)
    updates: list[EpochUpdate] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.epochs.append(self._make_epoch(0))

    @property
    def network(self) -> Network:
        return Network(blob_digest(b"light network"))

    @property
    def trusted(self) -> TrustedState:
        return TrustedState(
            network=self.network,
            epoch=self.epochs[0],
            time_ms=TimeMs(self.start_ms),
            trust_period_ms=self.trust_period_ms,
        )

    def time_of(self, epoch: int) -> TimeMs:
        return TimeMs(self.start_ms + epoch * EPOCH_MS)

    def signers(self, committee: Committee) -> list[SecretKey]:
        return [self.keys[entry.validator] for entry in committee.delegates]

    def header(
        self,
        committee: Committee,
        state_root: Digest,
        *,
        chain: ChainId = MAIN_CHAIN,
        height: int,
        time_ms: int,
        next_committee: Committee | None = None,
    ) -> BlockHeader:
        return BlockHeader(
            network=self.network,
            chain=chain,
            height=Height(height),
            time_ms=TimeMs(time_ms),
            previous=blob_digest(b"previous"),
            last_certificate=NO_DIGEST,
            transactions_root=NO_DIGEST,
            outcomes_root=NO_DIGEST,
            state_root=state_root,
            committee=committee_digest(committee),
            next_committee=committee_digest(next_committee or committee),
            proposer=committee.delegates[0].validator,
        )

    def make_update(
        self, epoch: Epoch, *, by: Committee, height: int | None = None, time_ms: int | None = None
    ) -> EpochUpdate:
        """A proof of an epoch under a block that `by` certified."""
        root, maps = state_of(MAIN_NAMESPACES, {"epochs": {epoch_key(epoch.epoch): epoch}})
        header = self.header(
            by,
            root,
            height=epoch.start_height if height is None else height,
            time_ms=epoch.start_ms if time_ms is None else time_ms,
            next_committee=epoch.committee,
        )
        return EpochUpdate(
            epoch=epoch,
            proof=prove(maps, "epochs", epoch_key(epoch.epoch)),
            header=header,
            certificate=certify(header, self.signers(by)),
        )

    def pass_epochs(self, count: int) -> None:
        """Elect `count` times."""
        for _ in range(count):
            last = self.epochs[-1]
            epoch = self._make_epoch(len(self.epochs))
            self.updates.append(self.make_update(epoch, by=last.committee))
            self.epochs.append(epoch)

    def rewarded(
        self, account: SecretKey, total: int
    ) -> tuple[BlockHeader, StateProof, RewardBalance, Committee]:
        """A block of the first shard in the last epoch in which an account has earned."""
        committee = self.epochs[-1].shards[0].committee
        entry = RewardBalance(total=Units(total))
        root, maps = state_of(
            SHARD_NAMESPACES,
            {"rewards": {account.account: entry, key("other").account: entry}},
        )
        header = self.header(
            committee,
            root,
            chain=SHARDS[0],
            height=7_000,
            time_ms=self.epochs[-1].start_ms + 1,
        )
        return header, prove(maps, "rewards", account.account), entry, committee

    def _make_epoch(self, number: int) -> Epoch:
        names = [f"delegate-{(number * self.size) // 3 + index}" for index in range(self.size)]
        for name in names:
            self.keys.setdefault(key(name).validator, key(name))
        members = [key(name).validator for name in names]
        merge = Merge(
            epoch=EpochNumber(max(1, number)),
            inputs=tuple(
                MergeInput(
                    shard=shard,
                    checkpoint=blob_digest(b"checkpoint"),
                    model=blob_digest(b"model"),
                    num_examples=number,
                )
                for shard in SHARDS
            ),
            model=blob_digest(b"merged %d" % number),
        )
        return Epoch(
            epoch=EpochNumber(number),
            merge=merge if number else None,
            committee=make_committee((entry, 100) for entry in members),
            shards=tuple(
                ShardCommittee(
                    shard=shard,
                    committee=make_committee((entry, 100) for entry in members[index::3]),
                )
                for index, shard in enumerate(SHARDS)
            ),
            seed=blob_digest(b"seed %d" % number),
            start_height=Height(number * 10),
            start_ms=self.time_of(number),
        )
