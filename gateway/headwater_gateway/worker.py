"""What takes a processor's time: checking updates, scoring them, computing models.

Everything here may run on a thread of its own; it takes an effect and gives its result.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headwater_gateway.machine.effects import (
    CheckScores,
    ComputeMerge,
    ComputeRoundModel,
    Refutation,
    ScoreBatch,
    Scored,
    TakeIn,
)
from headwater_models.errors import InvalidExamples, InvalidProgram, TrainingDiverged
from headwater_models.normalisation import normalise
from headwater_models.plan import training_plan
from headwater_models.program import Program
from headwater_models.trainer import Trainer
from headwater_protocol.chain.task import Task
from headwater_protocol.chain.transaction import UNAVAILABLE, PostScores, decode_transaction
from headwater_protocol.crypto.signing import Verifier
from headwater_protocol.errors import InvalidMessage, StorageError
from headwater_protocol.identifiers import Digest, RoundNumber, ValidatorId
from headwater_protocol.model.fixed_point import (
    encode_model,
    from_float32,
    to_float32,
)
from headwater_protocol.model.norms import MeasuredVector, compute_measured_cosine, measure
from headwater_protocol.model.quantized_delta import QuantizedDelta, int32_delta
from headwater_protocol.reasons import ReasonCode
from headwater_shard.blobs import Blobs
from headwater_shard.mainchain.justice.conviction import compute_score
from headwater_shard.round_model import (
    compute_merged_model,
    compute_round_model,
    decode_task_model,
    decode_update_payload,
)

DecodeUpdate = Callable[[Task, bytes], QuantizedDelta]
"""`decode_update_payload`, or one that remembers what it has decoded."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ValidationData:
    """What a delegate trains its reference on; its own, never the devices'."""

    features: NDArray[np.float32]
    """Shape (n, *input_shape)."""
    labels: NDArray[np.int32]
    """Shape (n,)."""


class Unscorable(InvalidMessage):
    """A delegate cannot make a reference: no data, no program or no base."""

    reason = ReasonCode.UNAVAILABLE


def check_updates(
    work: TakeIn,
    *,
    verifier: Verifier,
    blobs: Blobs,
    decode: DecodeUpdate = decode_update_payload,
) -> tuple[ReasonCode, ...]:
    """Verify signatures and payloads, and store the good payloads with one sync.

    Raises:
        StorageError: If the disk refuses; no update was promised anything then.
    """
    reasons: list[ReasonCode] = []
    payloads: list[bytes] = []
    for check in work.updates:
        update = check.update
        if not verifier.verify(update.device, check.message, update.signature):
            reasons.append(ReasonCode.BAD_SIGNATURE)
            continue
        try:
            decode(work.task, update.payload)
        except InvalidMessage as error:
            reasons.append(error.reason)
            continue
        reasons.append(ReasonCode.OK)
        payloads.append(update.payload)
    if payloads:
        blobs.put_all(payloads)
    return tuple(reasons)


def compute_model(
    work: ComputeRoundModel, *, blobs: Blobs, decode: DecodeUpdate = decode_update_payload
) -> Digest:
    """Compute a round's model and store it.

    Raises:
        InvalidMessage: If a blob cannot be had or does not fit the task.
        StorageError: If the disk refuses.
    """
    return blobs.put(
        compute_round_model(
            work.task,
            base=work.base,
            accepted=work.accepted,
            correction=work.correction,
            fetch=blobs.get,
            decode=decode,
        )
    )


def compute_merge(work: ComputeMerge, *, blobs: Blobs) -> Digest:
    """Compute an epoch's merged model and store it; errors as `compute_model`."""
    return blobs.put(compute_merged_model(work.task, work.inputs, fetch=blobs.get))


def check_scores(work: CheckScores, *, blobs: Blobs) -> Refutation | None:
    """The first score that is not the cosine of the two blobs that it compares, if one is not.

    What cannot be had here is not refuted: the payloads of a batch lie on several gateways.
    """
    body = decode_transaction(work.scores).transaction.body
    if not isinstance(body, PostScores):
        return None
    try:
        reference = blobs.get(body.reference)
    except (InvalidMessage, StorageError):
        return None
    for position, (commit, score) in enumerate(zip(work.commits, body.scores, strict=False)):
        try:
            payload = blobs.get(commit.payload)
        except (InvalidMessage, StorageError):
            continue
        computed = compute_score(work.task, reference=reference, payload=payload)
        if score not in {UNAVAILABLE, computed}:
            return Refutation(position=position, reference=reference, payload=payload)
    return None


