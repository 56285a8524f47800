"""The gateway's log, read off the ledgers: a line a round, a checkpoint, a merge.

Lines are `name=value` pairs in a fixed order, so that people and tools read the same ones.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

from headwater_gateway.machine.metrics import Metrics
from headwater_protocol.chain.epoch import epoch_key
from headwater_protocol.chain.round import Round, RoundPhase
from headwater_protocol.identifiers import MAIN_CHAIN, ChainId, EpochNumber, RoundNumber
from headwater_protocol.messages.announcement import round_key
from headwater_protocol.reasons import ReasonCode
from headwater_shard.mainchain.records import MAIN, MAIN_KEY, MERGES, SHARDS
from headwater_shard.mainchain.staking.election import get_elected
from headwater_shard.shardchain.records import ROUNDS, SHARD, SHARD_KEY, Shard
from headwater_shard.state.state import State

DIGEST_DIGITS = 16
"""Of a digest in a line."""


def is_complete(main: State) -> bool:
    """Whether every shard has settled its last round, all is merged and the last epoch begun."""
    chain = main.get(MAIN, MAIN_KEY)
    return (
        chain is not None
        and not chain.is_merging
        and chain.epoch_started_ms == 0
        # The block that hands over to an elected epoch is also its proof.
        and get_elected(main) is None
        and all(entry.is_final for _, entry in main.items(SHARDS))
    )


class Journal:
    """Says what is new in a state, each thing once."""

    def __init__(self, states: Mapping[ChainId, State], metrics: Metrics) -> None:
        """Take what `states` hold for told.

        Args:
            states: Of the chains that are followed.
            metrics: What was refused at intake, by round.
        """
        self._metrics = metrics
        self._rounds: dict[ChainId, RoundNumber] = {}
        self._finished: set[ChainId] = set()
        self._checkpoints: dict[ChainId, int] = {}
        self._epoch = EpochNumber(0)
        self._is_complete = False
        for chain in sorted(states):
            for _ in self.note(chain, states[chain]):
                pass

    def note(self, chain: ChainId, state: State) -> Iterator[str]:
        """The lines for what `state` holds and no state before did."""
        if chain == MAIN_CHAIN:
            yield from self._note_main(state)
        else:
            yield from self._note_shard(chain, state)

    def _note_shard(self, chain: ChainId, state: State) -> Iterator[str]:
        shard = state.get(SHARD, SHARD_KEY)
        if shard is None:
            return
        for number in range(self._rounds.get(chain, 0) + 1, shard.last_round + 1):
            round_ = state.get(ROUNDS, round_key(RoundNumber(number)))
            if round_ is None and number < shard.last_round:
                # Forgotten by the ledger, and told before the last start.
                self._rounds[chain] = RoundNumber(number)
                continue
            if round_ is None or round_.phase is not RoundPhase.CLOSED:
                break
            self._rounds[chain] = round_.number
            yield self._format_round(shard, round_)
        if shard.is_finished and chain not in self._finished:
            self._finished.add(chain)
            yield f"event=finished shard={chain} rounds={shard.last_round}"

    def _format_round(self, shard: Shard, round_: Round) -> str:
        metrics = self._metrics.round(shard.shard, round_.number)
        rejected: Counter[ReasonCode] = Counter(metrics.refused)
        rejected.update(reason for reason in metrics.judged.values() if reason is not ReasonCode.OK)
        reasons = ",".join(f"{reason}:{rejected[reason]}" for reason in sorted(rejected))
        model = "none" if round_.model is None else round_.model.hex()[:DIGEST_DIGITS]
        return (
            f"event=round shard={shard.shard} round={round_.number} accepted={round_.num_accepted} "
            f"updates={round_.num_updates} received={metrics.received} "
            f"rejected={rejected.total()} reasons={reasons or 'none'} "
            f"examples={round_.num_examples} paid={round_.paid} model={model}"
        )

    def _note_main(self, state: State) -> Iterator[str]:
        for key, entry in state.sorted_items(SHARDS):
            shard = ChainId(key.decode())
            if entry.number > self._checkpoints.get(shard, 0):
                self._checkpoints[shard] = entry.number
                yield (
                    f"event=checkpoint shard={shard} number={entry.number} height={entry.height} "
                    f"epoch={entry.epoch} model={entry.model.hex()[:DIGEST_DIGITS]}"
                )
        main = state.get(MAIN, MAIN_KEY)
        if main is None:
            return
        for epoch in range(self._epoch + 1, main.epoch + 1):
            merge = state.get(MERGES, epoch_key(EpochNumber(epoch)))
            if merge is None or merge.model is None:
                break
            self._epoch = merge.epoch
            yield (
                f"event=merge epoch={epoch} shards={len(merge.inputs)} "
                f"model={merge.model.hex()[:DIGEST_DIGITS]}"
            )
        if is_complete(state) and not self._is_complete:
            self._is_complete = True
            yield f"event=complete epoch={main.epoch}"
