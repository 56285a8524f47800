"""Which blobs a gateway has to have, whom it asks for one, and what it may drop.

A delegate keeps the blobs for which `placement` ranks it among the first. Who that is changes with
the committee, so at the start and after every election a gateway fetches what it is to keep now.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from headwater_gateway.machine.effects import (
    CheckScores,
    ComputeMerge,
    FetchBlob,
    ScoreBatch,
    TidyBlobs,
    Waiting,
)
from headwater_gateway.machine.fetches import Fetches
from headwater_protocol.chain.committee import Committee
from headwater_protocol.chain.round import RoundPhase
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId, Digest, ValidatorId
from headwater_protocol.messages.announcement import round_key, task_key
from headwater_shard.mainchain.records import MAIN, MAIN_KEY
from headwater_shard.mainchain.staking.election import get_shard_committee
from headwater_shard.needed import needed_of_main, needed_of_shard, settled_round
from headwater_shard.placement import list_holders, rank_holders
from headwater_shard.shardchain.records import ROUNDS, SHARD, SHARD_KEY, TASKS
from headwater_shard.state.state import State

CHECK_PATIENCE_MS: Final = 60_000
"""How long a check of another delegate's scores waits for blobs."""


class Keeping:
    """The blobs of one gateway, as its ledgers have them."""

    def __init__(self, *, own: frozenset[ValidatorId], keeps: bool) -> None:
        """Start with nothing fetched.

        Args:
            own: The delegates hosted here; nobody asks itself.
            keeps: Whether to fetch what is to be kept here, and to say what may go.
        """
        self._own = own
        self._keeps = keeps
        self._fetches = Fetches()
        self._committees: dict[ChainId, Committee] = {}
        """For which everything that is to be kept here was asked for."""
        self._settled: dict[ChainId, int] = {}

    @property
    def fetches(self) -> Fetches:
        """What is being fetched, and what waits for it."""
        return self._fetches

    def on_missing(
        self,
        work: Waiting,
        missing: tuple[Digest, ...],
        states: Mapping[ChainId, State],
        now_ms: int,
    ) -> Iterator[FetchBlob] | None:
        """Let `work` wait for blobs that the store lacks; None where it cannot wait any more."""
        until_ms = self._deadline(work, states, now_ms)
        if until_ms is not None and until_ms <= now_ms:
            return None
        holders = {blob: self._ask(work, blob, states) for blob in missing}
        return self._fetches.wait(work, holders, until_ms=until_ms)

    def want(
        self, shard: ChainId, blobs: tuple[Digest, ...], states: Mapping[ChainId, State]
    ) -> Iterator[FetchBlob]:
        """Fetch blobs of a shard for which no work waits."""
        record = states[shard].get(SHARD, SHARD_KEY)
        committee = None if record is None else record.committee
        main = states[MAIN_CHAIN]
        return self._fetches.want({blob: self._rank(blob, committee, main) for blob in blobs})

    def on_finalized(
        self, chain: ChainId, states: Mapping[ChainId, State]
    ) -> Iterator[FetchBlob | TidyBlobs]:
        """Follow a chain's new state: deadlines, what is to be kept here now, what may go."""
        main = states[MAIN_CHAIN]
        if chain == MAIN_CHAIN:
            if self._keeps:
                yield from self._tidy(states)
            return
        shard = states[chain].get(SHARD, SHARD_KEY)
        if shard is None:
            return
        round_ = states[chain].get(ROUNDS, round_key(shard.last_round))
        if round_ is not None and round_.phase is RoundPhase.SCORE:
            until_ms = _scores_until(states[chain], shard.task, round_.score_until_ms)
            self._fetches.set_deadline(chain, round_.number, until_ms)
        if self._keeps and shard.committee != self._committees.get(chain):
            self._committees[chain] = shard.committee
            needed = (*needed_of_main(main), *needed_of_shard(states[chain], main))
            mine = {
                blob: self._rank(blob, shard.committee, main)
                for blob in dict.fromkeys(needed)
                if not self._own.isdisjoint(list_holders(blob, shard.committee))
            }
            yield from self._fetches.want(mine)

    def _tidy(self, states: Mapping[ChainId, State]) -> Iterator[TidyBlobs]:
        main = states[MAIN_CHAIN]
        shards = [chain for chain in sorted(states) if chain != MAIN_CHAIN]
        settled = {chain: int(settled_round(chain, main)) for chain in shards}
        if settled == self._settled:
            return
        self._settled = settled
        needed = set(needed_of_main(main))
        for chain in shards:
            needed.update(needed_of_shard(states[chain], main))
        yield TidyBlobs(needed=frozenset(needed))

    def _deadline(self, work: Waiting, states: Mapping[ChainId, State], now_ms: int) -> int | None:
        if isinstance(work, CheckScores):
            return None if work.given_up else now_ms + CHECK_PATIENCE_MS
        if not isinstance(work, ScoreBatch):
            return None
        state = states[work.shard]
        round_ = state.get(ROUNDS, round_key(work.round))
        if round_ is None or round_.phase is not RoundPhase.SCORE:
            return None
        return _scores_until(state, work.task.task, round_.score_until_ms)

    def _ask(
        self, work: Waiting, blob: Digest, states: Mapping[ChainId, State]
    ) -> tuple[ValidatorId, ...]:
        main = states[MAIN_CHAIN]
        if isinstance(work, ComputeMerge):
            shard = next((entry.shard for entry in work.inputs if entry.model == blob), None)
            chain = main.get(MAIN, MAIN_KEY)
            committee = None
            if shard is not None and chain is not None:
                committee = get_shard_committee(main, chain.epoch, shard)
            return self._rank(blob, committee, main)
        record = states[work.shard].get(SHARD, SHARD_KEY)
        ranked = self._rank(blob, None if record is None else record.committee, main)
        if isinstance(work, CheckScores) and blob == work.reference and work.validator in ranked:
            # A reference is nobody's to keep but its author's.
            return tuple(dict.fromkeys((work.validator, *ranked)))
        return ranked

    def _rank(
        self, blob: Digest, committee: Committee | None, main: State
    ) -> tuple[ValidatorId, ...]:
        """Whom to ask: the shard's delegates, then the others, who may have been that once."""
        chain = main.get(MAIN, MAIN_KEY)
        ranked: list[ValidatorId] = []
        for asked in (committee, None if chain is None else chain.committee):
            if asked is not None:
                ranked += rank_holders(blob, asked)
        return tuple(entry for entry in dict.fromkeys(ranked) if entry not in self._own)


def _scores_until(state: State, task_id: str, score_until_ms: int) -> int:
    """When a delegate scores what it has: half of the time is left for the scores to be posted."""
    task = state.get(TASKS, task_key(task_id))
    return score_until_ms - (0 if task is None else task.score_ms // 2)
