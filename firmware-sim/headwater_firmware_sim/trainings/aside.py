"""Trainings on a second processor, while clock, wires and ledgers stay in one process.

A helper process, forked so that it has the fleet's data, trains and compresses what virtual devices
have begun, in the order in which it is due. What it has not begun when its virtual time has come is
done here instead, so nobody waits for the slower one. Both run the same code on the same machine,
so the ledgers are the same byte for byte, whoever did what.
"""

import fcntl
import heapq
import multiprocessing
import os
import platform
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater_agent.machine.compression import (
    Compressed,
    DirectCompressor,
    compress,
    residual_values,
)
from headwater_agent.state import Residual
from headwater_firmware_sim.data.examples import Examples
from headwater_firmware_sim.trainings.slots import Numbers, Progress, Slots
from headwater_firmware_sim.trainings.work import (
    LocalTrainings,
    Outcome,
    Refused,
    Source,
    TrainerShelf,
    Work,
    train,
)
from headwater_models.trainer import TrainingResult
from headwater_protocol.chain.task import Task, Training
from headwater_protocol.errors import InvalidMessage
from headwater_protocol.identifiers import Digest

MAX_BASES: Final = 8
"""Models that the helper keeps: each shard's, of this round and of the last."""
PIPE_BYTES: Final = 1024 * 1024
"""What anybody may ask Linux for; a request takes about 120 bytes."""
JOIN_S: Final = 5.0
"""For the helper to end."""

Load = Callable[[Source], Examples]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    """A model to start from."""

    parameters: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What many trainings have in common."""

    program: bytes
    task: Task
    training: Training
    source: Source
    """With the number of any device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """A compressed delta, and what it was made of."""

    delta: NDArray[np.float32]
    residual: Residual | None
    seed: Digest
    compressed: Compressed


def why_not_aside() -> str | None:
    """Why this machine cannot train aside; None where it can."""
    if sys.platform != "linux":
        return "only Linux forks safely"
    if platform.machine() != "x86_64":
        return "only x86-64 keeps the order of writes to shared memory"
    if len(os.sched_getaffinity(0)) < 2:
        return "there is one processor"
    return None


@contextmanager
def train_aside(task: Task, *, load: Load, shelf: TrainerShelf) -> Iterator["AsideTrainings"]:
    """Trainings with a helper process, which ends with the block.

    Args:
        task: Trainings of other sizes are not given to the helper.
        load: A device's examples; called in the helper.
        shelf: For what is trained here.
    """
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    _widen(sender)
    slots, done = Slots(task), os.eventfd(0)
    helper = fork.Process(
        target=_help, args=(receiver, sender, slots, done, load), name="trainings", daemon=True
    )
    helper.start()
    receiver.close()
    try:
        yield AsideTrainings(sender, slots, helper, done, shelf)
    finally:
        sender.close()
        helper.join(JOIN_S)
        if helper.is_alive():
            helper.kill()
            helper.join()
        os.close(done)


def _widen(connection: Connection) -> None:
    """Let requests for all slots, and a few models, wait in a pipe: nobody waits to send one."""
    with suppress(OSError):  # The system's limit for this user is reached: some wait, then.
        fcntl.fcntl(connection.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)


