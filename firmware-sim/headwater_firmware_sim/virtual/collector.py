"""Reads a run's rows off the ledgers as they grow; nothing of it flows back into the run."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from headwater_firmware_sim.economy.account import read_economy
from headwater_firmware_sim.economy.evidence import list_evidence
from headwater_firmware_sim.economy.rows import (
    make_election_row,
    make_penalty_row,
    make_seat_rows,
)
from headwater_firmware_sim.results import (
    CheckpointRow,
    DeviceRoundRow,
    EconomyRow,
    ElectionRow,
    GlobalRow,
    PenaltyRow,
    RoundRow,
    SeatRow,
)
from headwater_firmware_sim.scenario.kinds import AttackKind
from headwater_firmware_sim.stage import Stage
from headwater_firmware_sim.training import FleetTrainer
from headwater_gateway.machine.metrics import Metrics
from headwater_protocol.chain.epoch import epoch_key
from headwater_protocol.chain.round import TOP_RANK, Round, RoundPhase
from headwater_protocol.chain.task import Task
from headwater_protocol.errors import InvalidMessage
from headwater_protocol.identifiers import (
    ChainId,
    DeviceId,
    Digest,
    EpochNumber,
    RoundNumber,
    ValidatorId,
)
from headwater_protocol.messages.announcement import round_key, task_key
from headwater_protocol.model.fixed_point import to_float32
from headwater_protocol.reasons import ReasonCode
from headwater_shard.blobs import Blobs
from headwater_shard.mainchain.justice.records import EVIDENCE
from headwater_shard.mainchain.market.tasks import get_last_task
from headwater_shard.mainchain.records import EPOCHS, MAIN, MAIN_KEY, MERGES, SHARDS
from headwater_shard.round_model import decode_task_model
from headwater_shard.shardchain.cohort import is_drawn
from headwater_shard.shardchain.records import (
    DEVICES,
    ROUNDS,
    SHARD,
    SHARD_KEY,
    TASKS,
    UPDATES,
    UpdateEntry,
    update_key,
)
from headwater_shard.state.state import State

ABSENT = "absent"


class Collector:
    """Grows with every block."""

    def __init__(
        self,
        stage: Stage,
        *,
        trainer: FleetTrainer,
        blobs: Blobs,
        metrics: Callable[[], Sequence[Metrics]],
        behaviours: Mapping[ValidatorId, str] | None = None,
    ) -> None:
        """Start with nothing.

        Args:
            stage: What runs.
            trainer: Evaluates models.
            blobs: Where they are.
            metrics: Of all gateways.
            behaviours: Of the delegates that are not as they should be, in the scenario's words.
        """
        self._stage = stage
        self._trainer = trainer
        self._blobs = blobs
        self._metrics = metrics
        self._seen: dict[ChainId, int] = dict.fromkeys(stage.plan.genesis.shards, 0)
        self._settled: dict[ChainId, int] = dict.fromkeys(stage.plan.genesis.shards, 0)
        self._has_backdoor = any(
            entry.kind is AttackKind.BACKDOOR for entry in stage.scenario.attackers
        )
        self._index_of = {key.device: index for index, key in enumerate(stage.plan.devices)}
        self._drawn: dict[tuple[ChainId, RoundNumber], set[int]] = {}
        self.rounds: list[RoundRow] = []
        self.globals: list[GlobalRow] = []
        self.checkpoints: list[CheckpointRow] = []
        self.device_rounds: list[DeviceRoundRow] = []
        self._behaviours = dict(behaviours or {})
        self.elections: list[ElectionRow] = []
        self.seats: list[SeatRow] = []
        self.penalties: list[PenaltyRow] = []

    def on_shard(self, shard: ChainId, state: State, start_ms: int) -> tuple[RoundNumber, ...]:
        """Take in a shard's new state; the rounds that closed since the last one."""
        record = state.get(SHARD, SHARD_KEY)
        closed: list[RoundNumber] = []
        if record is None:
            return ()
        self._note_drawn(shard, state, record.last_round)
        for number in range(self._seen[shard] + 1, record.last_round + 1):
            round_ = state.get(ROUNDS, round_key(RoundNumber(number)))
            if round_ is None or round_.phase is not RoundPhase.CLOSED:
                break
            self._seen[shard] = number
            closed.append(round_.number)
            closed_ms = record.last_closed_ms - start_ms
            self._describe(shard, state, round_, start_ms=start_ms, closed_ms=closed_ms)
        return tuple(closed)

    def _note_drawn(self, shard: ChainId, state: State, number: RoundNumber) -> None:
        """Remember who is in the cohort: the ledger forgets it when the next one is drawn."""
        round_ = state.get(ROUNDS, round_key(number))
        if round_ is None or round_.rank_threshold == TOP_RANK or (shard, number) in self._drawn:
            return
        self._drawn.pop((shard, RoundNumber(number - 2)), None)
        self._drawn[(shard, number)] = {
            index for index in self._stage.devices_of(shard) if self._is_drawn(state, round_, index)
        }

    def _is_drawn(self, state: State, round_: Round, index: int) -> bool:
        device = state.get(DEVICES, self._stage.plan.devices[index].device)
        return device is not None and is_drawn(device, round_)

    def _was_drawn(self, shard: ChainId, state: State, round_: Round, index: int) -> bool:
        if round_.rank_threshold == TOP_RANK:
            return self._is_drawn(state, round_, index)
        return index in self._drawn.get((shard, round_.number), ())

    def on_main(self, state: State, elapsed_ms: int) -> None:
        """Take in the main chain's new state."""
        for key, entry in state.sorted_items(SHARDS):
            shard = ChainId(key.decode())
            for number in range(self._settled[shard] + 1, entry.number + 1):
                self.checkpoints.append(CheckpointRow(shard=shard, number=number, at_ms=elapsed_ms))
            self._settled[shard] = entry.number
        self._follow_delegates(state, elapsed_ms)
        main = state.get(MAIN, MAIN_KEY)
        last = self.globals[-1].epoch if self.globals else 0
        if main is None or main.epoch == last:
            return
        merge = state.get(MERGES, epoch_key(main.epoch))
        if merge is not None and merge.model is not None:
            # No task is opened while a merge is under way, so it is the last one's.
            task = get_last_task(state).task
            accuracy, loss, backdoor = self.evaluate(merge.model, task)
            self.globals.append(
                GlobalRow(
                    epoch=main.epoch,
                    at_ms=elapsed_ms,
                    accuracy=accuracy,
                    loss=loss,
                    backdoor=backdoor,
                    model=merge.model.hex(),
                )
            )

    def economy(self, state: State) -> EconomyRow:
        """Where the units are, by the main chain's state."""
        plan = self._stage.plan
        return read_economy(
            plan.genesis,
            state,
            tuple(key.device for key in plan.devices),
            earned=sum(row.paid for row in self.rounds),
        ).summarize(
            frozenset(
                key.device
                for key, casting in zip(plan.devices, self._stage.fleet, strict=True)
                if casting.attack is not None
            )
        )

    def _follow_delegates(self, state: State, elapsed_ms: int) -> None:
        """Take in epochs that began and offences that were punished."""
        before = None
        number = len(self.elections)
        if number:
            before = state.get(EPOCHS, epoch_key(EpochNumber(number - 1)))
        while (epoch := state.get(EPOCHS, epoch_key(EpochNumber(number)))) is not None:
            self.elections.append(make_election_row(epoch, before, at_ms=elapsed_ms))
            self.seats.extend(make_seat_rows(epoch, self._behaviours))
            before, number = epoch, number + 1
        if state.count(EVIDENCE) > len(self.penalties):
            for entry in list_evidence(state)[len(self.penalties) :]:
                self.penalties.append(make_penalty_row(entry, self._behaviours, at_ms=elapsed_ms))

    def evaluate(
        self, model: Digest, task: Task | None = None
    ) -> tuple[float | None, float | None, float | None]:
        """Accuracy, loss and success of a backdoor; None where the scenario wants none.

        Args:
            model: A blob.
            task: Whose model it is; the first one's if left out.
        """
        if not self._stage.scenario.output.evaluate:
            return None, None, None
        task = task or self._stage.plan.genesis.task
        program = self._stage.program_of(task.program)
        try:
            parameters = to_float32(decode_task_model(task, self._blobs.get(model)))
        except InvalidMessage:
            return None, None, None
        result = self._trainer.evaluate(program, parameters)
        backdoor = None
        if self._has_backdoor:
            backdoor = round(self._trainer.evaluate_backdoor(program, parameters), 6)
        return round(result.accuracy, 6), round(result.mean_loss, 6), backdoor

    def _describe(
        self, shard: ChainId, state: State, round_: Round, *, start_ms: int, closed_ms: int
    ) -> None:
        number = round_.number
        received = bytes_up = taken_bytes = 0
        rejected: Counter[str] = Counter()
        for metrics in self._metrics():
            row = metrics.round(shard, number)
            received += row.received
            bytes_up += row.bytes_up
            taken_bytes += row.taken_bytes
            rejected.update({reason.value: count for reason, count in row.refused.items()})
        judged: Counter[tuple[bool, bool]] = Counter()
        for index in self._stage.devices_of(shard):
            self._describe_device(shard, state, round_, index, judged, rejected)
        model = round_.model or round_.base
        record = state.get(SHARD, SHARD_KEY)
        task = None if record is None else state.get(TASKS, task_key(record.task))
        accuracy, loss, backdoor = self.evaluate(model, task)
        self.rounds.append(
            RoundRow(
                shard=shard,
                round=number,
                task="" if record is None else record.task,
                epoch=round_.epoch,
                opened_ms=round_.opened_ms - start_ms,
                closed_ms=closed_ms,
                cohort=round_.cohort_size,
                updates=round_.num_updates,
                accepted=round_.num_accepted,
                examples=round_.num_examples,
                received=received,
                bytes_up=bytes_up,
                bytes_per_update=taken_bytes // max(1, round_.num_updates),
                rejected=dict(sorted(rejected.items())),
                attackers_judged=judged[(True, True)] + judged[(True, False)],
                attackers_refused=judged[(True, False)],
                honest_judged=judged[(False, True)] + judged[(False, False)],
                honest_refused=judged[(False, False)],
                paid=round_.paid,
                accuracy=accuracy,
                loss=loss,
                backdoor=backdoor,
                model=model.hex(),
            )
        )

    def _describe_device(
        self,
        shard: ChainId,
        state: State,
        round_: Round,
        index: int,
        judged: Counter[tuple[bool, bool]],
        rejected: Counter[str],
    ) -> None:
        device_id: DeviceId = self._stage.plan.devices[index].device
        casting = self._stage.fleet[index]
        entry: UpdateEntry | None = state.get(UPDATES, update_key(round_.number, device_id))
        if entry is None:
            if not self._was_drawn(shard, state, round_, index):
                return
            outcome = ABSENT
        else:
            outcome = entry.reason.value if entry.is_judged else ABSENT
            if entry.is_judged:
                is_accepted = entry.reason is ReasonCode.OK
                judged[(casting.attack is not None, is_accepted)] += 1
                if not is_accepted:
                    rejected[entry.reason.value] += 1
        if self._stage.scenario.output.device_rounds:
            self.device_rounds.append(
                DeviceRoundRow(
                    shard=shard,
                    round=round_.number,
                    device=index,
                    device_class=casting.device_class.name,
                    attack=casting.attack_name,
                    outcome=outcome,
                    score=0 if entry is None else entry.score,
                    reward=0 if entry is None else entry.reward,
                    examples=0 if entry is None else entry.num_examples,
                )
            )
