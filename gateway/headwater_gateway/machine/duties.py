"""What a delegate owes its chain, read off the ledger after every block.

Nothing is remembered that the ledger does not hold, apart from what is under way, so a restarted
delegate goes on where it was, and a transaction that was lost is made again.
"""

from collections.abc import Iterator
from typing import Final

from headwater_gateway.machine.effects import ComputeMerge, ComputeRoundModel, ScoreBatch
from headwater_protocol.chain.checkpoint import (
    CheckpointSignature,
    checkpoint_digest,
    checkpoint_message,
)
from headwater_protocol.chain.epoch import epoch_key
from headwater_protocol.chain.round import Round, RoundPhase
from headwater_protocol.chain.task import Task
from headwater_protocol.chain.transaction import SignCheckpoint
from headwater_protocol.crypto.signing import SecretKey
from headwater_protocol.identifiers import ChainId, EpochNumber, Network
from headwater_protocol.messages.announcement import round_key, task_key
from headwater_protocol.reasons import ReasonCode
from headwater_shard.mainchain.market.tasks import get_last_task
from headwater_shard.mainchain.records import ATTESTATIONS as MERGE_ATTESTATIONS
from headwater_shard.mainchain.records import (
    MAIN,
    MAIN_KEY,
    MERGES,
    merge_attestation_key,
)
from headwater_shard.shardchain.adoption import get_committee
from headwater_shard.shardchain.records import (
    ATTESTATIONS,
    BATCHES,
    CHECKPOINTS,
    ROUNDS,
    SCORES,
    SHARD,
    SHARD_KEY,
    TASKS,
    UPDATES,
    Shard,
    attestation_key,
    batch_key,
    checkpoint_key,
    score_key,
    update_key,
)
from headwater_shard.state.state import State

MAX_OPEN_CHECKPOINTS: Final = 16
"""How far back a delegate looks for checkpoints that it has not signed."""


class ShardDuties:
    """One delegate of one shard."""

    def __init__(self, *, network: Network, shard: ChainId, key: SecretKey) -> None:
        self._network = network
        self._shard = shard
        self._key = key

    @property
    def key(self) -> SecretKey:
        """The delegate's key."""
        return self._key

    def due(
        self, state: State
    ) -> Iterator[tuple[str, ScoreBatch | ComputeRoundModel | SignCheckpoint]]:
        """What is owed in `state`, each under a ticket that names it."""
        shard = state.get(SHARD, SHARD_KEY)
        if shard is None:
            return
        # A delegate that left still owes its signature for what its committee ended with.
        yield from self._checkpoint(state, shard)
        if shard.committee.power_of(self._key.validator) == 0:
            return
        round_ = state.get(ROUNDS, round_key(shard.last_round))
        task = state.get(TASKS, task_key(shard.task))
        if round_ is None or task is None:
            return
        if round_.phase in {RoundPhase.COLLECT, RoundPhase.SCORE}:
            yield from self._scores(state, round_, task)
        elif round_.phase is RoundPhase.ATTEST:
            yield from self._attestation(state, round_, task)

    def _scores(self, state: State, round_: Round, task: Task) -> Iterator[tuple[str, ScoreBatch]]:
        for index in range(round_.num_batches):
            if state.get(SCORES, score_key(round_.number, index, self._key.validator)):
                continue
            batch = state.get(BATCHES, batch_key(round_.number, index))
            if batch is not None:
                ticket = f"{self._shard}/score/{round_.number}/{index}/{self._key.validator.hex()}"
                yield (
                    ticket,
                    ScoreBatch(
                        ticket=ticket,
                        shard=self._shard,
                        round=round_.number,
                        batch=index,
                        validator=self._key.validator,
                        task=task,
                        base=round_.base,
                        commits=batch.commits,
                    ),
                )

    def _attestation(
        self, state: State, round_: Round, task: Task
    ) -> Iterator[tuple[str, ComputeRoundModel]]:
        if state.get(ATTESTATIONS, attestation_key(round_.number, self._key.validator)):
            return
        accepted = []
        if round_.num_accepted >= task.min_updates:
            for index in range(round_.num_batches):
                batch = state.get(BATCHES, batch_key(round_.number, index))
                for commit in () if batch is None else batch.commits:
                    entry = state.get(UPDATES, update_key(round_.number, commit.device))
                    if entry is not None and entry.reason is ReasonCode.OK:
                        accepted.append(commit)
        ticket = f"{self._shard}/attest/{round_.number}/{self._key.validator.hex()}"
        yield (
            ticket,
            ComputeRoundModel(
                ticket=ticket,
                shard=self._shard,
                round=round_.number,
                validator=self._key.validator,
                task=task,
                base=round_.base,
                accepted=tuple(accepted),
                correction=round_.correction,
            ),
        )

    def _checkpoint(self, state: State, shard: Shard) -> Iterator[tuple[str, SignCheckpoint]]:
        oldest = max(1, shard.checkpoints - MAX_OPEN_CHECKPOINTS + 1)
        for number in range(oldest, shard.checkpoints + 1):
            signed = state.get(CHECKPOINTS, checkpoint_key(number))
            if signed is None or any(
                entry.validator == self._key.validator for entry in signed.signatures
            ):
                continue
            committee = get_committee(state, self._shard, signed.checkpoint.epoch)
            if committee.power_of(self._key.validator) == 0:
                continue
            message = checkpoint_message(self._network, signed.checkpoint)
            yield (
                f"{self._shard}/checkpoint/{number}/{self._key.validator.hex()}",
                SignCheckpoint(
                    number=number,
                    checkpoint=checkpoint_digest(signed.checkpoint),
                    signature=CheckpointSignature(
                        validator=self._key.validator, signature=self._key.sign(message)
                    ),
                ),
            )


class MainDuties:
    """One delegate of the main chain."""

    def __init__(self, *, key: SecretKey) -> None:
        self._key = key

    @property
    def key(self) -> SecretKey:
        """The delegate's key."""
        return self._key

    def due(self, state: State) -> Iterator[tuple[str, ComputeMerge]]:
        """The merge that waits for this delegate, if there is one."""
        main = state.get(MAIN, MAIN_KEY)
        if main is None or not main.is_merging:
            return
        epoch = EpochNumber(main.epoch + 1)
        validator = self._key.validator
        merge = state.get(MERGES, epoch_key(epoch))
        if (
            merge is None
            or main.committee.power_of(validator) == 0
            or state.get(MERGE_ATTESTATIONS, merge_attestation_key(epoch, validator)) is not None
        ):
            return
        ticket = f"main/merge/{epoch}/{main.merge_attempt}/{validator.hex()}"
        yield (
            ticket,
            ComputeMerge(
                ticket=ticket,
                epoch=epoch,
                validator=validator,
                task=get_last_task(state).task,
                inputs=merge.inputs,
                attempt=main.merge_attempt,
            ),
        )