class AsideTrainings:
    """Trains here what a helper has not trained already, and compresses deltas likewise."""

    is_early = True

    def __init__(
        self,
        connection: Connection,
        slots: Slots,
        helper: BaseProcess,
        done: int,
        shelf: TrainerShelf,
    ) -> None:
        self._connection = connection
        self._slots = slots
        self._helper = helper
        self._done = done
        self._local = LocalTrainings(shelf)
        self._compressor = DirectCompressor()
        self._free = list(range(slots.count))
        self._left: list[int] = []
        """Slots that nobody waits for, and that the helper may still write to."""
        self._planned: dict[str, Work] = {}
        """Each trainee's work that the helper has not heard of."""
        self._queue: list[tuple[int, int, Work]] = []
        """The same by when it is due, and what is not planned any more."""
        self._num_queued = 0
        self._sent: dict[str, tuple[int, Work]] = {}
        """Each trainee's slot and work that the helper has heard of."""
        self._bases: dict[tuple[int, Digest], tuple[int, NDArray[np.float32]]] = {}
        """Number and array; as long as an array is kept, no other has its identity."""
        self._num_bases = 0
        self._plans: dict[object, int] = {}
        self._prepared: _Prepared | None = None
        self._is_lost = False
        self.num_taken = 0
        """Trainings that the helper did in time."""

    @property
    def helper(self) -> int:
        """The process's number."""
        return self._helper.pid or 0

    def begin(self, work: Work) -> None:
        """Tell the helper if it has room, or remember to."""
        self.drop(work.trainee)
        if self._is_lost or work.compression is None or work.source is None:
            return
        if not isinstance(work.seed, int) or not self._slots.fits(work.compression.task):
            return
        self._planned[work.trainee] = work
        self._num_queued += 1
        heapq.heappush(self._queue, (work.due_ms, self._num_queued, work))
        self._feed()

    def drop(self, trainee: str) -> None:
        """Nobody will ask for what was begun for `trainee`."""
        self._planned.pop(trainee, None)
        sent = self._sent.pop(trainee, None)
        if sent is not None:
            self._leave(sent[0])

    def outcome(self, work: Work) -> Outcome:
        """What came of `work`, there or here."""
        sent = self._sent.get(work.trainee)
        result = None
        if sent is not None and _is_same(sent[1], work):
            result = self._take(sent[0], sent[1])
        if result is not None:
            self.num_taken += 1
            del self._sent[work.trainee]
        else:
            self.drop(work.trainee)
        self._feed()
        return result or self._local.outcome(work)

    def compress(
        self, delta: NDArray[np.float32], *, residual: Residual | None, task: Task, seed: Digest
    ) -> Compressed:
        """Compress the delta that was taken last, or another one; errors as `DirectCompressor`."""
        made, self._prepared = self._prepared, None
        is_known = made is not None and made.delta is delta and made.residual is residual
        if made is not None and is_known and made.seed == seed:
            return made.compressed
        return self._compressor.compress(delta, residual=residual, task=task, seed=seed)

    def _take(self, slot: int, work: Work) -> TrainingResult | None:
        """What the helper made of `work`; None where it is not at it, or failed."""
        slots, plan = self._slots, work.compression
        if slots.progress(slot) is Progress.WAITING:
            slots.call_off(slot)
        while slots.progress(slot) is Progress.STARTED:
            ready = wait([self._done, self._helper.sentinel])
            if self._done in ready:
                os.eventfd_read(self._done)
            elif slots.progress(slot) is Progress.STARTED:
                self._is_lost = True
                return None
        if plan is None or slots.progress(slot) is not Progress.DONE:
            return None
        numbers, payload = slots.read(slot)
        delta = slots.delta(slot).copy()
        self._prepared = _Prepared(
            delta=delta,
            residual=plan.residual,
            seed=plan.seed,
            compressed=Compressed(
                payload=payload,
                residual=slots.left(slot).tobytes(),
                delta_norm_units=numbers.delta_norm_units,
            ),
        )
        self._free.append(slot)
        return TrainingResult(
            delta=delta,
            num_examples=numbers.num_examples,
            num_steps=numbers.num_steps,
            planned_steps=numbers.planned_steps,
            mean_loss=numbers.mean_loss,
        )

    def _leave(self, slot: int) -> None:
        self._slots.call_off(slot)
        self._left.append(slot)

    def _feed(self) -> None:
        """Give the helper what is due first, as long as there are slots."""
        if not self._free and self._left:
            over = {slot for slot in self._left if self._slots.progress(slot) >= Progress.DONE}
            self._left = [slot for slot in self._left if slot not in over]
            self._free.extend(sorted(over))
        while self._free and self._queue and not self._is_lost:
            _, _, work = heapq.heappop(self._queue)
            if self._planned.get(work.trainee) is work:
                del self._planned[work.trainee]
                self._send(work)

    def _send(self, work: Work) -> None:
        plan, source = work.compression, work.source
        if plan is None or source is None or not isinstance(work.seed, int):
            return
        slot = self._free.pop()
        if plan.residual is not None:
            self._slots.residual(slot)[:] = residual_values(plan.residual, plan.task)
        self._slots.call_off(slot, is_off=False)
        self._slots.set_progress(slot, Progress.WAITING)
        try:
            base = self._send_base(work)
            number = self._send_plan(work, plan.task, source)
            adds = plan.residual is not None
            self._connection.send(
                (slot, source.device, base, number, work.seed, bytes(plan.seed), adds)
            )
        except OSError:
            self._is_lost = True
            return
        self._sent[work.trainee] = (slot, work)

    def _send_base(self, work: Work) -> int:
        """The number of the model to start from, which the helper is sent once."""
        name = id(work.parameters), work.program_digest
        if name not in self._bases:
            while len(self._bases) >= MAX_BASES:
                del self._bases[next(iter(self._bases))]
            self._bases[name] = (self._num_bases, work.parameters)
            self._num_bases += 1
            self._connection.send(_Base(parameters=work.parameters.tobytes()))
        return self._bases[name][0]

    def _send_plan(self, work: Work, task: Task, source: Source) -> int:
        name = task.task, work.program_digest, work.training, source.attack
        if name not in self._plans:
            self._plans[name] = len(self._plans)
            self._connection.send(
                _Plan(program=work.program, task=task, training=work.training, source=source)
            )
        return self._plans[name]