@dataclass(frozen=True, slots=True, eq=False)
class _Reference:
    """What a delegate compares the updates of a round with, and the blob that proves its scores."""

    vector: MeasuredVector
    blob: bytes


def reference_seed(work: ScoreBatch) -> tuple[int, ...]:
    """Of the generator that orders a delegate's examples in a round."""
    return (work.round, *work.validator[:8])


class Scorer:
    """Scores updates by their cosine with a reference that each delegate trains itself.

    Cao et al., "FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping", NDSS 2021.
    """

    MAX_REFERENCES: int = 256
    """Kept at a time: a few rounds of every delegate in this process."""

    MAX_DELTA_BYTES: int = 32 * 1024 * 1024
    """Of decoded updates kept for the other delegates of this process, which score them next."""

    def __init__(
        self,
        *,
        blobs: Blobs,
        data: Mapping[ValidatorId, ValidationData],
        decode: DecodeUpdate = decode_update_payload,
    ) -> None:
        self._blobs = blobs
        self._data = dict(data)
        self._decode = decode
        self._trainers: dict[Digest, Trainer] = {}
        self._references: dict[tuple[ValidatorId, RoundNumber, Digest], _Reference] = {}
        self._deltas: dict[Digest, MeasuredVector] = {}

    def score(self, work: ScoreBatch) -> Scored:
        """The cosines of a batch's updates with the reference, which is stored.

        Raises:
            Unscorable: If there is no reference to compare with.
            StorageError: If the disk refuses.
        """
        reference = self._reference(work)
        scores: list[int] = []
        for commit in work.commits:
            try:
                delta = self._delta(work.task, commit.payload)
            except (InvalidMessage, StorageError):
                scores.append(UNAVAILABLE)
            else:
                scores.append(compute_measured_cosine(delta, reference.vector))
        return Scored(scores=tuple(scores), reference=self._blobs.put(reference.blob))

    def _delta(self, task: Task, payload: Digest) -> MeasuredVector:
        known = self._deltas.get(payload)
        if known is not None and len(known.values) == task.num_parameters:
            return known
        delta = measure(int32_delta(self._decode(task, self._blobs.get(payload))))
        while self._deltas and len(self._deltas) * delta.values.nbytes >= self.MAX_DELTA_BYTES:
            del self._deltas[next(iter(self._deltas))]
        self._deltas[payload] = delta
        return delta

    def trainer(self, task: Task) -> Trainer:
        """The trainer of a task's program.

        Raises:
            InvalidMessage: If the program cannot be had or is none.
        """
        if task.program not in self._trainers:
            self._trainers[task.program] = Trainer(Program(self._blobs.get(task.program)))
        return self._trainers[task.program]

    def train_reference(
        self, work: ScoreBatch, base: NDArray[np.float32], data: ValidationData
    ) -> NDArray[np.float32]:
        """A delegate's own delta from a round's base, shape (num_parameters,).

        A simulation that takes training results as inputs puts its own in this place.

        Raises:
            InvalidMessage: If the program or the data cannot be used.
            TrainingDiverged: If training ends in NaN or infinity.
        """
        # The seed only orders the batches; it is the delegate's own, so it need not be shared.
        rng = np.random.default_rng(reference_seed(work))
        plan = training_plan(work.task.training)
        # What devices do with theirs, or the two would learn different things.
        features = normalise(data.features, work.task.normalisation)
        return self.trainer(work.task).train(base, features, data.labels, plan, rng).delta

    def _reference(self, work: ScoreBatch) -> _Reference:
        key = (work.validator, work.round, work.base)
        known = self._references.get(key)
        if known is not None:
            return known
        data = self._data.get(work.validator)
        if data is None:
            raise Unscorable(f"delegate {work.validator.hex()[:16]} has no validation data")
        task = work.task
        try:
            base = to_float32(decode_task_model(task, self._blobs.get(work.base)))
            trained = self.train_reference(work, base, data)
            delta = from_float32(trained, fraction_bits=task.fraction_bits)
            reference = _Reference(measure(delta.parameters), encode_model(delta))
        except (
            InvalidMessage,
            StorageError,
            InvalidExamples,
            InvalidProgram,
            TrainingDiverged,
        ) as error:
            raise Unscorable(f"no reference for round {work.round}: {error}") from error
        while len(self._references) >= self.MAX_REFERENCES:
            del self._references[next(iter(self._references))]
        self._references[key] = reference
        return reference