def _is_same(begun: Work, work: Work) -> bool:
    return (
        begun.round == work.round
        and begun.seed == work.seed
        and begun.program_digest == work.program_digest
        and begun.parameters is work.parameters
        and begun.training == work.training
        and begun.source == work.source
    )


def _help(receiver: Connection, sender: Connection, slots: Slots, done: int, load: Load) -> None:
    """The helper: answers requests until the pipe is closed at the other end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The run is told, and closes the pipe.
    sender.close()
    helper = _Helper(slots, load)
    while True:
        try:
            message = receiver.recv()
        except EOFError:
            return
        if isinstance(message, _Base):
            helper.learn_base(message)
        elif isinstance(message, _Plan):
            helper.learn_plan(message)
        else:
            helper.answer(*message)
            os.eventfd_write(done, 1)


class _Helper:
    """Trains and compresses, one request after the other."""

    def __init__(self, slots: Slots, load: Load) -> None:
        self._slots = slots
        self._load = load
        self._shelf = TrainerShelf()
        self._bases: dict[int, NDArray[np.float32]] = {}
        self._num_bases = 0
        self._plans: list[_Plan] = []

    def learn_base(self, base: _Base) -> None:
        """Keep a model; its number is how many came before."""
        while len(self._bases) >= MAX_BASES:
            del self._bases[next(iter(self._bases))]
        self._bases[self._num_bases] = np.frombuffer(base.parameters, np.float32)
        self._num_bases += 1

    def learn_plan(self, plan: _Plan) -> None:
        """Keep a plan; its number is how many came before."""
        self._plans.append(plan)

    def answer(
        self, slot: int, device: int, base: int, plan: int, seed: int, rounding: Digest, adds: bool
    ) -> None:
        """Fill a slot, unless its training was called off."""
        slots = self._slots
        slots.set_progress(slot, Progress.STARTED)
        is_done = not slots.is_called_off(slot) and self._fill(
            slot, self._plans[plan], device, self._bases[base], seed, rounding, adds=adds
        )
        slots.set_progress(slot, Progress.DONE if is_done else Progress.FAILED)

    def _fill(
        self,
        slot: int,
        plan: _Plan,
        device: int,
        parameters: NDArray[np.float32],
        seed: int,
        rounding: Digest,
        *,
        adds: bool,
    ) -> bool:
        slots, task = self._slots, plan.task
        source = replace(plan.source, device=device)
        work = Work(
            trainee=str(device),
            round=0,
            program=plan.program,
            program_digest=plan.source.program,
            parameters=parameters,
            training=plan.training,
            seed=seed,
            load=partial(self._load, source),
        )
        outcome = train(self._shelf, work, work.load())
        if isinstance(outcome, Refused):
            return False  # Refused there once more, with its reason.
        values = slots.residual(slot) if adds else residual_values(None, task)
        try:
            made = compress(outcome.delta, residual=values, task=task, seed=rounding)
        except InvalidMessage:
            return False
        slots.delta(slot)[:] = outcome.delta
        slots.left(slot)[:] = np.frombuffer(made.residual, "<f4")
        numbers = Numbers(
            num_examples=outcome.num_examples,
            num_steps=outcome.num_steps,
            planned_steps=outcome.planned_steps,
            mean_loss=outcome.mean_loss,
            payload_bytes=len(made.payload),
            delta_norm_units=made.delta_norm_units,
        )
        slots.write(slot, numbers, made.payload)
        return True
